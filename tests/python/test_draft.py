"""Drafted tokens: the same greedy text, the same distribution, rows dropped on both sides, typed refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import cryptogen
from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.bench.fidelity import fidelity
from cryptogen.models.decoder import forward
from cryptogen.protocols import ENCRYPTED_CACHE, RECOMPUTE
from cryptogen.sampling import Sampler
from cryptogen.session import Draft
from cryptogen.session.chat import Conversation
from cryptogen.weights import Checkpoint
from served import MAKERS, Served
from tiny import tiny_llama

# --- the rule

P = np.log(np.array([[0.1, 0.4, 0.05, 0.3, 0.15], [0.5, 0.1, 0.2, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]]))
Q = np.log(np.array([[0.3, 0.2, 0.3, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]]))
RUNS = 5_000


def chi_square(tokens: list[int], p: np.ndarray) -> float:
    """Pearson's statistic, relative to its 99.99 % quantile (Wilson and Hilferty): above 1 is another distribution."""
    expected = p[p > 0] * len(tokens)
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[p == 0].sum() == 0
    freedom = max(len(expected) - 1, 1)
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.72 * np.sqrt(2 / (9 * freedom))) ** 3
    return float(((counts[p > 0] - expected) ** 2 / expected).sum() / quantile)


def dense(sampler: Sampler, logits: np.ndarray) -> np.ndarray:
    p = np.zeros(len(logits))
    tokens, p_of = sampler.distribution(logits)
    p[tokens] = p_of
    return p


@pytest.mark.parametrize("options", [(1.0, None, 1.0), (0.7, None, 1.0), (1.0, 3, 1.0), (1.3, None, 0.8)])
def test_verified_tokens_are_distributed_as_sampled_ones(options: tuple[float, int | None, float]) -> None:
    sampler = Sampler(*options, seed=11)
    drawn = [sampler.distribution(q) for q in Q]
    drafted = [[sampler.sample(q) for q in Q] for _ in range(RUNS)]
    chosen = [sampler.verify(tokens, drawn, P) for tokens in drafted]
    for place, logits in enumerate(P):
        tokens = [c[place] for c in chosen if len(c) > place]
        assert len(tokens) > RUNS // 50
        assert chi_square(tokens, dense(sampler, logits)) < 1
    # the test would notice: drafted tokens that nobody rejects are distributed otherwise
    counts = np.bincount([d[0] for d in drafted], minlength=5) / RUNS
    assert np.abs(counts - dense(sampler, P[0])).max() > 0.05


def test_greedy_accepts_the_best_tokens_only() -> None:
    sampler = Sampler()
    one = [sampler.distribution(row) for row in (P[0], Q[1])]
    assert sampler.verify([1, 4], one, P) == [1, 0]  # the second is not the best of its row: the best follows
    both = [sampler.distribution(row) for row in P[:2]]
    assert sampler.verify([1, 0], both, P) == [1, 0, 0]  # and one more where all are accepted
    assert sampler.verify([], [], P[:1]) == [1]
    with pytest.raises(errors.InputError):
        sampler.verify([1], both[:1], np.array([[np.nan, 1.0], [0.0, 1.0]]))


# --- the draft's own cache


def test_proposals_do_not_depend_on_what_was_proposed_before(tmp_path: Path) -> None:
    checkpoint = cryptogen.load(tiny_llama(tmp_path / "m"))
    used = Draft(checkpoint, tokens=5)
    for text in ([5, 9, 300], [5, 9, 300, 7], [5, 9, 300, 7, 8, 9], [5, 9], [4], [4]):
        tokens, drawn = used.propose(text, 9, Sampler())
        assert tokens == Draft(checkpoint, tokens=5).propose(text, 9, Sampler())[0] and len(tokens) == len(drawn) == 5
        assert tokens == clear_tokens(checkpoint, text, 5)[0]
    context = checkpoint.config.context
    assert len(used.propose([1] * (context - 1), 9, Sampler())[0]) == 2
    assert used.propose([1] * (context + 1), 9, Sampler()) == ([], [])
    assert used.propose([1], 0, Sampler()) == ([], [])


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
    other = cryptogen.load(MAKERS[served.model.config.arch](tmp_path / "other", seed=1))
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
            assert done.spent["slots"] >= done.rows and done.spent["heads"] >= 1 + stats.passes + stats.drafted
            assert done.online.round_trips == pytest.approx(round_trips * (1 + stats.passes), abs=n)
            assert stats.accepted + stats.passes == n - 1  # each pass gives one more token than it accepts
            if model is served.model:
                assert stats.acceptance_rate == 1.0 and stats.passes == -(-(n - 1) // (tokens + 1))
            if model is other:
                assert stats.acceptance_rate < 1.0


def test_sampling_with_a_draft_repeats(llama: Served, tmp_path: Path) -> None:
    options = {"max_new_tokens": 4, "temperature": 0.9, "top_k": 40, "seed": 3, "stop": ()}
    with llama.client(tmp_path) as client:
        one, two = (
            [t.id for t in client.generate([5, 6], draft=Draft(blurred(llama.model, 0.5), 2), **options)]
            for _ in range(2)
        )
    assert one == two and len(one) == 4


def test_a_session_goes_on_after_tokens_that_were_not_taken(llama: Served, tmp_path: Path) -> None:
    """The caller leaves in the middle of a pass: what it has not been given is not in the session."""
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
    codec = renamed.tokenizer
    assert codec is not None
    document = json.loads(codec.to_json())
    names = document["model"]["vocab"]
    names["a"], names["b"] = names["b"], names["a"]
    renamed = dataclasses.replace(renamed, tokenizer=type(codec).from_json(json.dumps(document)))
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
