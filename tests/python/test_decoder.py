"""The decoder under the float backend: golden logits, cache, canonical weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.evaluate import perplexity, windows
from cryptogen.models.decoder import forward
from cryptogen.models.functions import gelu, gelu_new, silu
from cryptogen.weights import Checkpoint, load
from cryptogen.weights.canonical import canonicalise
from cryptogen.weights.packages import find_packaged
from tiny import random_tokens, tiny_gpt2, tiny_llama

MODELS: list[tuple[Callable[..., Path], dict[str, Any]]] = [
    (tiny_gpt2, {}),
    (tiny_gpt2, {"activation_function": "gelu", "n_inner": 96, "tie_word_embeddings": False}),
    (tiny_llama, {}),
    (tiny_llama, {"tie_word_embeddings": True, "head_dim": 8, "num_key_value_heads": 1}),
]


def logits(model: Any, tokens: list[int], want: Any = "all") -> np.ndarray:
    out = forward(FloatBackend(model), model.config, tokens, want)
    assert out is not None
    return out


def greedy(checkpoint: Checkpoint, prompt: list[int], steps: int) -> list[int]:
    backend, tokens = FloatBackend(checkpoint), list(prompt)
    for _ in range(steps):
        row = forward(backend, checkpoint.config, tokens[backend.position :])
        assert row is not None
        tokens.append(int(row[0].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(("make", "overrides"), MODELS)
def test_cache_changes_nothing(make: Callable[..., Path], overrides: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = load(make(tmp_path / "m", **overrides))
    tokens = random_tokens(checkpoint.config, 24)
    whole = logits(checkpoint, tokens)  # [24, vocab]
    backend, parts = FloatBackend(checkpoint), []
    for start, stop in ((0, 10), (10, 11), (11, 20), (20, 24)):
        parts.append(forward(backend, checkpoint.config, tokens[start:stop], "all"))
        assert backend.position == stop
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)
    np.testing.assert_allclose(logits(checkpoint, tokens, "last"), whole[-1:], atol=2e-5)
    assert forward(FloatBackend(checkpoint), checkpoint.config, tokens, "none") is None


@pytest.mark.parametrize(("make", "overrides"), MODELS)
def test_canonical_weights_compute_the_same(
    make: Callable[..., Path], overrides: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = load(make(tmp_path / "m", **overrides))
    canonical = canonicalise(checkpoint)
    assert {site: w.shape for site, w in canonical.weight.items()} == checkpoint.config.linear_shapes()
    tokens = random_tokens(checkpoint.config, 40)
    want, got = logits(checkpoint, tokens), logits(canonical, tokens)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_future_tokens_change_nothing(tmp_path: Path) -> None:
    checkpoint = load(tiny_llama(tmp_path / "m"))
    a = random_tokens(checkpoint.config, 16)
    b = a[:8] + random_tokens(checkpoint.config, 8, seed=5)
    np.testing.assert_allclose(logits(checkpoint, a)[:8], logits(checkpoint, b)[:8], atol=1e-5)


def test_bad_tokens(tmp_path: Path) -> None:
    checkpoint = load(tiny_gpt2(tmp_path / "m"))
    for bad in ([], [-1], [512]):
        with pytest.raises(errors.InputError):
            logits(checkpoint, bad)
    backend = FloatBackend(checkpoint)
    forward(backend, checkpoint.config, [0] * 128, "none")
    with pytest.raises(errors.ContextOverflow, match="129 positions needed"):
        forward(backend, checkpoint.config, [0])


def test_observer_sees_every_site(tmp_path: Path) -> None:
    checkpoint = load(tiny_llama(tmp_path / "m"))
    seen: dict[str, list[tuple[int, ...]]] = {}
    backend = FloatBackend(canonicalise(checkpoint), lambda name, x: seen.setdefault(name, []).append(x.shape))
    forward(backend, checkpoint.config, [1, 2, 3])
    c = checkpoint.config
    assert set(c.linear_shapes()) | set(c.norm_sites()) < set(seen)
    assert seen["layers.0.scores"] == [(3, 3)] * c.heads
    assert seen["layers.1.act"] == [(3, c.ff)]


def test_activations() -> None:
    x = np.array([-1e4, -30.0, -1.0, 0.0, 0.5, 2.0, 1e4], dtype=np.float32)
    np.testing.assert_allclose(gelu_new(x), [0, 0, -0.158808, 0, 0.345714, 1.954598, 1e4], atol=1e-5)
    np.testing.assert_allclose(gelu(x), [0, 0, -0.158655, 0, 0.345731, 1.954500, 1e4], atol=1e-5)
    np.testing.assert_allclose(silu(x), [0, 0, -0.268941, 0, 0.311230, 1.761594, 1e4], atol=1e-5)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_golden(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    checkpoint = load(folder)
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        prompt = case["prompt"]
        np.testing.assert_allclose(logits(checkpoint, prompt)[-1], case["last_logits"], atol=1e-3)
        if case["mean_nll"] is not None:
            ppl = perplexity(lambda: FloatBackend(checkpoint), checkpoint.config, [prompt])
            assert ppl.nll[0] == pytest.approx(case["mean_nll"], abs=1e-4)
        # transformers' generate() takes token 0 of a prompt for padding in these models (pad =
        # eos = 0) and leaves it out: with a 0 in the prompt, the recorded text does not even begin
        # with the arg-max of the recorded logits.
        seen = [t for t in prompt if t != 0]
        assert greedy(checkpoint, seen, 16) == case["greedy_16"]


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    try:
        return load(find_packaged("smollm2"))
    except errors.MissingPackage as e:
        pytest.skip(str(e))


def test_golden_smollm2(smollm2: Checkpoint, shared: Path) -> None:
    golden = json.loads((shared / "golden/smollm2-135m/golden.json").read_text())
    tokenizer = smollm2.tokenizer
    assert tokenizer is not None
    for case in golden["prompts"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["greedy_32"], skip_special=False) == case["greedy_text"]
        row = logits(smollm2, case["ids"], "last")[0]
        np.testing.assert_allclose([row[t] for t, _ in case["top10"]], [x for _, x in case["top10"]], atol=1e-3)
        assert greedy(smollm2, case["ids"], 32) == case["greedy_32"]


def test_golden_smollm2_perplexity(smollm2: Checkpoint, shared: Path) -> None:
    golden = json.loads((shared / "golden/smollm2-135m/golden.json").read_text())
    assert smollm2.tokenizer is not None
    tokens = smollm2.tokenizer.encode((shared / "data/wikitext-2-raw/wiki.test.raw").read_text(encoding="utf-8"))
    assert len(tokens) == golden["total_tokens"]
    expected = golden["wikitext2_raw_test_windows_512"]
    parts = windows(tokens, len(expected))
    assert [part[:8] for part in parts] == [w["first_ids"] for w in expected]
    measured = perplexity(lambda: FloatBackend(smollm2), smollm2.config, parts)
    np.testing.assert_allclose(measured.nll, [w["mean_nll"] for w in expected], atol=1e-3)
    assert measured.value == pytest.approx(golden["ppl_6_windows"], abs=0.01)
