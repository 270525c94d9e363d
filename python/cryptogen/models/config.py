"""The public shape of a decoder: everything about a model that both parties know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from cryptogen.errors import InvalidConfig

NormKind = Literal["layer", "rms"]
Activation = Literal["gelu_new", "gelu", "relu", "silu"]

# Far above any model that two parties could run; keeps a hostile header from asking for absurd
# allocations.
LARGEST = {"layers": 1024, "d": 1 << 16, "heads": 1024, "kv_heads": 1024, "head_dim": 1 << 12, "ff": 1 << 18,
           "vocab": 1 << 20, "context": 1 << 20}  # fmt: skip
FULL_TURN = 2 * math.pi  # radians; more of them a position are no other rotation


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of a decoder-only transformer. Checked when made: `InvalidConfig` names the
    bad field."""

    layers: int
    d: int  # width of the residual stream
    heads: int
    kv_heads: int
    head_dim: int
    ff: int  # width of the MLP (of each half when gated)
    gated: bool
    norm: NormKind
    parallel: bool  # the MLP reads what attention reads, not what attention has been added to
    rope: tuple[float, ...]  # radians that each pair of a head turns by per position, [head_dim/2]; learned ones if ()
    unrotated: tuple[int, ...]  # layers in which no pair turns, ascending
    vocab: int
    context: int
    norm_eps: float
    activation: Activation
    tied: bool  # the output head is the embedding matrix

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, getattr(self, field.name))
        if self.heads % self.kv_heads:
            raise InvalidConfig("kv_heads", f"a divisor of heads = {self.heads}", self.kv_heads)
        if self.rope and 2 * len(self.rope) != self.head_dim:
            raise InvalidConfig("rope", f"a number for each pair of head_dim = {self.head_dim}", len(self.rope))
        if self.unrotated and not self.rope:
            raise InvalidConfig("unrotated", "none without rotary positions", len(self.unrotated))

    def _check_type(self, name: str, value: object) -> None:
        if name in LARGEST:
            if type(value) is not int or not 1 <= value <= LARGEST[name]:
                raise InvalidConfig(name, f"an integer in 1..{LARGEST[name]}", value)
        elif name == "norm_eps":
            if type(value) is not float or not 0.0 < value < 1e12:
                raise InvalidConfig(name, "a positive float", value)
        elif name in ("gated", "parallel", "tied"):
            if type(value) is not bool:
                raise InvalidConfig(name, "true or false", value)
        elif name == "rope":
            if type(value) is not tuple or any(type(f) is not float or not 0.0 <= f <= FULL_TURN for f in value):
                raise InvalidConfig(name, "floats of up to a full turn", value)
        elif name == "unrotated":
            layers = range(self.layers)
            if type(value) is not tuple or any(type(i) is not int or i not in layers for i in value):
                raise InvalidConfig(name, f"layers of {self.layers}", value)
            if list(value) != sorted(set(value)):
                raise InvalidConfig(name, "layers in ascending order", value)
        else:
            allowed = get_args(NormKind if name == "norm" else Activation)
            if value not in allowed:
                raise InvalidConfig(name, f"one of {allowed}", value)

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Rows of the qkv matrix: q heads, then k heads, then v heads."""
        return self.q_width + 2 * self.kv_width

    def rotates(self, layer: int) -> bool:
        """Whether a layer's queries and keys are turned by their positions."""
        return bool(self.rope) and layer not in self.unrotated

    @property
    def up_width(self) -> int:
        """Rows of the up matrix: gate rows then up rows when gated."""
        return 2 * self.ff if self.gated else self.ff

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads per key/value head; head g uses kv head g // queries_per_kv_head."""
        return self.heads // self.kv_heads

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Site -> (d_out, d_in) of every matrix, in the plan's order."""
        shapes: dict[str, tuple[int, int]] = {}
        for i in range(self.layers):
            shapes[f"layers.{i}.qkv"] = (self.qkv_width, self.d)
            shapes[f"layers.{i}.o"] = (self.d, self.q_width)
            shapes[f"layers.{i}.up"] = (self.up_width, self.d)
            shapes[f"layers.{i}.down"] = (self.d, self.ff)
        shapes["head"] = (self.vocab, self.d)
        return shapes

    def norm_sites(self) -> list[str]:
        """The 2·layers + 1 norms in the order in which a forward pass meets them."""
        return [f"layers.{i}.{n}_norm" for i in range(self.layers) for n in ("attn", "mlp")] + ["final_norm"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `as_dict`, for values from outside: any missing, extra or ill-typed field is
        `InvalidConfig`."""
        names = {field.name for field in fields(cls)}
        if extra := set(values) - names:
            raise InvalidConfig(sorted(map(str, extra))[0], "no such option", "present")
        if missing := names - set(values):
            raise InvalidConfig(sorted(missing)[0], "a value", None)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}  # JSON has no tuples
        return cls(**{**values, **lists})
