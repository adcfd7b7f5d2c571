"""Matrix products of any strides, against numpy in float64; transposition."""

import itertools
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from femtogpt.layers import blocks, precision
from femtogpt.layers.matmul import (
    matmul,
    matmul_add,
    matmul_bias,
    narrow_matmul,
    narrow_matmul_add,
    narrow_matmul_first,
    rounded,
    symmetric_matmul,
    transpose,
)
from femtogpt.layers.numeric import kernel
from femtogpt.layers.strassen import LEAST, pays
from femtogpt.layers.vectors import HAS_BFLOAT16, LANES

COMPILED = not numba.config.DISABLE_JIT
tiles = pytest.mark.skipif(not blocks.COMPILED, reason="BLAS does them as it does all")


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@kernel
def transposed(out, x):
    transpose(out, x)


@kernel
def narrow(out, a, b):
    narrow_matmul(out, a, b)


@kernel
def narrow_add(out, a, b):
    narrow_matmul_add(out, a, b)


@kernel
def narrow_first(out, a, b, first):
    narrow_matmul_first(out, a, b, first)


SIZES = [(1, 1, 1), (3, 5, 7), (8, 16, 48), (9, 17, 49), (16, 33, 64), (7, 1, 65), (12, 8, 112)]
if COMPILED:
    SIZES += [(65, 400, 50), (320, 64, 64), (33, 769, 101), (64, 320, 192)]
    SIZES += [(401, 450, 70)]  # of this and the last, a is turned where it is transposed
    SIZES += [(450, 40, 230)]  # b is read where it lies; packed, in blocks of 12, 12 and 3
    SIZES += [(40, 400, 422), (120, 400, 390)]  # registers, and of 12, 11 and 2
    SIZES += [(520, 400, 120)]  # none of these is Strassen's


def strided(array, layout):
    """The array's numbers with other strides: "row", "column" major or part of a larger one."""
    if layout == "column":
        return array.T.copy().T
    if layout == "part":
        larger = np.full((array.shape[0] + 2, array.shape[1] + 5), np.nan, array.dtype)
        larger[1:-1, 3:-2] = array
        return larger[1:-1, 3:-2]
    return array.copy()


def tolerance(a, b):
    """What the product may be wrong by: rounding grows with the length of the sums."""
    eps = np.finfo(a.dtype).eps
    return 4 * eps * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) + 4 * eps


def assert_product(out, a, b, start=0.0):
    exact = a.astype(np.float64) @ b.astype(np.float64) + start
    allowed = tolerance(a, b) + 4 * np.finfo(a.dtype).eps * np.abs(start)
    assert (np.abs(out - exact) <= allowed).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layouts", [
    ("row", "row"), ("row", "column"), ("column", "row"), ("part", "part"),
])
def test_matmul_of_any_strides(layouts, dtype):
    for N, K, M in SIZES:
        a = strided(normal(N, K).astype(dtype), layouts[0])
        b = strided(normal(K, M, seed=1).astype(dtype), layouts[1])
        out = np.full((N, M), np.nan, dtype)
        matmul(out, a, b)
        assert_product(out, a, b)
        np.testing.assert_array_equal(a, normal(N, K).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_writes_its_part_of_a_larger_array_only(dtype):
    for N, K, M in SIZES:
        a, b = normal(N, K).astype(dtype), normal(K, M, seed=1).astype(dtype)
        larger = np.full((N + 2, M + 7), 5, dtype)
        out = larger[1:-1, 3:-4]
        matmul(out, strided(a, "part"), strided(b, "part"))
        assert_product(out, a, b)
        out[...] = 5
        assert (larger == 5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_add_adds_and_matmul_bias_begins_with_the_bias(dtype):
    for N, K, M in SIZES:
        a, b = normal(N, K).astype(dtype), normal(K, M, seed=1).astype(dtype)
        bias, start = normal(M).astype(dtype), normal(N, M, seed=2).astype(dtype)
        out = np.full((N, M), np.nan, dtype)
        matmul_bias(out, a, b, bias)
        assert_product(out, a, b, bias.astype(np.float64))
        out[...] = start
        matmul_add(out, strided(a, "column"), b)  # as linear_backward calls it
        assert_product(out, a, b, start.astype(np.float64))


@tiles
def test_narrow_products_of_any_number_of_rows_and_columns():
    """In float32: others are matmul's, and attention's gradient check is of them."""
    dtype, rows = np.float32, [*range(1, 42), 80]
    for N, M, layout in itertools.product(rows, (1, 16, 20, 32, 40), ("row", "column", "part")):
        K = 1 + (7 * N + M) % 24
        a, b = normal(N, K).astype(dtype), normal(K, M, seed=1).astype(dtype)
        strided_a, strided_b = strided(a, layout), strided(b, "part")
        larger = np.full((N + 2, M + 7), 5, dtype)
        out = larger[1:-1, 3:-4]
        narrow(out, strided_a, strided_b)
        assert_product(out, a, b)
        matmul(expected := np.empty_like(out), strided_a, strided_b)
        np.testing.assert_array_equal(out, expected)
        narrow_add(out, strided_a, strided_b)
        assert_product(out, 2 * a, b)
        narrow_first(out, strided_a, strided_b, True)
        np.testing.assert_array_equal(out, expected)
        narrow_first(out, strided_a, strided_b, False)
        assert_product(out, 2 * a, b)
        out[...] = 5
        assert (larger == 5).all()


# Rows, a number of the sum, columns left over; several blocks; the least; rows of out of which not
# each begins at a line of the cache.
LARGE = [(143, 321, 336), (400, 901, 352), (133, LEAST + 1, LEAST + LANES), (130, 330, 341)]


@tiles
@pytest.mark.parametrize("layouts", [("row", "row"), ("row", "column"), ("column", "row"),
                                     ("column", "column"), ("part", "part")])
def test_large_products_by_strassen(layouts):
    """Their errors are not of each sum's numbers but of the largest of a and b: Higham,
    "Accuracy and stability of numerical algorithms", 23.2.2."""
    for N, K, M in LARGE:
        a = strided(normal(N, K).astype(np.float32), layouts[0])
        b = strided(normal(K, M, seed=1).astype(np.float32), layouts[1])
        larger = np.full((N + 2, M + 32), 5, np.float32)
        out = larger[1:-1, 16:-16]
        assert pays(N, K, M)
        bias, start = normal(M).astype(np.float32), normal(N, M, seed=2).astype(np.float32)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        allowed = 8 * np.finfo(np.float32).eps * np.sqrt(K) * np.abs(a).max() * np.abs(b).max()
        matmul(out, a, b)
        assert np.abs(out - exact).max() <= allowed
        matmul_bias(out, a, b, bias)
        assert np.abs(out - exact - bias).max() <= allowed
        out[...] = start
        matmul_add(out, a, b)
        assert np.abs(out - exact - start).max() <= allowed
        a[7, 3] = np.nan
        matmul(out, a, b)
        assert np.isnan(out[7]).all()
        out[...] = 5
        assert (larger == 5).all()


@tiles
def test_a_large_product_holds_its_space_to_its_end():
    """In a process where what is freed is gone at once, by glibc's malloc."""
    code = ("import numpy as np\n"
            "from femtogpt.layers.matmul import matmul\n"
            "a, b = np.ones((400, 900), np.float32), np.ones((900, 352), np.float32)\n"
            "out = np.zeros((400, 352), np.float32)\n"
            "matmul(out, a, b)\n"
            "assert (out == 900).all()")
    subprocess.run([sys.executable, "-c", code], check=True,
                   env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetric_matmul_is_the_product(dtype):
    for N, K in [(1, 3), (7, 2), (48, 5), (49, 60), (130, 20), (515, 20)]:
        a = normal(N, K).astype(dtype)
        out = np.full((N, N), np.nan, dtype)
        symmetric_matmul(out, a, a.T)
        assert_product(out, a, a.T)


def test_a_large_symmetric_matmul_is_the_product():
    a = normal(640, 330).astype(np.float32)  # below its diagonal, by Strassen
    out = np.full((640, 640), np.nan, np.float32)
    symmetric_matmul(out, a, a.T)
    exact = a.astype(np.float64) @ a.T.astype(np.float64)
    assert np.abs(out - exact).max() < 4e-6 * exact.max()  # which lies on the diagonal
    np.testing.assert_array_equal(out, out.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transpose_turns_its_part_of_a_larger_array_only(dtype):
    for N, M in [(1, 1), (3, 5), (16, 16), (17, 33), (8, 64), (50, 7)]:
        x = normal(N, M).astype(dtype)
        larger = np.full((M + 2, N + 7), 5, dtype)
        out = larger[1:-1, 3:-4]
        transposed(out, strided(x, "part"))
        np.testing.assert_array_equal(out, x.T)
        out[...] = 5
        assert (larger == 5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_keeps_nan(dtype):
    for row in (0, 8, 16):
        a, b = np.ones((17, 40), dtype), np.ones((40, 50), dtype)
        a[row, 39] = np.nan
        out = np.zeros((17, 50), dtype)
        matmul(out, a, b)
        assert np.isnan(out[row]).all() and (np.delete(out, row, 0) == 40).all()


def test_rounding_to_bfloat16_is_to_the_nearest_and_half_to_even():
    step = 2**-7  # between two of its numbers from 1 to 2
    x = np.float32([1, 1 + 0.49 * step, 1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -1 - step,
                    0, 3e38, np.inf])
    wanted = np.float32([1, 1, 1, 1 + 2 * step, 1 + step, -1 - step, 0, 3.0041e38, np.inf])
    np.testing.assert_allclose(rounded(x), wanted, rtol=1e-4)
    np.testing.assert_array_equal(rounded(x)[:7], wanted[:7])


of_bfloat16 = pytest.mark.skipif(COMPILED and not HAS_BFLOAT16,
                                 reason="this processor has no products of bfloat16")


@of_bfloat16
@pytest.mark.parametrize("layouts", [("row", "row"), ("row", "column"), ("column", "row"),
                                     ("column", "column"), ("part", "part")])
def test_products_of_bfloat16(layouts):
    """What is rounded is multiplied exactly, and sums are float32's."""
    flag = precision.use("bf16")
    # Of k two blocks, of a two, of these and of b two.
    sizes = [*SIZES, *[(50, 801, 20), (500, 700, 30), (400, 700, 230)] * COMPILED]
    for N, K, M in sizes:
        a = strided(normal(N, K).astype(np.float32), layouts[0])
        b = strided(normal(K, M, seed=1).astype(np.float32), layouts[1])
        larger = np.full((N + 2, M + 7), 5, np.float32)
        out = larger[1:-1, 3:-4]
        bias, start = normal(M).astype(np.float32), normal(N, M, seed=2).astype(np.float32)
        matmul(out, a, b, flag)
        assert_product(out, rounded(a), rounded(b))
        matmul_bias(out, a, b, bias, flag)
        assert_product(out, rounded(a), rounded(b), bias.astype(np.float64))
        out[...] = start
        matmul_add(out, a, b, flag)
        assert_product(out, rounded(a), rounded(b), start.astype(np.float64))
        out[...] = 5
        assert (larger == 5).all()


@of_bfloat16
def test_a_product_of_bfloat16_keeps_nan():
    for row in (0, 8, 16):
        a, b = np.ones((17, 41), np.float32), np.ones((41, 50), np.float32)
        a[row, 40] = np.nan
        out = np.zeros((17, 50), np.float32)
        matmul(out, a, b, precision.use("bf16"))
        assert np.isnan(out[row]).all() and (np.delete(out, row, 0) == 41).all()
