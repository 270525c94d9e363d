"""A script over `_core` cannot take a step twice: in every protocol, every step of every layer is
refused when it is called again, whatever its rows, and the refused calls leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen.backends.float import FloatBackend
from cryptogen.backends.private import ClientBackend, ServerBackend
from cryptogen.errors import InputError
from cryptogen.models.decoder import Want, forward, sampled_of
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED, RECOMPUTE
from parties import both, open_parties
from tiny import tiny_gpt2, tiny_llama

STEPS = ("embed", "norm", "linear", "attention", "activation", "logits")
# Row 0 alone, a row behind it, rows that nobody samples, rows that are all sampled.
PASSES: list[tuple[list[int], Want]] = [([5], "last"), ([9], "last"), ([300, 2], "none"), ([7, 11], "all")]


class Again:
    """An endpoint whose steps are all called a second time, with the same arguments."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint, self.refused = endpoint, dict.fromkeys(STEPS, 0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._endpoint, name)
        return self._twice(name, found) if name in STEPS else found

    def _twice(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def twice(*arguments: Any) -> Any:
            result = step(*arguments)
            before = self._state()
            with pytest.raises(InputError, match="expected"):
                step(*arguments)
            assert self._state() == before
            self.refused[name] += 1
            return result

        return twice

    def _state(self) -> Any:
        e = self._endpoint
        return e.length, e.ready_rows, e.ready_logits, e.stock(), e.stats()


@pytest.mark.parametrize("protocol", [PREPROCESSED, ENCRYPTED_CACHE, RECOMPUTE])
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_no_step_can_be_called_twice(tmp_path: Path, make: Callable[..., Path], protocol: str) -> None:
    parties = open_parties(tmp_path, make(tmp_path / "model"), protocol)
    sampled = sum(sampled_of(len(tokens), want) for tokens, want in PASSES)
    parties.material(sum(len(tokens) for tokens, _ in PASSES), sampled)
    client, server, config = Again(parties.client), Again(parties.server), parties.canonical.config
    backend, clear = ClientBackend(client, parties.numeric), FloatBackend(parties.canonical)  # type: ignore[arg-type]
    theirs = ServerBackend(server, parties.model)  # type: ignore[arg-type]
    for tokens, want in PASSES:
        unknown = [0] * len(tokens)
        got = both(
            lambda tokens=tokens, want=want: forward(backend, config, tokens, want),
            lambda unknown=unknown, want=want: forward(theirs, config, unknown, want),
        )
        expected = forward(clear, config, tokens, want)
        if expected is not None:
            assert got is not None and np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    passes, heads = len(PASSES), sum(want != "none" for _, want in PASSES)
    of_layers = config.layers * passes
    each = {"embed": passes, "norm": 2 * of_layers + heads, "linear": 4 * of_layers, "attention": of_layers}
    assert client.refused == server.refused == each | {"activation": of_layers, "logits": heads}
