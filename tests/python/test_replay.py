"""A private run, bit for bit: the oracle that replays both parties' shares gets the same logits and
range events.

Needs a core built with `insecure-trace` (`make test` builds one and names it in
CRYPTOGEN_TEST_CORE).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryptogen
from cryptogen.bench.shapes import quick_plan
from cryptogen.errors import MissingPackage, ReplayError
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED
from cryptogen.session.plans import find_plan
from cryptogen.weights.packages import find_packaged
from replaying import Cut, ReplayShares, insecure_core, passes_over, replayed
from tiny import random_tokens, tiny_gpt2, tiny_llama

core = pytest.fixture(scope="module")(insecure_core)


@pytest.mark.parametrize(("make", "overrides"), [
    (tiny_gpt2, {}), (tiny_llama, {}), (tiny_llama, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [PREPROCESSED, ENCRYPTED_CACHE])
def test_the_oracle_replays_a_private_run(
    core: Any, tmp_path: Path, make: Any, overrides: dict[str, Any], protocol: str
) -> None:
    checkpoint = cryptogen.load(make(tmp_path / "model", **overrides))
    run = replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), protocol)
    assert not run.oracle.events and not run.range_events


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_oracle_replays_rows_that_were_dropped(core: Any, tmp_path: Path, make: Any) -> None:
    checkpoint = cryptogen.load(make(tmp_path / "model"))
    run = replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), cut=Cut(before=3, rows=5))
    assert run.oracle.position == 6 and not run.oracle.events


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("prefix", [1, 7])
def test_the_oracle_replays_rows_behind_a_prefix(core: Any, tmp_path: Path, make: Any, prefix: int) -> None:
    """Of which rows are dropped, but not those of the prefix."""
    checkpoint = cryptogen.load(make(tmp_path / "model"))
    tokens = random_tokens(checkpoint.config, prefix, seed=4)
    cut = Cut(before=3, rows=prefix + 2)
    run = replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), cut=cut, prefix=tokens)
    assert run.oracle.position == prefix + 3 and not run.oracle.events


@pytest.mark.long
def test_the_oracle_replays_smollm2(core: Any, tmp_path: Path) -> None:
    try:
        checkpoint = cryptogen.load(find_packaged("smollm2"))
    except MissingPackage:
        pytest.skip("SmolLM2 is not in the cache: run `make demo` once")
    assert checkpoint.tokenizer is not None
    passes = passes_over(checkpoint.tokenizer.encode("The capital of France is Paris, and", special=True))
    run = replayed(core, tmp_path, checkpoint, find_plan(checkpoint, None), passes=passes)
    assert not run.oracle.events


def test_shares_that_do_not_add_up_are_noticed() -> None:
    words = np.array([5, 6], dtype=np.uint64)
    with pytest.raises(ReplayError):
        ReplayShares(words, words[:1])
    for take in ("truncate", "truncate_word"):
        with pytest.raises(ReplayError, match="expected"):
            getattr(ReplayShares(words, words), take)(np.array([1000, 1000]), 2)
    with pytest.raises(ReplayError, match="lifted"):
        ReplayShares(words, words).lift(np.array([10, 13]))
    assert ReplayShares(words, words).lift(np.array([10, 12])).tolist() == [10, 12]
    with pytest.raises(ReplayError, match="fraction"):
        ReplayShares(words + 2048, words + 2048).fraction(np.array([10, 12]))
    assert ReplayShares(words, words).fraction(np.array([1000, 1000])).tolist() == [10, 12]
    with pytest.raises(ReplayError, match="left"):
        ReplayShares(words, words).finish()
