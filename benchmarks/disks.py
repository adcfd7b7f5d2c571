"""Trains on disks that fail, and counts what was lost: nothing should be. Linux, as root.

    python benchmarks/disks.py

Each case trains, makes the disk fail, sees the run end with status 1 and one line that names
the file, the old file load, and, when the trouble is over, plain `train` come to the same
bytes as a run without any trouble.
"""

import argparse
import contextlib
import ctypes
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]

FEMTOGPT = [sys.executable, "-c", "from femtogpt.cli import main; main(prog_name='femtogpt')"]
OPTIONS = ["--steps=300", "--batch-size=8", "--dropout=0.1", "--val-fraction=0.1",
           "--eval-every=10", "--sample-every=0"]
# As a network's or a sleeping disk: each write and fsync takes a while.
SLOW = """if True:
    import os, time
    from femtogpt import durable
    from femtogpt.cli import main
    fsync = os.fsync
    os.fsync = lambda descriptor: (time.sleep(0.3), fsync(descriptor))
    main(prog_name="femtogpt")
"""


class Case:
    """A folder with a model in it, on a disk that may fail. The runs' options beside it."""

    def __init__(self, name, folder, fresh, whole):
        from small import text

        self.name, self.folder, self.whole = name, folder, whole
        self.text = folder.parent / f"{folder.name}.txt"
        self.text.write_text(text())
        self.path = folder / "model.safetensors"
        if not self.path.parent.exists():
            self.path.parent.mkdir()
        self.path.write_bytes(fresh)
        self.wrong = []

    def start(self, *more, command=FEMTOGPT, **options):
        return subprocess.Popen(
            [*command, "train", f"--model={self.path}", f"--dataset={self.text}",
             "--save-every=10", *more], stderr=subprocess.PIPE, text=True, **options)

    def until_saved(self, process):
        from femtogpt import checkpoint

        while process.poll() is None:
            with contextlib.suppress(ValueError):
                if checkpoint.load(self.path).step > 20:
                    return
            time.sleep(0.01)

    def must_fail(self, process):
        said = process.communicate(timeout=120)[1]
        last = said.splitlines()[-1] if said else ""
        if process.returncode != 1 or "Traceback" in said or (
                f"cannot write {self.folder}/" not in last and "cannot write beside" not in last):
            self.wrong.append(f"ended with {process.returncode}: {said[-300:]}")

    def must_load(self):
        from femtogpt import checkpoint

        try:
            model = checkpoint.load(self.path)
            if model.recovered:
                self.wrong.append(model.recovered)
        except Exception as error:
            self.wrong.append(repr(error))

    def must_finish(self, *more, command=FEMTOGPT):
        from femtogpt import checkpoint

        for _ in range(2):
            process = self.start(*more, command=command)
            said = process.communicate(timeout=300)[1]
            if process.returncode:
                self.wrong.append(f"did not go on: {said[-300:]}")
                return
            if checkpoint.load(self.path).step >= 300:
                break
        if self.path.read_bytes() != self.whole:
            self.wrong.append("other bytes at the end")


def limited(size):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


def without_roots_rights():
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, for what is run next


def mounted(folder, size):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    return folder


def quota(case, size):
    case.must_fail(case.start(*OPTIONS, preexec_fn=limited(size // 2)))
    case.must_load()
    case.must_finish(*OPTIONS)


def fill_and_free(case, process):
    """The disk is filled under the run, which must fail, and freed; then it must finish."""
    hog = case.folder / "hog"
    with open(hog, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    case.must_fail(process)
    case.must_load()
    hog.unlink()
    case.must_finish()


def full(case, size):
    process = case.start(*OPTIONS)
    case.until_saved(process)
    fill_and_free(case, process)


def read_only(case, size):
    """Made unchangeable under the run; and mounted read-only before the next one starts."""
    process = case.start(*OPTIONS)
    case.until_saved(process)
    subprocess.run(["chattr", "+i", case.folder], check=True)
    case.must_fail(process)
    case.must_load()
    subprocess.run(["chattr", "-i", case.folder], check=True)
    subprocess.run(["mount", "--bind", case.folder, case.folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", case.folder], check=True)
    case.must_fail(case.start())
    case.must_load()
    subprocess.run(["umount", case.folder], check=True)
    case.must_finish()


def removed(case, size):
    process = case.start(*OPTIONS)
    case.until_saved(process)
    away = case.folder.with_name("away")
    case.folder.rename(away)
    case.must_fail(process)
    away.rename(case.folder)
    case.must_load()
    case.must_finish()


def no_permission(case, size):
    process = case.start(*OPTIONS, preexec_fn=without_roots_rights)
    case.until_saved(process)
    case.folder.chmod(0o555)
    case.must_fail(process)
    case.must_load()
    case.folder.chmod(0o755)
    case.must_finish()


def linked(case, size):
    """The model is a link to a file on another file system, which fills up."""
    link = case.folder.with_name("link.safetensors")
    link.symlink_to(case.path)
    case.path = link
    process = case.start(*OPTIONS)
    case.until_saved(process)
    fill_and_free(case, process)
    if not link.is_symlink():
        case.wrong.append("the link is one no more")


def slow(case, size):
    process = case.start(*OPTIONS, command=[sys.executable, "-c", SLOW])
    case.until_saved(process)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    if process.returncode != 143:
        case.wrong.append(f"{process.returncode}: {said[-300:]}")
    case.must_load()
    case.must_finish(command=[sys.executable, "-c", SLOW])


CASES = {"a limit on the size of files": (quota, False), "full": (full, True),
         "read-only": (read_only, False), "the folder is moved away": (removed, False),
         "no permission any more": (no_permission, False),
         "a link to another file system, full": (linked, True), "slow": (slow, False)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json

    from small import fresh_model

    from femtogpt import checkpoint

    result, failed = {}, {}
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        root.chmod(0o755)
        (root / "whole").mkdir()
        checkpoint.save(fresh_model(), root / "whole" / "model.safetensors")
        fresh = (root / "whole" / "model.safetensors").read_bytes()
        whole = Case("whole", root / "whole", fresh, None)
        whole.start(*OPTIONS).communicate()
        whole.whole = whole.path.read_bytes()
        for number, (name, (function, needs_mount)) in enumerate(CASES.items()):
            folder = root / f"{number}"
            try:
                mounted(folder, "1m") if needs_mount else folder.mkdir()
                case = Case(name, folder, fresh, whole.whole)
                function(case, len(whole.whole))
            finally:
                if needs_mount:
                    subprocess.run(["umount", "-l", folder], check=False)
            result[name], failed[name] = not case.wrong, case.wrong
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json.dumps({"tried": len(result), "lost": sum(not ok for ok in result.values()),
                          "cases": result}))
    else:
        for name, ok in result.items():
            print(f"{name}: {'nothing lost' if ok else 'LOST'}")
    for name, wrong in failed.items():
        for line in wrong:
            print(f"{name}: {line}", file=sys.stderr)
    sys.exit(any(failed.values()))


if __name__ == "__main__":
    main()
