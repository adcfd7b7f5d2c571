"""Muon (Jordan 2024), the optimizer of the blocks' matrices, q, k and v each by itself:

    b <- 0.85 b + 0.15 g     u = orthogonalise(0.15 g + 0.85 b)
    W <- W - lr sqrt(max(1, out/in)) u
"""

import numpy as np

from .layers.matmul import matmul, symmetric_matmul, transpose
from .layers.numeric import kernel
from .layers.rows import dot_row, row_function, scale_row

MOMENTUM = 0.85
# a, b, c of each step: of all a x + b x^3 + c x^5 the nearest to 1 from end to end of what the
# steps before make of 0.002..1, so that what begins there ends in 0.68..1.32. (Five steps with one
# polynomial, Jordan's 3.4445, -4.7750, 2.0315, reach as far down, learn as well, and take 7% more
# of a step of F: docs/recipe.md.)
NEWTON_SCHULZ = ((8.4268, -24.936, 18.492), (4.1116, -3.0591, 0.57495),
                 (3.7146, -2.7781, 0.54294), (2.7820, -2.0749, 0.46350))
STEPS = len(NEWTON_SCHULZ)


def space_for(rows, columns):
    """How many numbers muon_update needs for a matrix to work in."""
    return 2 * rows * columns + 4 * min(rows, columns) ** 2


@kernel
def muon_update(w, m, g, first, width, rate, shrink, clip, space):
    """Muon on one matrix, the columns first..first + width of w.

    w, m, g: (I, O). w is scaled by shrink, g by clip. space: flat, of space_for(I, width) numbers.
    """
    scalar = w.dtype.type
    part = slice(first, first + width)
    w, m, g = w[:, part], m[:, part], g[:, part]
    momentum, c = scalar(MOMENTUM), scalar(clip)
    I, O = w.shape
    R, K = min(I, O), max(I, O)
    one, other, square = space[: R * K], space[R * K : 2 * R * K], space[2 * R * K :]
    u = one.reshape(I, O)
    for i in range(w.shape[0]):
        wi, mi, gi, ui = w[i], m[i], g[i], u[i]
        for j in range(ui.size):
            gij = (scalar(1) - momentum) * c * gi[j]
            mi[j] = momentum * mi[j] + gij
            ui[j] = gij + momentum * mi[j]
    if I > O:
        turned = other.reshape(R, K)
        transpose(turned, u)
        orthogonalise(one.reshape(R, K), turned, square)
        direction = other.reshape(I, O)
        transpose(direction, one.reshape(R, K))
    else:
        direction = other.reshape(I, O)
        orthogonalise(direction, u, square)
    for i in range(w.shape[0]):
        wi, di = w[i], direction[i]
        for j in range(di.size):
            wi[j] = scalar(shrink) * wi[j] - scalar(rate) * di[j]


@row_function(outputs=1, inputs=2, scalars=2)
def polynomial_row(x, y, b, c):
    """b x + c y."""
    return x * b + y * c


@kernel
def orthogonalise(out, x, space):
    """out = x with all its singular values moved to about 1; x is spoilt. Both (R, K), R <= K, and
    contiguous. space: flat, of 4 R^2 numbers at least.

    Steps of a Newton-Schulz iteration, X <- P X with P = a + b A + c A^2 and A = X X^T, each
    with constants of its own (Amsel, Persson, Musco, Gower, "The Polar Express", 2025).

    X itself is needed at both ends only: A <- P A P and Q <- P Q follow what happens to
    it, and the result is Q X. These are symmetric and commute, so half of each product
    is enough, and none of the loop's sums is longer than R.
    """
    scalar = x.dtype.type
    R, K = x.shape
    total = 0.0
    for i in range(R):
        total += dot_row(x[i], x[i], K)
    inverse = scalar(1 / (np.sqrt(total) + 1e-7))
    for i in range(R):
        scale_row(x[i], x[i], K, inverse)
    squares = space[: 4 * R * R].reshape(4, R, R)
    A, P, Q, S = squares[0], squares[1], squares[2], squares[3]
    turned = out.reshape(K, R)  # out is free until the end
    transpose(turned, x)
    symmetric_matmul(A, x, turned)
    for step in range(STEPS):
        a, b, c = NEWTON_SCHULZ[step]
        symmetric_matmul(P, A, A)
        for i in range(R):
            polynomial_row(P[i], A[i], P[i], R, scalar(b), scalar(c))
            P[i, i] += scalar(a)
        if step < STEPS - 1:
            symmetric_matmul(S, P, A)
            symmetric_matmul(A, S, P)
        if step > 0:
            symmetric_matmul(S, P, Q)
            Q, S = S, Q
        else:
            Q, P = P, Q
    matmul(out, Q, x)
