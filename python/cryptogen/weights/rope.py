"""Rotary positions (RoFormer, Su et al. 2021): how fast each pair of a head turns, from a
configuration in transformers' words, and where a file has the pairs.

A family's scaling is a choice of frequencies, made here and nowhere else; backends and plans see
only numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import InvalidConfig, UnsupportedModel
from cryptogen.weights.config_fields import ConfigFields

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Rotation:
    """How queries and keys turn with their positions."""

    frequencies: tuple[float, ...]  # radians per position of the pairs that turn, [width/2]
    scale: float = 1.0  # by which both are multiplied where they turn
    context: int | None = None  # rows for which this is right; None: any

    @property
    def width(self) -> int:
        """Numbers of a head that turn, its first."""
        return 2 * len(self.frequencies)

    def of_head(self, head_dim: int) -> tuple[float, ...]:
        """The frequencies of all pairs of a head, in this package's layout. Those that do not turn
        have 0."""
        return self.frequencies + (0.0,) * (head_dim // 2 - len(self.frequencies))


def frequencies(theta: float, width: int) -> tuple[float, ...]:
    """`theta^(−2i/width)`, [width/2]."""
    n = width // 2
    return tuple((theta ** (-np.arange(n, dtype=np.float64) / n)).tolist())


def read_rotation(values: Mapping[str, Any], head_dim: int, theta: float = 1e4, part: float = 1.0) -> Rotation:
    """transformers 5: `rope_parameters`; before: `rope_theta` beside `rope_scaling` (with
    `rope_type` or `type`). `theta`, `part`: the family's defaults.

    `UnsupportedModel` for another type or an option that no type has, `InvalidConfig` for what
    makes no sense.
    """
    option = "rope_scaling" if values.get("rope_scaling") is not None else "rope_parameters"
    nested = values.get(option)
    if nested is None:
        nested = {}
    if not isinstance(nested, dict):
        raise InvalidConfig(option, "an object or null", nested)
    outer, inner = ConfigFields(values), ConfigFields(nested, option)
    kind = nested.get("rope_type", nested.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedModel(f"{option}.rope_type", kind, _KINDS)
    inner.known(_OPTIONS | {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    theta = inner.number("rope_theta", outer.number("rope_theta", theta))
    part = inner.number("partial_rotary_factor", outer.number("partial_rotary_factor", part))
    if head_dim < 2 or head_dim % 2:
        raise InvalidConfig("head_dim", "an even number (RoPE pairs)", head_dim)
    width = int(head_dim * part)
    if not 0 < width <= head_dim or width % 2:
        raise InvalidConfig("partial_rotary_factor", f"an even part of head_dim = {head_dim}", part)
    if not 0.0 < theta < 1e12:
        raise InvalidConfig("rope_theta", "a positive number", theta)
    return _KINDS[kind](outer, inner, np.array(frequencies(theta, width)), theta)


def _default(_outer: ConfigFields, _inner: ConfigFields, plain: Numbers, _theta: float) -> Rotation:
    return Rotation(tuple(plain.tolist()))


def _linear(_outer: ConfigFields, inner: ConfigFields, plain: Numbers, _theta: float) -> Rotation:
    return Rotation(tuple((plain / _factor(inner)).tolist()))


def _dynamic(outer: ConfigFields, inner: ConfigFields, plain: Numbers, _theta: float) -> Rotation:
    """Unscaled up to the length that the model was trained on; beyond, frequencies would change
    with the length of the text."""
    _factor(inner)
    return Rotation(tuple(plain.tolist()), context=outer.integer("max_position_embeddings"))


def _llama3(outer: ConfigFields, inner: ConfigFields, plain: Numbers, _theta: float) -> Rotation:
    """Waves longer than the text that the model was trained on are stretched, short ones are not
    (Llama 3.1)."""
    factor, low, high = _factor(inner), inner.number("low_freq_factor"), inner.number("high_freq_factor")
    if not 0.0 < low < high:
        raise InvalidConfig("low_freq_factor", f"above 0 and below high_freq_factor = {high}", low)
    turns = _trained(outer, inner) * plain / (2 * math.pi)  # of each pair over that text
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return Rotation(tuple((plain * (kept + (1 - kept) / factor)).tolist()))


def _yarn(outer: ConfigFields, inner: ConfigFields, plain: Numbers, theta: float) -> Rotation:
    """Peng et al. 2023: a ramp between stretched and unstretched pairs; scores are sharpened."""
    factor, trained = _factor(inner), _trained(outer, inner)
    pairs = len(plain)

    def pair_of(turns: float) -> float:
        return 2 * pairs * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(inner.number("beta_fast", 32.0)), pair_of(inner.number("beta_slow", 1.0))
    if inner.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - low) / (high - low if high != low else 0.001), 0.0, 1.0)

    def sharpened(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    by, by_all = inner.number("mscale", 0.0), inner.number("mscale_all_dim", 0.0)
    scale = sharpened(by) / sharpened(by_all) if by and by_all else sharpened(1.0)
    scale = inner.number("attention_factor", scale)
    return Rotation(tuple((plain * (1 - stretched + stretched / factor)).tolist()), scale)


def _longrope(outer: ConfigFields, inner: ConfigFields, plain: Numbers, _theta: float) -> Rotation:
    """Ding et al. 2024, with the factors of texts as short as those that the model was trained on:
    longer ones turn every pair otherwise, from the first row on."""
    trained = _trained(outer, inner)
    factors = inner.numbers("short_factor", len(plain))
    longer = inner.number("factor", outer.integer("max_position_embeddings") / trained)
    scale = math.sqrt(1 + math.log(longer) / math.log(trained)) if longer > 1 and trained > 1 else 1.0
    scale = inner.number("attention_factor", scale)
    return Rotation(tuple((plain / factors).tolist()), scale, context=trained)


def _factor(inner: ConfigFields) -> float:
    factor = inner.number("factor")
    if not 0.0 < factor < 1e6:
        raise InvalidConfig("factor", "a positive number", factor)
    return factor


def _trained(outer: ConfigFields, inner: ConfigFields) -> int:
    """Rows of the texts that the model was trained on, before it was stretched."""
    name = "original_max_position_embeddings"
    trained = outer.integer(name, inner.integer(name, outer.integer("max_position_embeddings")))
    if trained < 1:
        raise InvalidConfig(name, "a positive integer", trained)
    return trained


_KINDS: dict[str, Callable[[ConfigFields, ConfigFields, Numbers, float], Rotation]] = {
    "default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn,
    "longrope": _longrope, "su": _longrope,
}  # fmt: skip
_OPTIONS = {
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "attention_factor",
    "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
}  # fmt: skip


def head_rows(head_dim: int, width: int, interleaved: bool) -> NDArray[np.int64]:
    """Where a file has the rows of this package's half-rotation layout, [head_dim]: of the first
    `width` of a head, pairs are (i, i + width/2), or (2i, 2i + 1) where they are interleaved; the
    others do not turn."""
    turned = np.arange(width)
    low, high = turned.reshape(-1, 2).T if interleaved else turned.reshape(2, -1)
    rest = np.arange(width, head_dim).reshape(2, -1)
    return np.concatenate([low, rest[0], high, rest[1]])
