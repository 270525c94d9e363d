"""Models of a known shape with random weights: speed does not depend on what the weights are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cryptogen.calibration.choose import calibrate
from cryptogen.errors import InputError
from cryptogen.models.config import ModelConfig
from cryptogen.numerics.plan import NumericPlan
from cryptogen.weights.canonical import canonicalise
from cryptogen.weights.checkpoint import Checkpoint, bias_shapes, tensor_shapes
from cryptogen.weights.rope import frequencies
from cryptogen.weights.tensors import Array, Stored, Tensors

SHAPES = {
    "gpt2": ModelConfig(
        layers=12, d=768, heads=12, kv_heads=12, head_dim=64, ff=3072, gated=False, norm="layer", parallel=False,
        rope=(), unrotated=(), vocab=50257, context=1024, norm_eps=1e-5, activation="gelu_new", tied=True,
    ),
    "smollm2": ModelConfig(
        layers=30, d=576, heads=9, kv_heads=3, head_dim=64, ff=1536, gated=True, norm="rms", parallel=False,
        rope=frequencies(1e5, 64), unrotated=(), vocab=49152, context=2048, norm_eps=1e-5, activation="silu", tied=True,
    ),
    "qwen2.5-0.5b": ModelConfig(
        layers=24, d=896, heads=14, kv_heads=2, head_dim=64, ff=4864, gated=True, norm="rms", parallel=False,
        rope=frequencies(1e6, 64), unrotated=(), vocab=151936, context=2048, norm_eps=1e-6, activation="silu",
        tied=True,
    ),
    "llama-1b": ModelConfig(
        layers=16, d=2048, heads=32, kv_heads=8, head_dim=64, ff=8192, gated=True, norm="rms", parallel=False,
        rope=frequencies(5e5, 64), unrotated=(), vocab=128256, context=2048, norm_eps=1e-5, activation="silu",
        tied=True,
    ),
    "tiny": ModelConfig(
        layers=3, d=64, heads=4, kv_heads=2, head_dim=16, ff=128, gated=True, norm="rms", parallel=False,
        rope=frequencies(1e4, 16), unrotated=(), vocab=512, context=256, norm_eps=1e-5, activation="silu", tied=True,
    ),
}  # fmt: skip


def shape(name: str, blocks: int | None = None) -> ModelConfig:
    """A known shape, with only some of its identical blocks if asked for."""
    if name not in SHAPES:
        raise InputError(f"shape {name!r}, expected one of {', '.join(SHAPES)}")
    config = SHAPES[name]
    if blocks is not None and not 1 <= blocks <= config.layers:
        raise InputError(f"{blocks} blocks, expected 1 to {config.layers}")
    return replace(config, layers=blocks or config.layers)


def random_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Normal weights, scaled so that every layer's output is about as large as its input; gains
    around 1. All but the head have biases if norms are LayerNorm, as GPT-2's."""
    source, sizes = Path(f"random-{config.norm}"), tensor_shapes(config)
    if config.norm == "layer":
        sizes |= {name: size for name, size in bias_shapes(config).items() if name != "head.bias"}
    stored = {name: Stored(size, partial(_normal, name, size, seed)) for name, size in sizes.items()}
    return Checkpoint(config, Tensors(stored, source), None, source)


def _normal(name: str, size: tuple[int, ...], seed: int) -> Array:
    """Each tensor has a seed of its own, so that it can be made when it is asked for."""
    values: Array = np.random.default_rng([seed, *name.encode()]).standard_normal(size, dtype=np.float32)
    if name.endswith(".gain"):
        values /= np.float32(10)
        values += np.float32(1)
    elif name.endswith(".weight"):
        values /= np.float32(size[1] ** 0.5)
    elif name.endswith(".bias"):
        values /= np.float32(10)
    return values


def random_tokens(config: ModelConfig, n: int, seed: int = 0) -> list[int]:
    """n uniform token ids."""
    return [int(t) for t in np.random.default_rng(seed).integers(0, config.vocab, n)]


def quick_plan(checkpoint: Checkpoint, tokens: int = 64) -> NumericPlan:
    """Calibrated on one window of random tokens: enough for random weights."""
    window = random_tokens(checkpoint.config, min(tokens, checkpoint.config.context), seed=1)
    return calibrate(canonicalise(checkpoint, keep=False), [window], model_digest=checkpoint.digest)
