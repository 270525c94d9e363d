"""Drafted tokens: the same greedy text, the same distribution, rows dropped on both sides, typed
refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import cryptogen
from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.models.decoder import forward
from cryptogen.protocols import ENCRYPTED_CACHE, RECOMPUTE
from cryptogen.sampling import Sampler
from cryptogen.session import Draft
from cryptogen.session.chat import Conversation
from cryptogen.weights import Checkpoint
from served import MAKERS, Served
from tiny import tiny_llama

# --- the draft's own cache


def test_proposals_do_not_depend_on_what_was_proposed_before(tmp_path: Path) -> None:
    checkpoint = cryptogen.load(tiny_llama(tmp_path / "m"))
    used = Draft(checkpoint, tokens=5)
    for text in ([5, 9, 300], [5, 9, 300, 7], [5, 9, 300, 7, 8, 9], [5, 9], [4], [4]):
        tokens = used.propose(text, 9, Sampler())
        assert tokens == Draft(checkpoint, tokens=5).propose(text, 9, Sampler()) and len(tokens) == 5
        assert tokens == clear_tokens(checkpoint, text, 5)[0]
    context = checkpoint.config.context
    assert len(used.propose([1] * (context - 1), 9, Sampler())) == 2
    assert used.propose([1] * (context + 1), 9, Sampler()) == []
    assert used.propose([1], 0, Sampler()) == []


def test_proposals_are_drawn_with_the_noise_of_their_positions(tmp_path: Path) -> None:
    """So a draft that is the served model itself is always right."""
    checkpoint = cryptogen.load(tiny_llama(tmp_path / "m"))
    sampler, text = Sampler(1.0, seed=3), [5, 9, 300]
    proposed = Draft(checkpoint, tokens=5).propose(text, 9, sampler)
    assert proposed != clear_tokens(checkpoint, text, 5)[0]
    for token in proposed:
        rows = forward(FloatBackend(checkpoint), checkpoint.config, text)
        assert rows is not None and token == sampler.sample(rows[0], len(text))
        text = [*text, token]


# --- two parties


def blurred(model: Checkpoint, scale: float) -> Checkpoint:
    """The same model with noise on its matrices: often, not always, of the same opinion."""
    rng = np.random.default_rng(5)
    tensors = {
        name: t + (scale * t.std() * rng.standard_normal(t.shape)).astype(np.float32) if t.ndim == 2 else t
        for name, t in model.tensors.items()
    }
    return dataclasses.replace(model, tensors=tensors)


def clear_tokens(model: Checkpoint, prompt: list[int], n: int) -> tuple[list[int], float]:
    """The float model's greedy tokens, and the least lead of a best token."""
    text, lead = list(prompt), np.inf
    for _ in range(n):
        rows = forward(FloatBackend(model), model.config, text)
        assert rows is not None
        best, second = np.sort(rows[0])[[-1, -2]]
        text, lead = [*text, int(rows[0].argmax())], min(lead, float(best - second))
    return text[len(prompt) :], lead


def clear_prompt(model: Checkpoint, n: int) -> tuple[list[int], list[int]]:
    """A prompt without near ties in its next `n` tokens, and those."""
    rng = np.random.default_rng(1)
    found = None
    for _ in range(40):
        prompt = [int(t) for t in rng.integers(3, model.config.vocab, 3)]
        tokens, lead = clear_tokens(model, prompt, n)
        if found is None or lead > found[2]:
            found = prompt, tokens, lead
    assert found is not None and found[2] > 0.05, found
    return found[:2]


def test_greedy_text_is_the_same_with_any_draft(served: Served, tmp_path: Path) -> None:
    n = 8
    prompt, expected = clear_prompt(served.model, n)
    other = cryptogen.load(
        MAKERS["gpt2" if served.model.config.norm == "layer" else "llama"](tmp_path / "other", seed=1)
    )
    with served.client(tmp_path) as client:
        start = client.costs
        plain = [t.id for t in client.generate(prompt, max_new_tokens=n, stop=())]
        round_trips = (client.costs - start).online.round_trips / n  # of a pass
        assert plain == expected
        for model, tokens in ((served.model, 3), (blurred(served.model, 0.3), 3), (other, 2)):
            draft, before = Draft(model, tokens), client.costs
            answer = [t.id for t in client.generate(prompt, max_new_tokens=n, stop=(), draft=draft)]
            done, stats = client.costs - before, draft.stats
            assert answer == plain
            assert done.tokens == n and done.rows == len(prompt) + stats.passes + stats.drafted
            assert done.spent["rows"] >= done.rows and done.spent["logits"] >= 1 + stats.passes + stats.drafted
            assert done.online.round_trips == pytest.approx(round_trips * (1 + stats.passes), abs=n)
            assert stats.accepted + stats.passes == n - 1  # each pass gives one more token than it accepts
            if model is served.model:
                assert stats.acceptance_rate == 1.0 and stats.passes == -(-(n - 1) // (tokens + 1))
            if model is other:
                assert stats.acceptance_rate < 1.0


def sampled_prompt(model: Checkpoint, n: int, sampler: Sampler) -> tuple[list[int], list[int]]:
    """A prompt whose next `n` sampled tokens are no near ties once the noise is added, and
    those."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        text = prompt = [int(t) for t in rng.integers(3, model.config.vocab, 3)]
        clear = True
        for _ in range(n):
            rows = forward(FloatBackend(model), model.config, text)
            assert rows is not None
            shaken = {sampler.sample(rows[0] + 0.05 * rng.standard_normal(rows[0].shape), len(text)) for _ in range(20)}
            clear &= len(shaken) == 1
            text = [*text, sampler.sample(rows[0], len(text))]
        if clear:
            return prompt, text[len(prompt) :]
    raise AssertionError("no clear prompt")


def test_sampled_text_is_the_same_with_any_draft(llama: Served, tmp_path: Path) -> None:
    n, options = 6, {"temperature": 0.9, "top_k": 40, "seed": 3}
    prompt, expected = sampled_prompt(llama.model, n, Sampler(**options))
    with llama.client(tmp_path) as client:
        for model in (None, llama.model, blurred(llama.model, 0.5)):
            draft = Draft(model, 2) if model else None
            answer = [t.id for t in client.generate(prompt, max_new_tokens=n, stop=(), draft=draft, **options)]
            assert answer == expected
            if draft and model is llama.model:
                assert draft.stats.acceptance_rate == 1.0
            if draft and model is not llama.model:
                assert draft.stats.acceptance_rate < 1.0


def test_a_session_goes_on_after_tokens_that_were_not_taken(llama: Served, tmp_path: Path) -> None:
    """The caller leaves in the middle of a pass: what it has not been given is not in the
    session."""
    prompt, expected = clear_prompt(llama.model, 8)
    with llama.client(tmp_path) as client:
        stream = client.generate(prompt, max_new_tokens=8, stop=(), draft=Draft(llama.model, 6))
        taken = [next(stream).id for _ in range(3)]
        assert taken == expected[:3]
        assert client.length == len(prompt) + 3  # of the accepted ones the last is computed, too
        for draft in (None, Draft(llama.model, 2)):
            more = [t.id for t in client.generate([9], max_new_tokens=3, stop=(), continue_session=True, draft=draft)]
            assert not fidelity(llama.model, [*prompt, *taken, 9], more).violations
            taken += [9, *more]
        stopped = list(client.generate(prompt, max_new_tokens=8, stop=[expected[2]], draft=Draft(llama.model, 6)))
        assert [t.id for t in stopped] == expected[:3]
        assert client.length == len(prompt) + 3


def test_a_conversation_with_a_draft(llama: Served, tmp_path: Path) -> None:
    draft = Draft(blurred(llama.model, 0.3), 3)
    with llama.client(tmp_path) as client:
        chat = Conversation(client, system="x")
        first = [t.id for t in chat.say("a", max_new_tokens=4, draft=draft)]
        rows = client.length
        second = [t.id for t in chat.say("b", max_new_tokens=4, draft=draft)]
        assert first and second and client.length > rows
    assert draft.stats.passes > 0


def test_recompute_with_a_draft(llama: Served, tmp_path: Path) -> None:
    prompt, expected = clear_prompt(llama.model, 4)
    with llama.client(tmp_path, protocol=RECOMPUTE) as client:
        draft = Draft(llama.model, 2)
        assert [t.id for t in client.generate(prompt, max_new_tokens=4, stop=(), draft=draft)] == expected
        assert draft.stats.passes == 1 and draft.stats.acceptance_rate == 1.0
        other = Draft(blurred(llama.model, 1.0), 2)
        assert [t.id for t in client.generate(prompt, max_new_tokens=3, stop=(), draft=other)] == expected[:3]


def test_up_to_the_end_of_the_context(llama: Served, tmp_path: Path) -> None:
    context = llama.model.config.context
    prompt = [int(t) for t in np.random.default_rng(2).integers(3, 500, context - 4)]
    with llama.client(tmp_path) as client:
        answer = [t.id for t in client.generate(prompt, max_new_tokens=5, stop=(), draft=Draft(llama.model))]
        assert client.length <= context and not fidelity(llama.model, prompt, answer).violations
        with pytest.raises(errors.ContextOverflow):
            client.generate(prompt, max_new_tokens=6, draft=Draft(llama.model))


# --- refusals


def test_drafts_that_do_not_fit_are_refused_before_any_work(llama: Served, tmp_path: Path) -> None:
    small = cryptogen.load(tiny_llama(tmp_path / "small", vocab_size=480))
    renamed = cryptogen.load(tiny_llama(tmp_path / "renamed"))
    tokenizer = renamed.tokenizer
    assert tokenizer is not None
    document = json.loads(tokenizer.to_json())
    names = document["model"]["vocab"]
    names["a"], names["b"] = names["b"], names["a"]
    renamed = dataclasses.replace(renamed, tokenizer=type(tokenizer).from_json(json.dumps(document)))
    for tokens in (0, 64):
        with pytest.raises(errors.InputError, match="1 to 63"):
            Draft(small, tokens)
    with pytest.raises(errors.MissingFile):
        Draft(tmp_path / "nothing")
    with llama.client(tmp_path) as client:
        before = client.costs
        with pytest.raises(errors.InputError, match="512 tokens expected, the draft has 480"):
            client.generate([5], draft=Draft(small))
        with pytest.raises(errors.InputError, match="2 tokens of it differ"):
            client.generate([5], draft=Draft(renamed))
        assert client.costs.offline == before.offline and client.costs.online == before.online
    with llama.client(tmp_path, protocol=ENCRYPTED_CACHE) as client:
        with pytest.raises(errors.InputError, match="encrypted-cache"):
            client.generate([5], draft=Draft(llama.model))
