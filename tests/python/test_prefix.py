"""Rows that the server computes in the clear: its system prompt, the head of the chat template."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cryptogen
from cryptogen import _core, errors
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.rounding import Nearest
from cryptogen.bench.shapes import quick_plan
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.models.decoder import forward
from cryptogen.numerics.plan import NumericPlan, tables
from cryptogen.numerics.quantise import on_demand, quantise
from cryptogen.protocols import ENCRYPTED_CACHE, RECOMPUTE
from cryptogen.session import Draft, messages
from cryptogen.session.chat import Conversation
from cryptogen.session.offer import receive_offer
from cryptogen.session.prefix import Prefix, digest_of
from cryptogen.tokens.chat import Message
from cryptogen.weights.canonical import canonicalise
from served import Served, model_with_plan, serving
from test_bad_input import _connection, _endpoint
from test_cli import failing
from test_draft import blurred
from tiny import tiny_llama

SECRET = "SPEAK LIKE A PIRATE, MATEY."  # the tiny tokenizer has a token for each of these characters
OTHER_SECRET = "ARGUE LIKE A LAWYER, ABBEY."
HELLO: Message = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a system prompt."""
    with serving(tmp_path_factory.mktemp("secretive"), system_prompt=f"\n{SECRET}\n") as server:
        yield server


def prompt_of(served: Served, text: str = SECRET) -> list[int]:
    """The tokens that the server makes of its system prompt."""
    tokenizer = served.model.tokenizer
    assert tokenizer is not None and tokenizer.chat is not None
    return tokenizer.encode(f"<|im_start|>system\n{text}<|im_end|>\n", special=False)


def said(talk: Conversation, text: str, n: int, **options: object) -> list[int]:
    return [t.id for t in talk.say(text, max_new_tokens=n, **options)]


# --- what both know: the head of the chat template


def test_a_conversation_begins_with_the_head_of_the_chat_template(llama: Served, tmp_path: Path) -> None:
    tokenizer = llama.model.tokenizer
    assert tokenizer is not None
    head, text = tokenizer.chat_head(), tokenizer.encode_chat([HELLO])
    assert tokenizer.decode(head, skip_special=False) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    answers = []
    for protocol in ("preprocessed", RECOMPUTE):
        with llama.client(tmp_path, protocol=protocol) as client:
            known = len(head) if protocol == "preprocessed" else 0
            assert client.secret_rows == 0
            talk = Conversation(client)
            answers.append(said(talk, "hello", 3))
            assert client.length == len(text) + 2  # with the head: the client knows its tokens
            assert client.costs.known_rows == known
            if protocol == "preprocessed":
                assert client.costs.rows == len(text) + 2 - known
                assert client.costs.spent["rows"] == client.costs.rows
                assert client.costs.spent["exponentials"] == client.checked_plan.exponentials_needed(
                    known, client.costs.rows
                )
                first = client.costs
                more = said(talk, "more", 2)
                assert client.costs.known_rows == known and client.costs.rows - first.rows >= 4
                turn = tokenizer.encode("\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n", special=False)
                end = [] if answers[0][-1] == 2 else [2]
                assert not fidelity(llama.model, [*text, *answers[0], *end, *turn], more).violations
    assert answers[0] == answers[1] and not fidelity(llama.model, text, answers[0]).violations


def test_the_same_choices_with_and_without_the_head(llama: Served, tmp_path: Path) -> None:
    """The noise of a token follows from its position, that of the whole text."""
    tokenizer = llama.model.tokenizer
    assert tokenizer is not None
    text, head = tokenizer.encode_chat([HELLO]), len(tokenizer.chat_head())
    options = {"max_new_tokens": 4, "temperature": 0.9, "top_k": 3, "seed": 5, "stop": ()}
    with llama.client(tmp_path) as client:
        behind = [t.id for t in client.generate(text, **options)]  # type: ignore[arg-type]
        assert client.costs.known_rows == head
        client.reset()
        client.score(text[:1])  # a text that has begun otherwise
        whole = [t.id for t in client.generate(text[1:], continue_session=True, **options)]  # type: ignore[arg-type]
        assert client.costs.known_rows == head
        assert behind == whole


def test_texts_that_do_not_begin_with_the_head_are_computed_whole(llama: Served, tmp_path: Path) -> None:
    tokenizer = llama.model.tokenizer
    assert tokenizer is not None
    head = tokenizer.chat_head()
    with llama.client(tmp_path) as client:
        other = [*head[:-1], head[-1] + 1, 5]
        for text in (head, head[:-1], other, [5, 9, 300]):  # of the head alone no row would be left to sample
            before = client.costs
            answer = [t.id for t in client.generate(text, max_new_tokens=2, stop=())]
            spent = client.costs - before
            assert spent.known_rows == 0 and spent.rows == len(text) + 1 == client.length
            assert not fidelity(llama.model, text, answer).violations
        Conversation(client, system="x").say("a", max_new_tokens=1)
        assert client.score([*head, 5]).logits.shape == (len(head) + 1, llama.model.config.vocab)
        assert client.costs.known_rows == 0
        before = client.costs
        list(client.generate([*head, 5], max_new_tokens=1))
        assert (client.costs - before).known_rows == len(head) and (client.costs - before).rows == 1


def test_what_a_text_begins_with_is_named_by_a_digest() -> None:
    prefix = Prefix(2, digest_of([1, 2]))
    assert prefix.begins([1, 2, 3]) and not prefix.secret
    assert not prefix.begins([1, 2]) and not prefix.begins([2, 1, 3]) and not prefix.begins([258, 0, 3])
    assert Prefix(2, None).secret and not Prefix(2, None).begins([1, 2, 3])
    assert digest_of([258, 3]) == hashlib.sha256(bytes([2, 1, 0, 0, 3, 0, 0, 0])).hexdigest()


# --- what the server alone knows: its system prompt


def test_the_text_stands_behind_a_system_prompt_that_costs_no_rows(secretive: Served, tmp_path: Path) -> None:
    secret = prompt_of(secretive)
    tokenizer = secretive.model.tokenizer
    assert tokenizer is not None
    with secretive.client(tmp_path) as client:
        assert client.secret_rows == len(secret)
        own = tokenizer.encode_chat([HELLO], behind_system=True)
        assert tokenizer.decode(own, skip_special=False).startswith("<|im_start|>user\nhello")
        talk = Conversation(client)
        first = said(talk, "hello", 3)
        assert not fidelity(secretive.model, [*secret, *own], first).violations
        costs = client.costs
        assert costs.known_rows == len(secret) and costs.rows == len(own) + 2 == costs.spent["rows"]
        assert costs.spent["exponentials"] == client.checked_plan.exponentials_needed(len(secret), costs.rows)
        assert client.length == len(secret) + len(own) + 2
        said(talk, "more", 2)
        assert client.costs.known_rows == len(secret)  # one text
        plain = [t.id for t in client.generate([5, 9, 300], max_new_tokens=3, stop=())]  # and a new one
        assert client.costs.known_rows == 2 * len(secret)
        assert not fidelity(secretive.model, [*secret, 5, 9, 300], plain).violations
        other = said(Conversation(client, system="x"), "a", 2)
        text = tokenizer.encode_chat([{"role": "system", "content": "x"}, {"role": "user", "content": "a"}])
        assert not fidelity(secretive.model, [*secret, *text], other).violations


def test_rows_behind_a_system_prompt_are_the_oracles(secretive: Served, tmp_path: Path) -> None:
    secret, text = prompt_of(secretive), [5, 9, 300, 7]
    plan = quick_plan(secretive.model)
    oracle = FixedBackend(quantise(canonicalise(secretive.model), plan), plan, Nearest())
    with secretive.client(tmp_path) as client:
        rows = client.score(text)
        assert client.length == len(secret) + len(text) and client.costs.rows == len(text)
        answer = [t.id for t in client.generate([7], max_new_tokens=2, stop=(), continue_session=True)]
    expected = forward(oracle, secretive.model.config, [*secret, *text], "all")
    assert isinstance(expected, np.ndarray)
    assert (
        np.abs(rows.logits - expected[len(secret) :]).max() < 0.05 < np.abs(rows.logits - expected[: len(text)]).max()
    )
    assert rows.events == (0,) * len(text)
    assert not fidelity(secretive.model, [*secret, *text, 7], answer).violations


def test_drafted_tokens_behind_a_system_prompt(secretive: Served, tmp_path: Path) -> None:
    with secretive.client(tmp_path) as client:
        plain = [t.id for t in client.generate([5, 9, 300], max_new_tokens=6, stop=())]
        for model in (secretive.model, blurred(secretive.model, 20.0)):
            draft = Draft(model, 3)
            assert [t.id for t in client.generate([5, 9, 300], max_new_tokens=6, stop=(), draft=draft)] == plain
        assert draft.stats.accepted < draft.stats.drafted  # rows were dropped, not those of the prompt
        assert client.costs.known_rows == 3 * client.secret_rows


def test_two_secrets_of_one_length_look_alike(secretive: Served, tmp_path: Path) -> None:
    """To a client: the offer, and every message's length."""
    assert len(prompt_of(secretive)) == len(prompt_of(secretive, OTHER_SECRET))
    found = []
    with serving(tmp_path / "other", system_prompt=OTHER_SECRET) as second:
        for name, served in (("a", secretive), ("b", second)):
            with served.client(tmp_path / name, client_id="same") as client:
                offer, _ = receive_offer(_connection(served), tmp_path / "offer")
                before = client.costs
                list(client.generate([5, 9, 300], max_new_tokens=3, stop=()))
                spent = client.costs - before
                counted = [
                    (phase.bytes_sent, phase.bytes_received, phase.round_trips)
                    for phase in (spent.offline, spent.online)
                ]
                # what a server calls itself is random, and its own
                found.append((dataclasses.replace(offer, server=""), counted, spent.spent))
    assert found[0] == found[1]


def test_material_bought_ahead_is_enough_behind_a_system_prompt(secretive: Served, tmp_path: Path) -> None:
    with secretive.client(tmp_path) as client:
        client.prepare(7, context=7)
        calls: list[object] = []
        list(client.generate([5, 9, 300], max_new_tokens=5, stop=(), progress=lambda *a: calls.append(a)))
        assert not calls and client.costs.left["rows"] == 0


def test_the_context_holds_the_system_prompt_and_the_text(tmp_path: Path) -> None:
    with serving(tmp_path, system_prompt="the rain " * 20) as served, served.client(tmp_path / "c") as client:
        secret, context = prompt_of(served, ("the rain " * 20).strip()), served.model.config.context
        assert client.secret_rows == len(secret)
        room = context - len(secret)
        assert 4 <= room < 60, room
        text = [int(t) for t in np.random.default_rng(3).integers(3, 500, room - 2)]
        with pytest.raises(errors.ContextOverflow, match=f"{context + 1} positions needed"):
            client.generate(text, max_new_tokens=4, stop=())
        with pytest.raises(errors.ContextOverflow):
            client.score([5] * (room + 1))
        # Material for texts as long as there is room for: pairs are made by the ciphertext.
        client.prepare(2 * room + 3, context=10**6)
        pairs, left = client.checked_plan.exponentials_needed, client.costs.left
        assert left["rows"] == 2 * room + 3
        assert 0 <= left["exponentials"] - 2 * pairs(len(secret), room) - pairs(len(secret), 3) < 1024
        answer = [t.id for t in client.generate(text, max_new_tokens=3, stop=())]
        assert client.length == context and not fidelity(served.model, [*secret, *text], answer).violations


@pytest.mark.parametrize("protocol", [ENCRYPTED_CACHE, RECOMPUTE])
def test_only_the_default_protocol_can_have_a_system_prompt(secretive: Served, tmp_path: Path, protocol: str) -> None:
    with pytest.raises(errors.InputError, match=f"{protocol}: this server puts a system prompt.*only preprocessed can"):
        secretive.client(tmp_path, protocol=protocol).connect()


@pytest.mark.parametrize("protocol", [ENCRYPTED_CACHE, RECOMPUTE])
def test_the_core_refuses_rows_that_only_the_default_protocol_can_have(
    llama: Served, tmp_path: Path, protocol: str
) -> None:
    endpoint = _endpoint(llama, tmp_path, protocol)
    with pytest.raises(errors.InputError, match=f"expected preprocessed, got {protocol}"):
        endpoint.put_prefix(3)
    assert endpoint.length == 0
    endpoint.send_control(messages.encode(messages.Begin()))
    with pytest.raises(errors.PeerFailed):
        endpoint.recv_control()


# --- what is refused


def test_system_prompts_that_cannot_be(tmp_path: Path) -> None:
    path = model_with_plan(tmp_path)
    model = cryptogen.load(path)

    def refused(error: type[Exception], match: str, text: str, served: object = model, **options: object) -> None:
        with pytest.raises(error, match=match):
            cryptogen.Server(served, data_dir=tmp_path / "data", system_prompt=text, **options)  # type: ignore[arg-type]

    refused(errors.InputError, "empty", " \n ")
    refused(errors.ContextOverflow, "the system prompt and a token: .* the model's context has 128", "the rain " * 80)
    plan = quick_plan(model)
    assert model.tokenizer is not None
    bare = type(model.tokenizer).from_json(model.tokenizer.to_json())
    refused(errors.ChatTemplateError, "has none", "x", dataclasses.replace(model, tokenizer=bare), plan=plan)
    refused(
        errors.InputError, "needs a model with a tokenizer", "x", dataclasses.replace(model, tokenizer=None), plan=plan
    )
    document = json.loads(plan.to_json())
    document["norms"][0]["scalar"]["hi"]["mu"] -= 4  # mean squares are far outside their window then
    narrow = NumericPlan.from_json(json.dumps(document))
    refused(errors.InputError, "range events, 0 expected", "x", plan=narrow)
    # Without one the client computes the head itself, and learns of its events.
    assert cryptogen.Server(model, narrow, data_dir=tmp_path / "data").offer.prefix is None
    assert cryptogen.Server(model, plan, data_dir=tmp_path / "data").offer.prefix is not None
    for tokenizer in (bare, None):
        other = dataclasses.replace(model, tokenizer=tokenizer)
        assert cryptogen.Server(other, plan, data_dir=tmp_path / "data").offer.prefix is None


def test_files_of_system_prompts(tmp_path: Path) -> None:
    path, file = model_with_plan(tmp_path), tmp_path / "prompt.txt"
    arguments = ["serve", str(path), "--data-dir", str(tmp_path), "--system-prompt", str(file)]
    assert "prompt.txt: no such file (system prompt)" in failing(*arguments)
    file.write_bytes(b"caf\xe9")
    assert "UTF-8 text expected, byte 4 is none (system prompt)" in failing(*arguments)
    file.write_text("")
    assert "the system prompt is empty" in failing(*arguments)


def test_a_client_cannot_leave_the_system_prompt_out(secretive: Served, tmp_path: Path) -> None:
    rows = len(prompt_of(secretive))

    def asked(*steps: messages.Message) -> None:
        """The last of these steps is refused."""
        endpoint = _endpoint(secretive, tmp_path / str(len(list(tmp_path.iterdir()))))
        for step in steps[:-1]:
            endpoint.send_control(messages.encode(step))
        for step in steps[:-1]:
            if isinstance(step, messages.Begin):
                endpoint.put_prefix(rows)
        endpoint.send_control(messages.encode(steps[-1]))
        with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
            endpoint.recv_control()

    asked(messages.Extend(1))
    asked(messages.Begin(), messages.Begin())
    asked(messages.Begin(), messages.Crop(rows - 1))
    asked(messages.Begin(), messages.Reset(), messages.Extend(1))


def test_a_client_cannot_begin_where_there_is_no_prefix(tmp_path: Path) -> None:
    model = cryptogen.load(model_with_plan(tmp_path))
    bare = dataclasses.replace(model, tokenizer=None)
    with serving(tmp_path, model=bare, plan=quick_plan(model)) as served:
        endpoint = _endpoint(served, tmp_path / "client")
        endpoint.send_control(messages.encode(messages.Begin()))
        with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
            endpoint.recv_control()


# --- the integers


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_weights_on_demand_are_the_same_integers(tmp_path: Path, kind: str) -> None:
    from served import MAKERS

    checkpoint = cryptogen.load(MAKERS[kind](tmp_path / kind))
    plan = quick_plan(checkpoint)
    tokens = [5, 9, 511, 0, 9]
    made, whole = (
        on_demand(canonicalise(checkpoint, keep=False), plan, tokens),
        quantise(canonicalise(checkpoint), plan),
    )
    assert np.array_equal(made.embed, whole.embed[tokens])
    for one, other in ((made.matrices, whole.matrices), (made.biases, whole.biases)):
        assert set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)
    assert (made.pos is None) == (kind == "llama") and np.array_equal(made.pos, whole.pos)  # type: ignore[arg-type]
    site = "layers.0.qkv"
    assert made.matrices[site] is not made.matrices[site]


def test_the_heads_of_chat_templates(tmp_path: Path) -> None:
    model = cryptogen.load(tiny_llama(tmp_path / "m"))
    tokenizer = model.tokenizer
    assert tokenizer is not None
    head = tokenizer.chat_head()
    for text in ("hello", "\n\nhello", " x", "ß", "user", "<|im_end|>", "1"):
        assert tokenizer.encode_chat([{"role": "user", "content": text}])[: len(head)] == head
    system: list[Message] = [{"role": "system", "content": "Be brief!"}, HELLO]
    assert tokenizer.encode_chat(system)[: len(head)] != head
    with pytest.raises(errors.ChatTemplateError, match="has none"):
        type(tokenizer).from_json(tokenizer.to_json()).chat_head()


def test_a_prefix_has_keys_and_values_of_every_layer_and_no_others(tmp_path: Path) -> None:
    model = cryptogen.load(tiny_llama(tmp_path / "m"))
    plan = quick_plan(model)
    checked, layers = _core.CheckedPlan(plan.to_json(), tables(plan)), model.config.layers
    row = np.zeros((2, model.config.kv_width), dtype=np.int64)
    assert _core.Prefix(checked, [row] * layers, [row] * layers).rows == 2
    for keys, values in ((layers + 1, layers), (layers, layers + 1), (layers + 1, layers + 1), (layers - 1, layers)):
        with pytest.raises(errors.InputError, match=f"expected {layers}"):
            _core.Prefix(checked, [row] * keys, [row] * values)
