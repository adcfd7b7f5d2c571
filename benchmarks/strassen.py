"""Strassen's products beside plain ones: how fast, and how far from exact ones.

    python benchmarks/strassen.py            those of configurations D, E and F of steps.py

On one thread, in turns, of numbers drawn from N(0, 1), which stay in the caches. GFLOPS count a
plain product's operations for both. Errors are the largest of out, over its largest number, against
float64. forward is x W, input dout W^T, weight x^T dout, of N positions, I numbers in and O out.
"""

import argparse
import json
import statistics
import time

import numpy as np
from contest import machine, print_heading, row
from steps import CONFIGURATIONS

from femtogpt.layers.blocks import tiled
from femtogpt.layers.numeric import kernel
from femtogpt.layers.strassen import pays, strassen
from femtogpt.layers.vectors import address_of
from femtogpt.tensors import lined_up


@kernel
def plain_product(out, a, b):
    tiled(address_of(out), out.strides[0] // 4, 0, 0, address_of(a), a.strides[0] // 4,
          a.strides[1] // 4, address_of(b), b.strides[0] // 4, b.strides[1] // 4, a.shape[0],
          a.shape[1], b.shape[1])


@kernel
def strassen_product(out, a, b):
    strassen(address_of(out), out.strides[0] // 4, 0, 0, address_of(a), a.strides[0] // 4,
             a.strides[1] // 4, address_of(b), b.strides[0] // 4, b.strides[1] // 4, a.shape[0],
             a.shape[1], b.shape[1])


def normal(rng, *shape):
    array = lined_up(shape)
    array[...] = rng.standard_normal(shape, np.float32)
    return array


def products(name, positions):
    """(kind, N, I, O, a, b) of a block's linear maps that Strassen is chosen for."""
    C, rng = CONFIGURATIONS[name][2], np.random.default_rng(0)
    for I, O in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)):
        x, w, dout = normal(rng, positions, I), normal(rng, I, O), normal(rng, positions, O)
        for kind, a, b in (("forward", x, w), ("input", dout, w.T), ("weight", x.T, dout)):
            if pays(*a.shape, b.shape[1]):
                yield kind, positions, I, O, a, b


def measure(a, b, seconds):
    """(GFLOPS, largest error) of both."""
    exact, out = a.astype(np.float64) @ b.astype(np.float64), lined_up((a.shape[0], b.shape[1]))
    times, errors = ([], []), []
    for product in (plain_product, strassen_product):
        product(out, a, b)
        errors.append(float(np.abs(out - exact).max() / np.abs(exact).max()))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for product, took in zip((plain_product, strassen_product), times, strict=True):
            before = time.perf_counter()
            for _ in range(5):
                product(out, a, b)
            took.append((time.perf_counter() - before) / 5)
    work = 2e-9 * exact.size * a.shape[1]
    return [work / statistics.median(took) for took in times], errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("DEF"))
    parser.add_argument("--positions", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=2, help="for each product")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(machine(), "\n")
        print_heading("", "N I O", "plain", "Strassen", "ratio", "error", "Strassen's")
    for name in options.configurations:
        for kind, N, I, O, a, b in products(name, options.positions):
            (plain, ours), (error, our_error) = measure(a, b, options.seconds)
            if options.json:
                print(json.dumps({"configuration": name, "product": kind, "shape": [N, I, O],
                                  "gflops": [plain, ours], "errors": [error, our_error]}))
            else:
                print(row(f"{name} {kind}", f"{N} {I} {O}", f"{plain:.0f}", f"{ours:.0f}",
                          f"{ours / plain:.2f}", f"{error:.1e}", f"{our_error:.1e}"), flush=True)


if __name__ == "__main__":
    main()
