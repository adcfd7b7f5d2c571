"""The shape of a model: everything that decides which numbers it has and how they are used."""

from dataclasses import asdict, dataclass, fields

from .errors import FemtoError

RECIPES = ("standard", "femto")
POSITIONAL_ENCODINGS = ("rope", "absolute", "learned", "none")
# Of what is allocated for one number; beyond these a model is a typing error or an attack.
LARGEST = {"vocab_size": 2**24, "num_tokens": 2**20, "embedding_degree": 2**16,
           "num_layers": 2**12, "num_heads": 2**12}


@dataclass(frozen=True)
class GPTConfig:
    """A model's shape. Letters: V vocab_size, T num_tokens, C embedding_degree,
    L num_layers, NH num_heads, hs = C / NH the width of a head.

    recipe: "standard" (raw residual stream, pre-norm) or "femto" (femtoGPT's: the
    residual is taken from the normalised input).
    rotary_base: None chooses 50 up to 80 tokens and 50 T / 80 beyond.
    Raises FemtoError for a shape that cannot be.
    """

    vocab_size: int
    num_tokens: int = 80
    embedding_degree: int = 80
    num_layers: int = 4
    num_heads: int = 4
    recipe: str = "standard"
    positional_encoding: str | None = None
    rotary_base: float | None = None

    def __post_init__(self):
        if self.recipe not in RECIPES:
            raise FemtoError(f"recipe {self.recipe!r} is not one of {', '.join(RECIPES)}")
        if self.positional_encoding is None:
            encoding = "absolute" if self.recipe == "femto" else "rope"
            object.__setattr__(self, "positional_encoding", encoding)
        if self.positional_encoding not in POSITIONAL_ENCODINGS:
            raise FemtoError(
                f"positional encoding {self.positional_encoding!r} is not one of "
                f"{', '.join(POSITIONAL_ENCODINGS)}"
            )
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise FemtoError(f"{name} must be a whole number, not {value!r}")
            if not 1 <= value <= largest:
                raise FemtoError(f"{name} must be from 1 to {largest}, not {value}")
        if self.embedding_degree % self.num_heads:
            raise FemtoError(
                f"--num-heads {self.num_heads} does not divide --embedding-degree "
                f"{self.embedding_degree}: choose heads that do, such as "
                f"{_divisor_near(self.embedding_degree, self.num_heads)}"
            )
        if self.positional_encoding == "rope" and self.head_size % 2:
            raise FemtoError(
                f"rope turns pairs, but a head is {self.head_size} wide (--embedding-degree "
                f"{self.embedding_degree} / --num-heads {self.num_heads}): make that even, or "
                "choose --positional-encoding learned"
            )
        if self.rotary_base is None:
            object.__setattr__(self, "rotary_base", 50.0 * max(1.0, self.num_tokens / 80))
        if not isinstance(self.rotary_base, int | float) or not 1 < self.rotary_base < 1e12:
            raise FemtoError(f"rotary_base must be above 1, not {self.rotary_base!r}")

    @property
    def head_size(self):
        return self.embedding_degree // self.num_heads

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, values):
        """Raises FemtoError where `values` (a dict) lacks a field or has one too many."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise FemtoError("the model's config is not one this version of femtogpt writes")
        return cls(**values)


def _divisor_near(width, wanted):
    """The divisor of width nearest to wanted that leaves heads of an even width, if any."""
    divisors = [d for d in range(1, width + 1) if width % d == 0]
    even = [d for d in divisors if width // d % 2 == 0]
    return min(even or divisors, key=lambda d: abs(d - wanted))
