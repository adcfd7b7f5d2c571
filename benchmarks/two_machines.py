"""Two ranks on two "machines": what the way between them costs, and that the bytes are the same.

    sudo python benchmarks/two_machines.py           some five minutes

The machines are two network namespaces of this one, each with a hostname and a folder of its own,
joined by a link whose delay and rate are made by this program, packet by packet (tc's netem, which
would do it, is not in every kernel). mpiexec starts a rank in each as it would by ssh; MPI has TCP
alone. Linux, as root, with iproute2 and MPICH's mpiexec. Both ranks and the link share this
machine's processors, so that the times tell what a link adds, not what two machines gain.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import select
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

STEPS = 60
MACHINES = {"femtogpt-a": "10.99.83.1", "femtogpt-b": "10.99.83.2"}  # namespace -> address
LINKS = ((0.2, 1), (1, 1), (10, 0.1))  # ms each way, Gbit/s
DEVICE = "away"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# What mpiexec takes for ssh: "launcher [options] HOST COMMAND", the command for a shell.
LAUNCHER = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in {cases} esac
shift
exec ip netns exec $machine unshare --uts sh -c "hostname $machine; exec $*"
"""


def ip(*arguments, **options):
    return subprocess.run(["ip", *arguments], check=True, **options)


def relay(delay_ms, gigabits):
    """Carries packets between the machines, for ever, after the delay and no faster than that."""
    delay, rate = delay_ms / 1e3, gigabits * 1e9 / 8
    ends = []
    for number, (machine, address) in enumerate(MACHINES.items()):
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        made = f"{DEVICE}{number}"
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", made.encode(), IFF_TUN | IFF_NO_PI))
        ip("link", "set", made, "netns", machine)
        ip("-n", machine, "link", "set", made, "name", DEVICE)
        ip("-n", machine, "addr", "add", f"{address}/24", "dev", DEVICE)
        ip("-n", machine, "link", "set", DEVICE, "mtu", "9000", "txqueuelen", "2000", "up")
        ends.append(end)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    free, queues = dict.fromkeys(ends, 0.0), {end: collections.deque() for end in ends}
    print("up", flush=True)
    while True:
        now = time.monotonic()
        for end, queue in queues.items():
            while queue and queue[0][0] <= now:
                os.write(end, queue.popleft()[1])
        due = min((queue[0][0] for queue in queues.values() if queue), default=now + 1)
        for end in select.select(ends, [], [], max(0, due - time.monotonic()))[0]:
            for _ in range(64):
                try:
                    packet = os.read(end, 65536)
                except BlockingIOError:
                    break
                to = other[end]
                free[to] = max(time.monotonic(), free[to]) + len(packet) / rate
                queues[to].append((free[to] + delay, packet))


@contextlib.contextmanager
def machines():
    for machine in MACHINES:
        ip("netns", "add", machine)
        ip("-n", machine, "link", "set", "lo", "up")
    try:
        yield
    finally:
        for machine in MACHINES:
            ip("netns", "del", machine)


@contextlib.contextmanager
def link(delay_ms, gigabits):
    command = [sys.executable, __file__, "--relay", str(delay_ms), str(gigabits)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def bytes_sent():
    """By both machines together, since the link is up."""
    total = 0
    for machine in MACHINES:
        said = ip("-n", machine, "-s", "-j", "link", "show", DEVICE, capture_output=True).stdout
        total += json.loads(said)[0]["stats64"]["tx"]["bytes"]
    return total


class Training:
    """The same one each time, in a folder a machine."""

    def __init__(self, root):
        self.root = Path(root)
        self.folders = [self.root / machine for machine in MACHINES]
        cases = " ".join(f"{address}) machine={machine};;" for machine, address in MACHINES.items())
        self.launcher = self.root / "launcher"
        self.launcher.write_text(LAUNCHER.format(cases=cases))
        self.launcher.chmod(0o755)
        self.hosts = self.root / "hosts"
        self.hosts.write_text("".join(f"{address}:1\n" for address in MACHINES.values()))
        text = Path(__file__).resolve().parents[1] / "texts" / "shakespeare.txt"
        for folder in self.folders:
            folder.mkdir()
            (folder / "dataset.txt").write_bytes(text.read_bytes())
            subprocess.run(self.femtogpt("init", folder), check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        self.fresh = (self.folders[0] / "model").read_bytes()

    def femtogpt(self, command, folder):
        return [sys.executable, "-m", "femtogpt", command, f"--model={folder / 'model'}"]

    def run(self, prefix, ranks, apart=False):
        """(median ms of a step, the model's bytes) of a run. apart: each in its own folder."""
        commands = []
        for folder in self.folders[:ranks]:
            (folder / "model").write_bytes(self.fresh)
            (folder / "log").unlink(missing_ok=True)
            own = folder if apart else self.folders[0]
            commands += [":", "-n", "1"] if commands else ["-n", "1"] if prefix else []
            commands += [*self.femtogpt("train", own), f"--dataset={own / 'dataset.txt'}",
                         f"--steps={STEPS}", "--threads=1", "--sample-every=0", "--eval-every=20",
                         f"--save-every={STEPS // 2}", f"--log={own / 'log'}"]
        subprocess.run([*prefix, *commands], check=True, stderr=subprocess.DEVNULL,
                       env=os.environ | {"UCX_TLS": "tcp,self"} if apart else None)
        log = [json.loads(line) for line in (self.folders[0] / "log").read_text().splitlines()]
        return statistics.median(row["ms"] for row in log), (self.folders[0] / "model").read_bytes()

    def over(self, mpiexec, delay_ms, gigabits):
        first = next(iter(MACHINES))
        at = ["ip", "netns", "exec", first, "unshare", "--uts", "sh", "-c",
              f'hostname {first}; exec "$0" "$@"']
        with link(delay_ms, gigabits):
            ms, model = self.run([*at, mpiexec, "-launcher", "ssh", "-launcher-exec",
                                  str(self.launcher), "-iface", DEVICE, "-f",
                                  str(self.hosts)], 2, True)
            return ms, model, bytes_sent() / STEPS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--relay", nargs=2, type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        relay(*options.relay)

    mpiexec = str(Path(sysconfig.get_path("scripts")) / "mpiexec")
    rows = []
    with tempfile.TemporaryDirectory() as root, machines():
        training = Training(root)
        training.run([], 1)  # all is compiled then
        ms, alone = training.run([], 1)
        rows.append({"ranks": "one process, one thread", "ms": ms, "same": True})
        ms, model = training.run([mpiexec], 2)
        rows.append({"ranks": "two ranks, one machine", "ms": ms, "same": model == alone})
        for delay_ms, gigabits in LINKS:
            ms, model, sent = training.over(mpiexec, delay_ms, gigabits)
            rows.append({"ranks": f"two machines, {delay_ms:g} ms, {gigabits:g} Gbit/s", "ms": ms,
                         "mb_a_step": sent / 1e6, "same": model == alone})
    if options.json:
        print(json.dumps(rows))
    else:
        print("| | ms a step | MB sent a step, by both | the same bytes |",
              "| --- | ---: | ---: | --- |", sep="\n")
        for row in rows:
            sent = f"{row['mb_a_step']:.2f}" if "mb_a_step" in row else ""
            print(f"| {row['ranks']} | {row['ms']:.1f} | {sent} | "
                  f"{'yes' if row['same'] else 'NO'} |")
    sys.exit(not all(row["same"] for row in rows))


if __name__ == "__main__":
    main()
