"""A linear map.

    out = x weight + bias

    dx = dout weight^T     dweight = x^T dout     dbias = sum of dout's rows
"""

from .matmul import matmul, matmul_add, matmul_bias
from .numeric import kernel
from .rows import add_row


@kernel
def linear_forward(out, x, weight, bias):
    """Overwrites out."""
    # out: (N, O)   x: (N, I)   weight: (I, O)   bias: (O,) or None
    if bias is None:
        matmul(out, x, weight)
    else:
        matmul_bias(out, x, weight, bias)


@kernel
def linear_backward(dx, dweight, dbias, dout, x, weight):
    """Overwrites dx; adds to dweight, and to dbias unless that is None."""
    # dx, x: (N, I)   dweight, weight: (I, O)   dbias: (O,) or None   dout: (N, O)
    matmul(dx, dout, weight.T)
    matmul_add(dweight, x.T, dout)
    if dbias is not None:
        for n in range(dout.shape[0]):
            add_row(dbias, dbias, dout[n], dbias.size)
