"""A linear map.

    out = x weight + bias

    dx = dout weight^T     dweight = x^T dout     dbias = sum of dout's rows

bfloat16: what the products multiply, as in matmul.py.
"""

from .matmul import matmul, matmul_bias, matmul_first
from .numeric import inlined, kernel
from .rows import add_sum_of_rows


@kernel
def linear_forward(out, x, weight, bias, bfloat16=None):
    """Overwrites out."""
    # out: (N, O)   x: (N, I)   weight: (I, O)   bias: (O,) or None
    if bias is None:
        matmul(out, x, weight, bfloat16)
    else:
        matmul_bias(out, x, weight, bias, bfloat16)


@kernel
def linear_backward(dx, dweight, dbias, dout, x, weight, first=False, bfloat16=None):
    """Overwrites dx, and dweight if that is the first time; else adds to it. Adds to dbias, unless
    that is None."""
    # dx, x: (N, I)   dweight, weight: (I, O)   dbias: (O,) or None   dout: (N, O)
    matmul(dx, dout, weight.T, bfloat16)
    parameters_backward(dweight, dbias, dout, x, first, bfloat16)


@inlined
def parameters_backward(dweight, dbias, dout, x, first=False, bfloat16=None):
    """linear_backward without dx."""
    matmul_first(dweight, x.T, dout, first, bfloat16)
    if dbias is not None:
        add_sum_of_rows(dbias, dout)
