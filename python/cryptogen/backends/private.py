"""The decoder between two parties. Values are opaque handles to a party's share; both run the same
`forward`.

The client runs it on its tokens, the server on as many placeholder tokens: it never sees a token,
only their number. What each step does and costs: `docs/protocols/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import NumericFailure
from cryptogen.numerics.plan import NumericPlan
from cryptogen.numerics.quantise import Part

if TYPE_CHECKING:
    from cryptogen._core import (
        ClientEndpoint,
        ClientTensor,
        ServerEndpoint,
        ServerModel,
        ServerModelBuilder,
        ServerTensor,
    )

Share = TypeVar("Share")  # a handle to one party's share of activations


class Steps(Protocol[Share]):
    """The steps of an endpoint that are alike on both sides."""

    @property
    def length(self) -> int: ...
    def norm(self, h: Share, into: str) -> Share: ...
    def attention(self, qkv: Share, layer: int) -> Share: ...
    def activation(self, u: Share, layer: int) -> Share: ...
    def add(self, h: Share, y: Share) -> Share: ...
    def last(self, h: Share) -> Share: ...


class _Party(Generic[Share]):
    """What is alike on both sides."""

    def __init__(self, endpoint: Steps[Share]) -> None:
        self._endpoint = endpoint

    @property
    def position(self) -> int:
        return self._endpoint.length

    def norm(self, h: Share, site: str) -> Share:
        return self._endpoint.norm(h, _after_norm(site))

    def attention(self, qkv: Share, layer: int) -> Share:
        return self._endpoint.attention(qkv, layer)

    def activation(self, u: Share, layer: int) -> Share:
        return self._endpoint.activation(u, layer)

    def add(self, h: Share, y: Share) -> Share:
        return self._endpoint.add(h, y)

    def last(self, h: Share) -> Share:
        return self._endpoint.last(h)


class ClientBackend(_Party["ClientTensor"]):
    """The client's side: gives the tokens, gets the logits."""

    _endpoint: ClientEndpoint

    def __init__(self, endpoint: ClientEndpoint, plan: NumericPlan) -> None:
        super().__init__(endpoint)
        self._scale, self._bound = 2.0**plan.coarse_logit_bits, plan.coarse_logit_bound
        self.raw_logits: NDArray[np.int64] | None = None
        self.range_events: list[int] = []

    def embed(self, tokens: Sequence[int], sampled: int) -> ClientTensor:
        return self._endpoint.embed(list(tokens), sampled)

    def linear(self, x: ClientTensor, site: str) -> ClientTensor:
        return self._endpoint.linear(x, site)

    def logits(self, x: ClientTensor) -> NDArray[np.float64]:
        """Real logits [rows, vocab]; the integers, of 24 bits, stay in `raw_logits`, every row's
        range events in `range_events`.

        `NumericFailure`, when both are set, if a logit is beyond the plan's bound, which holds for
        every text.
        """
        raw, events = self._endpoint.logits(x)
        self.raw_logits, self.range_events = raw, events.tolist()
        if (largest := int(np.abs(raw).max())) > self._bound:
            raise NumericFailure(largest / self._scale, self._bound / self._scale)
        return np.asarray(raw / self._scale, dtype=np.float64)


class ServerBackend(_Party["ServerTensor"]):
    """The server's side: gives the weights, learns the number of rows."""

    _endpoint: ServerEndpoint

    def __init__(self, endpoint: ServerEndpoint, model: ServerModel) -> None:
        super().__init__(endpoint)
        self._model = model

    def embed(self, tokens: Sequence[int], sampled: int) -> ServerTensor:
        return self._endpoint.embed(self._model, len(tokens), sampled)

    def linear(self, x: ServerTensor, site: str) -> ServerTensor:
        return self._endpoint.linear(self._model, x, site)

    def logits(self, x: ServerTensor) -> None:
        """Sends the server's share; returns nothing."""
        self._endpoint.logits(self._model, x)


def server_model(builder: ServerModelBuilder, parts: Iterable[Part]) -> ServerModel:
    """The server's weights, from parts that are handed over and forgotten one by one."""
    for name, kind, _, numbers in parts:
        if kind == "table":
            builder.table(name, numbers)
        elif kind == "weight":
            builder.weight(name, numbers)
        else:
            builder.bias(name, numbers)
    return builder.finish()


def _after_norm(site: str) -> str:
    """The linear site that a norm enters: the client sends its half re-masked for it."""
    if site == "final_norm":
        return "head"
    return site.replace(".attn_norm", ".qkv").replace(".mlp_norm", ".up")
