"""What the decoder asks of a backend: nine operations on T rows at once.

Values are opaque to the decoder: a numpy array (`float`), integers (`fixed`), a handle to a party's
share (`private`). Sites name the weights: `layers.{i}.attn_norm|qkv|o|mlp_norm|up|down`,
`final_norm`, `head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Backend(Protocol[Value]):
    """One sequence being computed: the operations, and the rows of keys and values appended so
    far."""

    @property
    def position(self) -> int:
        """Rows appended so far; the next token stands at this position."""
        ...

    def embed(self, tokens: Sequence[int], sampled: int) -> Value:
        """`h_t = E[token_t] (+ P[position + t])`, [T, d]. Opens a call: `position` grows by T.

        `sampled`: how many of the last rows will be given to `logits` at the end of the call; 0 if
        it will not be called. Two parties take their material by it.
        """
        ...

    def norm(self, h: Value, site: str) -> Value:
        """LayerNorm or RMSNorm of every row, [T, d]."""
        ...

    def linear(self, x: Value, site: str) -> Value:
        """`y = W·x + b` of every row, [T, d_out]."""
        ...

    def attention(self, qkv: Value, layer: int) -> Value:
        """Split q | k | v, rotate (RoPE, where the layer does), append k and v to the layer's
        cache, causal softmax: [T, q_width]."""
        ...

    def activation(self, u: Value, layer: int) -> Value:
        """`act(u)`, or `act(gate)·up` of u = gate | up: [T, ff]."""
        ...

    def add(self, h: Value, y: Value) -> Value:
        """Residual `h + y`, [T, d]."""
        ...

    def last(self, h: Value) -> Value:
        """The last row only, [1, d]."""
        ...

    def logits(self, x: Value) -> Value:
        """The output head, site `head`, of every row: [T, vocab]."""
        ...
