"""Minutes-long checks on SmolLM2 (`make test-long`): greedy tokens of the private run against the
clear model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryptogen.errors import MissingPackage
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.processes import ServerProcess
from cryptogen.session import Client
from cryptogen.weights import load
from cryptogen.weights.packages import find_packaged

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village,",
)
TOKENS = 32


@pytest.mark.long
def test_private_greedy_tokens_are_the_clear_models(tmp_path: Path) -> None:
    """3 prompts × 32 tokens over TLS between two processes; disagreements only at near ties of the
    clear model."""
    try:
        path = find_packaged("smollm2")
    except MissingPackage:
        pytest.skip("SmolLM2 is not in the cache: run `make demo` once")
    model = load(path)
    arguments = ["serve", str(path), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    with ServerProcess("cryptogen", arguments) as server:
        with Client(server.address, fingerprint=server.fingerprint, data_dir=tmp_path, batch_tokens=120) as client:
            for prompt in PROMPTS:
                ids = client.encode(prompt)
                answer = [t.id for t in client.generate(ids, max_new_tokens=TOKENS, stop=())]
                found = fidelity(model, ids, answer)
                print(prompt, found, client.costs)
                assert len(answer) == TOKENS
                assert not found.violations, str(found)
