"""How long a training step takes, ours beside PyTorch's.

    python benchmarks/steps.py            configurations A to G (H: 12 GB, three minutes)
    python benchmarks/steps.py A F --json

PyTorch as pip installs it; opened, that is with its MKL's fast paths on AMD processors too
(contest.py says how); and ours, each in a process of its own, in turns. Medians. Only ratios
and shares mean something on a machine that does other work too.
"""

import argparse
import contextlib
import json
import tempfile

import contest

from femtogpt.machine import available_processors

# V, T, C, L, NH, batch size
CONFIGURATIONS = {
    "A": (256, 64, 64, 4, 4, 32),
    "B": (256, 80, 80, 4, 4, 32),
    "C": (256, 80, 144, 6, 6, 32),
    "D": (566, 80, 160, 8, 8, 32),
    "E": (1054, 80, 192, 8, 8, 32),
    "F": (1054, 80, 768, 8, 16, 32),
    "G": (65, 64, 128, 4, 4, 12),
    "H": (50257, 256, 768, 12, 12, 4),
}


def flops(shape):
    """Of a training step, products alone: 6 a matrix element and position, and attention's
    lower triangles (2 products forward, 4 backward, half of T each)."""
    V, T, C, L, _, batch_size = shape
    matrices = L * 12 * C * C + C * V
    return batch_size * T * (6 * matrices + L * 6 * 2 * C * T / 2)


def measure(shape, threads, seconds, optimizer="adamw", vectors=None, peers=(),
            precision="float32", text=None):
    """The figures of one shape, as a dict. peers: as contest.peers finds them."""
    environment = {"FEMTOGPT_VECTORS": vectors} if vectors else None
    with contextlib.ExitStack() as stack:
        def start(*arguments):
            return stack.enter_context(contest.Contestant(*arguments, text=text))

        ours = start("ours", threads, shape, optimizer, environment, precision)
        others = {name: start("torch", threads, shape, "adamw", opened, precision)
                  for name, opened in peers}
        if precision != "float32":
            others["float32"] = start("ours", threads, shape, optimizer, environment, "float32")
        # The peak beside each configuration: the machine's speed drifts.
        sgemm = start("sgemm", min(threads, available_processors()))
        load = contest.alternate([ours, *others.values(), sgemm], seconds)
    speed = flops(shape) / ours.median / 1e6
    result = {"ms": ours.median, "gflops": speed, "peak_gflops": sgemm.gflops,
              "share_of_peak": speed / sgemm.gflops, "resident_mb": ours.answer["resident_mb"],
              "vectors": ours.ready["vectors"], "counted_steps": len(ours.ms)}
    for name, other in others.items():
        result |= {f"{name}_ms": other.median, f"{name}_ratio": other.median / ours.median,
                   f"{name}_resident_mb": other.answer["resident_mb"]}
    return result | load


# Heading, key, format.
COLUMNS = (
    ("ours ms", "ms", ".1f"), ("torch ms", "torch_ms", ".1f"), ("opened ms", "opened_ms", ".1f"),
    ("torch/us", "torch_ratio", ".2f"), ("opened/us", "opened_ratio", ".2f"),
    ("GFLOPS", "gflops", ".0f"), ("sgemm", "peak_gflops", ".0f"),
    ("of sgemm", "share_of_peak", ".0%"), ("ours MB", "resident_mb", ".0f"),
    ("torch MB", "torch_resident_mb", ".0f"), ("others", "others", ".0%"),
    ("stolen", "stolen", ".0%"),
)
FLOAT32 = (("float32 ms", "float32_ms", ".1f"), ("f32/us", "float32_ratio", ".2f"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("ABCDEFG"))
    parser.add_argument("--threads", type=int, default=available_processors())
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw",
                        help="ours; PyTorch's is always AdamW")
    parser.add_argument("--seconds", type=float, default=20, help="for each configuration")
    parser.add_argument("--vectors", choices=("avx512", "avx2", "neon", "none"),
                        help="the processor's that ours uses [default: its widest]")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                        help="of products, PyTorch's by its autocast; bf16: ours in float32 too")
    parser.add_argument("--text", metavar="FILE",
                        help="to train on: its bytes, letters or BPE [default: random tokens]")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.configurations) - set(CONFIGURATIONS):
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    common = {"machine": contest.machine(), "threads": options.threads, "text": options.text,
              "optimizer": options.optimizer, "precision": options.precision}
    columns = COLUMNS if options.precision == "float32" else COLUMNS + FLOAT32
    with tempfile.TemporaryDirectory() as folder:
        peers, missing = ([], []) if options.no_torch else contest.peers(folder)
        if not options.json:
            chosen = ", ".join(filter(None, (
                options.optimizer, options.precision, options.vectors, options.text)))
            print(f"{contest.machine()}, {options.threads} threads, {chosen}", *missing, "",
                  sep="\n")
            contest.print_heading("", *(heading for heading, _, _ in columns))
        for name in options.configurations:
            result = measure(CONFIGURATIONS[name], options.threads, options.seconds,
                             options.optimizer, options.vectors, peers, options.precision,
                             options.text)
            if options.json:
                print(json.dumps({"configuration": name, **result, **common,
                                  "missing": missing}), flush=True)
            else:
                print(contest.row(name, *(contest.shown(result.get(key), form)
                                          for _, key, form in columns)), flush=True)


if __name__ == "__main__":
    main()
