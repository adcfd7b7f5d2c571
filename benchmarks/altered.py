"""Changes of the model itself, tried by benchmarks/recipe.py: other lines in a copy of the source.

Not options: no model file could say that it has one of them. A copy has compiled kernels of its
own, whose folder is named by the source, and the repository's tests can be asked of it:

    PYTHONPATH="recipe/value residual/source" pytest tests/test_sampler.py
"""

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# The gradient of a loss with 1e-4 (log of the sum of e^logits)^2 more at each position, which is
# the probabilities times 1 + 2e-4 that logarithm. The loss that is told stays without.
Z_LOSS = [("layers/cross_entropy.py",
           "scale_row(probabilities[n], probabilities[n], V, scalar(1) / total)", """\
more = 2e-4 * (np.log(total) + most)
        scale_row(probabilities[n], probabilities[n], V, scalar((1 + more) / total))""")]


def rotary(where):
    """Only pairs i where this holds are turned: the frequency of the others is 0."""
    return [("layers/rotary.py", "* base ** (-np.arange(half) / half)",
             f"* (base ** (-np.arange(half) / half) * ({where}))"),
            ("decoder.py", "config.rotary_base ** (-np.arange(half) / max(half, 1))",
             f"config.rotary_base ** (-np.arange(half) / max(half, 1)) * ({where})")]


# Each block's values are the mean of its own and the first block's (Zhou et al. 2024). Backward
# no longer needs the values of a block it is through with: there it sums what the first's get.
VALUE_RESIDUAL = [
    ("model.py", "from .layers.turns import",
     "from .layers.rows import add_row, copy_row, scale_row\n"
     "from .layers.turns import"),
    ("model.py", """\
    attention_forward(a.attention""", """\
    C = a.x.shape[2]
    for n in range(N if l > 0 else 0):
        v = a.qkv[l, n, 2 * C :]
        add_row(v, v, a.qkv[0, n, 2 * C :], C)
        scale_row(v, v, C, 0.5)
    attention_forward(a.attention"""),
    ("model.py", """\
    attention_backward(a.dqkv, a.dnorm, a.attention[l], a.weights[l], a.qkv[l], k.num_heads, rate,
                       a.keys)
""", """\
    attention_backward(a.dqkv, a.dnorm, a.attention[l], a.weights[l], a.qkv[l], k.num_heads, rate,
                       a.keys)
    C, L = a.x.shape[2], a.qkv.shape[0]
    for n in range(N):
        dv, first = a.dqkv[n, 2 * C :], a.qkv[l, n, 2 * C :]
        if l > 0:
            scale_row(dv, dv, C, 0.5)
            copy_row(first, dv, C)
            if l < L - 1:
                add_row(first, first, a.qkv[l + 1, n, 2 * C :], C)
        elif L > 1:
            add_row(dv, dv, a.qkv[1, n, 2 * C :], C)
"""),
    ("decoder.py", """\
    for l in range(L):
""", """\
    first = np.empty((N, C), logits.dtype)
    for l in range(L):
"""),
    ("decoder.py", """\
        for n in range(N):
            remember(""", """\
        for n in range(N):
            v = qkv[n, 2 * C :]
            if l == 0:
                copy_row(first[n], v, C)
            else:
                add_row(v, v, first[n], C)
                scale_row(v, v, C, 0.5)
            remember("""),
]

# Muon turns q, k and v as one matrix.
TOGETHER = [("update.py", 'width = C if field == "query_key_value_weight" else columns',
             "width = columns")]


def newton_schulz(steps):
    """Muon's iteration with other constants."""
    return [("muon.py", "\nSTEPS = ", f"\nNEWTON_SCHULZ = {steps}\nSTEPS = ")]


JORDAN = (3.4445, -4.7750, 2.0315)  # of every step
# Nearest to 1 as muon.py's four, of 0.005..1.
THREE_STEPS = ((8.2987, -24.430, 18.090), (3.9152, -2.9211, 0.55922), (3.1746, -2.3804, 0.49783))

# Every product as its definition has it, none by Strassen's algorithm.
PLAIN_PRODUCTS = [("layers/strassen.py", "return rows >= 128", "return rows < 0")]

# name -> (file of femtogpt, what stands there once, what is to stand there)
ALTERED = {
    "z-loss 1e-4": Z_LOSS,
    "first half of rotary pairs": rotary("np.arange(half) < half // 2"),
    "first quarter of rotary pairs": rotary("np.arange(half) < half // 4"),
    "every second rotary pair": rotary("np.arange(half) % 2 == 0"),
    "value residual": VALUE_RESIDUAL,
    "q k v together": TOGETHER,
    "Jordan's five steps": newton_schulz(5 * (JORDAN,)),
    "Jordan's four steps": newton_schulz(4 * (JORDAN,)),
    "three steps": newton_schulz(THREE_STEPS),
    "plain products": PLAIN_PRODUCTS,
}


def copy_altered(names, folder):
    """Makes folder/source, with the package as ALTERED's names have it, and returns it."""
    source = Path(folder).resolve() / "source"
    for package in ("femtogpt", "dummy_data"):
        shutil.copytree(REPOSITORY / package, source / package, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for name in names:
        for file, old, new in ALTERED[name]:
            path = source / "femtogpt" / file
            text = path.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise SystemExit(f"{name}: in femtogpt/{file} this is not there once:\n{old}")
            path.write_text(text.replace(old, new), encoding="utf-8")
    return source
