"""Scalar functions of the decoder, element-wise on numpy arrays of any float dtype (kept in the
result)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def gelu_new(x: Floats) -> Floats:
    """`x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))` (Hendrycks & Gimpel 2016, eq. 2), GPT-2's
    activation."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu(x: Floats) -> Floats:
    """`x · Φ(x)`, Φ the normal distribution function, to 1e-7."""
    return (0.5 * x * (1.0 + _erf(x.astype(np.float64) / math.sqrt(2.0)))).astype(x.dtype)


def relu(x: Floats) -> Floats:
    """`max(x, 0)`."""
    return np.maximum(x, 0)


def silu(x: Floats) -> Floats:
    """`x · sigmoid(x)`, written with tanh so that no input overflows."""
    return 0.5 * x * (1.0 + np.tanh(0.5 * x))


def _erf(x: Floats) -> Floats:
    """Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7 (numpy has no erf)."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1.0 - series * np.exp(-x * x)))


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"gelu_new": gelu_new, "gelu": gelu, "relu": relu, "silu": silu}
