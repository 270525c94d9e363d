"""A model, one layout whatever file it came from.

Tensors are float32, matrices `[d_out, d_in]`, q/k rows in the half-rotation RoPE layout. Names:
`embed` [vocab, d], `pos` [context, d] without rotary positions, and per site of the decoder
`{norm}.gain` [d] and `{linear}.weight`; `head.weight` [vocab, d] unless tied to `embed`. Where the
model has them: `{norm}.bias` [d], `{linear}.bias` [d_out]. Constants by which a family multiplies
are in the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cryptogen.errors import MissingTensor, TensorMismatch, UnexpectedTensor
from cryptogen.models.config import ModelConfig
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.tensors import Array, Tensors, check_finite


@dataclass(frozen=True)
class Checkpoint:
    """Weights, shape and tokenizer of one model. When made, names and shapes of all tensors are
    checked against the configuration. What comes from a file is read when a tensor is asked for,
    each time anew, and checked then: see `Tensors` for what that raises."""

    config: ModelConfig
    tensors: Mapping[str, Array]
    tokenizer: Tokenizer | None
    source: Path
    bos: int | None = None
    eos: int | None = None
    stop: frozenset[int] = frozenset()  # any of these ends a generation

    def __post_init__(self) -> None:
        needed, biases = tensor_shapes(self.config), bias_shapes(self.config)
        shapes = needed | {name: shape for name, shape in biases.items() if name in self.tensors}
        stored = self.tensors if isinstance(self.tensors, Tensors) else None
        for name, shape in shapes.items():
            if name not in self.tensors:
                raise MissingTensor(name, self.source)
            found = stored.shape(name) if stored else self.tensors[name].shape
            if found != shape:
                raise TensorMismatch(name, "shape", list(shape), list(found))
            if stored is None:
                _check_numbers(name, self.tensors[name])
        if extra := set(self.tensors) - set(shapes):
            raise UnexpectedTensor(extra, self.source)

    @property
    def head_name(self) -> str:
        """The tensor that is the output matrix [vocab, d]: the embedding itself when tied."""
        return "embed" if self.config.tied else "head.weight"

    @cached_property
    def held(self) -> Mapping[str, Array]:
        """All tensors in memory, for as long as this object lives: for what computes with them
        again and again."""
        return dict(self.tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configuration and tensors (not the tokenizer): equal models have equal
        digests. Reads every tensor, one at a time."""
        h = hashlib.sha256(json.dumps(self.config.as_dict(), sort_keys=True).encode())
        for name in (*tensor_shapes(self.config), *bias_shapes(self.config)):
            if name not in self.tensors:  # a bias that the model does not have
                continue
            h.update(name.encode() + b"\0")
            h.update(np.ascontiguousarray(self.tensors[name], dtype="<f4").data)
        return h.hexdigest()


def _check_numbers(name: str, tensor: Array) -> None:
    if tensor.dtype != np.float32:
        raise TensorMismatch(name, "dtype", "float32", tensor.dtype)
    check_finite(name, tensor)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of this configuration must have, in digest
    order."""
    shapes: dict[str, tuple[int, ...]] = {"embed": (config.vocab, config.d)}
    if not config.rope:
        shapes["pos"] = (config.context, config.d)
    shapes |= {f"{site}.gain": (config.d,) for site in config.norm_sites()}
    for site, shape in config.linear_shapes().items():
        if site != "head" or not config.tied:
            shapes[f"{site}.weight"] = shape
    return shapes


def bias_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The same of the biases that it may have."""
    norms = {f"{site}.bias": (config.d,) for site in config.norm_sites()}
    return norms | {f"{site}.bias": shape[:1] for site, shape in config.linear_shapes().items()}
