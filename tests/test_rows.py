"""Row and column functions: one formula, traced as vectors or computed by numpy; the hash."""

import naive
import numba
import numpy as np
import pytest

from femtogpt.layers.dropout import hash32
from femtogpt.layers.formulas import exp, exp2, fma
from femtogpt.layers.numeric import kernel
from femtogpt.layers.panels import dot_down, exp2_along, exp2_down, largest_down
from femtogpt.layers.rows import (
    add_row,
    copy_row,
    dot_row,
    exp_row,
    fill_row,
    largest,
    row_function,
    scale_row,
    sum_row,
)

COMPILED = not numba.config.DISABLE_JIT
COUNTS = (1, 2, 15, 16, 17, 32, 48, 50)
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@row_function(outputs=1)
def exp_each(x):
    return exp(x)


@row_function(outputs=1)
def exp2_each(x):
    return exp2(x)


@row_function(outputs=2, inputs=3, scalars=1, totals=["+", "max"])
def everything(x, y, z, factor):
    """More than one of each kind, with numbers and signs on either side."""
    return fma(x, y, z), (1 - x) * factor - y / 2, -x, 2 - z


@kernel
def exp_of_all(out, x):
    exp_each(out, x, x.size)


@kernel
def exp2_of_all(out, x):
    exp2_each(out, x, x.size)


@kernel
def everything_of(out, other, x, y, z, count, factor):
    return everything(out, other, x, y, z, count, factor)


@kernel
def rows_of(results, outs, x, y, count, most):
    results[0], results[1], results[2] = largest(x, count), sum_row(x, count), dot_row(x, y, count)
    results[3] = exp_row(outs[0], x, count, most, 0.7)
    copy_row(outs[1], x, count)
    fill_row(outs[2], count, 4)
    add_row(outs[3], x, y, count)
    scale_row(outs[4], x, count, 3)


@kernel
def exp_row_of(out, x, most, scale):
    return exp_row(out, x, x.size, most, scale)


@kernel
def largest_of(row, count):
    return largest(row, count)


@kernel
def columns_of(most, total, dots, e, along, s, other, levels, count):
    width = s.shape[1]
    largest_down(most, s, count, width)
    exp2_down(total, e, s, most, count, width)
    exp2_along(along, s, levels, count, width)
    dot_down(dots, s, other, count, width)


@kernel
def hash_of_all(out, first, key):
    for i in range(out.size):
        out[i] = hash32(np.uint64(first + i), key)


@both_types
def test_exp_is_accurate_over_its_range(dtype):
    x = np.concatenate([np.linspace(-87, 88, 20_001), np.linspace(-1, 1, 20_001), [0, -0.0]])
    x = x.astype(dtype)
    out = np.empty_like(x)
    exp_of_all(out, x)
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(out - exact) / exact
    if dtype == np.float64:
        assert error.max() < 1e-15
    else:  # numpy's own float32, which runs with the JIT off, errs by 2e-7
        assert error[np.abs(x) <= 20].max() < (1.3e-7 if COMPILED else 2e-7)
        assert error.max() < 3.2e-7
    assert (out[-2:] == 1).all()


@both_types
def test_exp2_is_accurate_over_its_range(dtype):
    x = np.concatenate([np.linspace(-125, 127, 20_001), np.linspace(-1, 1, 20_001), [0, -0.0]])
    x = x.astype(dtype)
    out = np.empty_like(x)
    exp2_of_all(out, x)
    exact = np.exp2(x.astype(np.longdouble))
    error = np.abs(out - exact) / exact
    float32 = 1.3e-7 if COMPILED else 2e-7  # numpy's own
    assert error.max() < (float32 if dtype == np.float32 else 1e-15)
    assert (out[-2:] == 1).all()


@both_types
@pytest.mark.parametrize("of_all", [exp_of_all, exp2_of_all])
def test_exp_of_nan_and_of_huge_numbers(of_all, dtype):
    x = np.array([np.nan, -np.nan, -130, -1e30, -np.inf, 127, 1e30, np.inf] * 5, dtype)
    out = np.empty_like(x)
    of_all(out, x)
    out = out.reshape(5, 8)
    assert np.isnan(out[:, :2]).all()
    assert (out[:, 2:5] >= 0).all() and (out[:, 2:5] < 1e-37).all()
    assert (out[:, 5:] > 1e38).all()


@both_types
def test_largest_is_the_maximum_of_the_first_count(dtype):
    for count in (*COUNTS, 33):
        for shift in (-10, 0, 10):
            row = (normal(60, seed=count) + shift).astype(dtype)
            row[count:] = 1000
            assert largest_of(row, count) == row[:count].max()
    row = np.array([-np.inf, -3, np.inf, 7], dtype)
    assert largest_of(row, 1) == -np.inf
    assert largest_of(row, 2) == -3
    assert largest_of(row, 4) == np.inf
    assert largest_of(np.array([-0.0, -1], dtype), 2) == 0


@both_types
def test_row_functions_do_what_they_say_and_touch_no_more_than_count(dtype):
    size = 55
    for count in COUNTS:
        x, y = (normal(size, seed=s).astype(dtype) for s in (count, count + 100))
        x[count:] = y[count:] = np.nan
        results, outs = np.zeros(4, dtype), np.full((5, size), 5, dtype)
        most = x[:count].max()
        rows_of(results, outs, x, y, count, most)
        xs, ys = x[:count].astype(np.float64), y[:count].astype(np.float64)
        exps = np.exp((xs - most) * 0.7)
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(results, [most, xs.sum(), xs @ ys, exps.sum()], **close)
        expected = (exps, xs, np.full(count, 4), xs + ys, 3 * xs)
        for out, right in zip(outs, expected, strict=True):
            np.testing.assert_allclose(out[:count], right, **close)
            assert (out[count:] == 5).all()


@both_types
def test_a_formula_of_many_outputs_and_totals_is_computed_as_written(dtype):
    for count in COUNTS:
        x, y, z = (normal(55, seed=s).astype(dtype) for s in (count, count + 1, count + 2))
        out, other = np.full(55, 5, dtype), np.full(55, 5, dtype)
        total, most = everything_of(out, other, x, y, z, count, 3)
        close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12}
        xs, ys, zs = (v[:count].astype(np.float64) for v in (x, y, z))
        np.testing.assert_allclose(out[:count], xs * ys + zs, **close)
        np.testing.assert_allclose(other[:count], (1 - xs) * 3 - ys / 2, **close)
        np.testing.assert_allclose([total, most], [-xs.sum(), (2 - zs).max()], **close)
        assert (out[count:] == 5).all() and (other[count:] == 5).all()


@both_types
def test_column_functions_go_down_the_first_count_rows(dtype):
    for count in (1, 2, 7):
        s, other = (normal(9, 32, seed=n).astype(dtype) for n in (1, 2))
        s[count:] = np.nan
        e, along = np.full((2, 9, 32), 5, dtype)
        levels = normal(9, seed=3).astype(dtype)
        most, total, dots = (np.full(32, np.nan, dtype) for _ in range(3))
        columns_of(most, total, dots, e, along, s, other, levels, count)
        part = s[:count].astype(np.float64)
        exps = np.exp2(part - part.max(0))
        close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12}
        np.testing.assert_array_equal(most, s[:count].max(0))
        np.testing.assert_allclose(e[:count], exps, **close)
        np.testing.assert_allclose(total, exps.sum(0), **close)
        np.testing.assert_allclose(dots, (part * other[:count]).sum(0), **close)
        np.testing.assert_allclose(along[:count], np.exp2(part - levels[:count, None]), **close)
        assert (e[count:] == 5).all() and (along[count:] == 5).all()


@both_types
def test_exponentials_reach_over_the_whole_range_and_keep_nan(dtype):
    x = np.linspace(-124, 0, 20_001).astype(dtype)
    out, scale = np.empty_like(x), dtype(0.7)
    total = exp_row_of(out, x, dtype(0), scale)
    exact = np.exp((x * scale).astype(np.longdouble))
    error = np.abs(out - exact) / exact
    assert error.max() < (3.2e-7 if dtype == np.float32 else 1e-15)
    assert total == pytest.approx(float(exact.sum()), rel=1e-5)
    for at in (0, 7, 40):
        for value in (np.nan, -np.nan, np.inf):
            row = np.zeros(41, dtype)
            row[at] = value
            with np.errstate(invalid="ignore"):
                assert np.isnan(exp_row_of(row, row, largest_of(row, 41), scale)), value
    row = np.array([-np.inf, 0, -1e30], dtype)
    exp_row_of(row, row, dtype(0), scale)
    np.testing.assert_allclose(row, [0, 1, 0], atol=1e-37)


def test_hash_is_that_of_pure_python_integers():
    rng = np.random.default_rng(0)
    edges = [0, 1, 2**16, 2**31, 2**32 - 1]
    numbers = [(x, k) for x in edges for k in edges]
    numbers += rng.integers(0, 2**32, (500, 2)).tolist()
    for x, key in numbers:
        assert int(hash32(np.uint64(x), np.uint64(key))) == naive.hash32(x, key)


def test_hash_of_successive_numbers_is_uniform():
    count = 65_536 if COMPILED else 4_096
    out, other = np.empty(count, np.uint64), np.empty(count, np.uint64)
    for key in (0, 1, 2**32 - 1, 123456789):
        hash_of_all(out, 0, np.uint64(key))
        assert len(np.unique(out)) == count  # one to one
        for bits in (out >> np.uint64(24), out & np.uint64(255)):
            found = np.bincount(bits.astype(int), minlength=256)
            chi_square = np.sum((found - count / 256) ** 2) / (count / 256)
            assert 140 < chi_square < 400  # 255 +- 5 standard deviations
        # The next key's numbers have nothing to do with these.
        hash_of_all(other, 0, np.uint64((key + 1) % 2**32))
        same = np.mean((out < 2**31) == (other < 2**31))
        assert abs(same - 0.5) < 2.5 / np.sqrt(count)
        assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 5 / np.sqrt(count)
