"""The decoder between two parties. Values are opaque handles to a party's share; both run the same `forward`.

The client runs it on its tokens, the server on as many placeholder tokens: it never sees a token, only their number.
What each step does and costs: `docs/protocols/`. `sampled` has to be set before every pass, alike on both sides: the
number of rows whose logits will be asked for (0 for `want="none"`, 1 for `"last"`, T for `"all"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import NumericFailure
from cryptogen.models.decoder import Want
from cryptogen.numerics.plan import Plan

if TYPE_CHECKING:
    from cryptogen._core import ClientEndpoint, ServerEndpoint, ServerModel, Tensor


class _Party:
    """What is alike on both sides."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.sampled = 1

    @property
    def position(self) -> int:
        return int(self._endpoint.length)

    def norm(self, h: Tensor, site: str) -> Tensor:
        return self._endpoint.norm(h, _after_norm(site))  # type: ignore[no-any-return]

    def attention(self, qkv: Tensor, layer: int) -> Tensor:
        return self._endpoint.attention(qkv, layer)  # type: ignore[no-any-return]

    def activation(self, u: Tensor, layer: int) -> Tensor:
        return self._endpoint.activation(u, layer)  # type: ignore[no-any-return]

    def add(self, h: Tensor, y: Tensor) -> Tensor:
        return self._endpoint.add(h, y)  # type: ignore[no-any-return]

    def last(self, h: Tensor) -> Tensor:
        return self._endpoint.last(h)  # type: ignore[no-any-return]


class ClientBackend(_Party):
    """The client's side: gives the tokens, gets the logits."""

    def __init__(self, endpoint: ClientEndpoint, plan: Plan) -> None:
        super().__init__(endpoint)
        self._scale, self._bound = 2.0**plan.logit_bits, plan.linears["head"].out_bound
        self.raw_logits: NDArray[np.int64] | None = None
        self.range_events: list[int] = []

    def embed(self, tokens: Sequence[int]) -> Tensor:
        return self._endpoint.embed(list(tokens), self.sampled)  # type: ignore[no-any-return]

    def linear(self, x: Tensor, site: str) -> Tensor:
        return self._endpoint.linear(x, site)  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> NDArray[np.float64]:
        """Real logits [rows, vocab]; the integers stay in `raw_logits`, every row's range events in `range_events`.

        `NumericFailure`, when both are set, if a logit is beyond the plan's bound, which holds for every text.
        """
        raw, events = self._endpoint.logits(x)
        self.raw_logits, self.range_events = raw, events.tolist()
        if (largest := int(np.abs(raw).max())) > self._bound:
            raise NumericFailure(largest / self._scale, self._bound / self._scale)
        return np.asarray(raw / self._scale, dtype=np.float64)


class ServerBackend(_Party):
    """The server's side: gives the weights, learns the number of rows."""

    def __init__(self, endpoint: ServerEndpoint, model: ServerModel) -> None:
        super().__init__(endpoint)
        self._model = model

    def embed(self, tokens: Sequence[int]) -> Tensor:
        return self._endpoint.embed(self._model, len(tokens), self.sampled)  # type: ignore[no-any-return]

    def linear(self, x: Tensor, site: str) -> Tensor:
        return self._endpoint.linear(self._model, x, site)  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> None:
        """Sends the server's share; returns nothing."""
        self._endpoint.logits(self._model, x)


def want_of(rows: int, sampled: int) -> Want | None:
    """Which logits a pass over `rows` rows asks for if `sampled` of them are sampled; None if no pass does."""
    if sampled == 0:
        return "none"
    if sampled == 1:
        return "last"
    return "all" if sampled == rows else None


def _after_norm(site: str) -> str:
    """The linear site that a norm enters: the client sends its half re-masked for it."""
    if site == "final_norm":
        return "head"
    return site.replace(".attn_norm", ".qkv").replace(".mlp_norm", ".up")
