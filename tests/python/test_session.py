"""Two parties over TLS on tiny models: the right tokens, several clients, continued sessions,
crashes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import cryptogen
from cryptogen.bench.shapes import SHAPES
from cryptogen.errors import (
    ConnectionLost,
    ContextOverflow,
    CryptogenError,
    InputError,
    MaterialMismatch,
    StoreError,
)
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.processes import ServerProcess
from cryptogen.protocols import PREPROCESSED, RECOMPUTE
from cryptogen.session.chat import Conversation
from cryptogen.session.material import PASS_BYTES, attention_bytes, rows_of_pass
from served import ACCESS_TOKEN, Served, cursors, model_with_plan, serving
from tiny import random_tokens

PROMPT = "the end"


def test_the_clear_models_tokens_and_a_second_prompt_from_the_cache(served: Served, tmp_path: Path) -> None:
    with served.client(tmp_path) as client:
        ids = client.encode(PROMPT)
        tokens = list(client.generate(PROMPT, max_new_tokens=5, stop=()))
        answer = [t.id for t in tokens]
        assert len(answer) == 5
        assert not fidelity(served.model, ids, answer).violations
        assert "".join(t.text for t in tokens) == served.model.tokenizer.decode(answer)
        first = client.costs
        assert first.rows == client.length == len(ids) + 4  # the last token is not fed yet
        assert first.online.round_trips > 0 and first.offline.bytes > first.online.bytes > 0
        assert first.spent["rows"] >= first.rows and first.spent["logits"] >= 5

        more = client.encode(" of it", first=False)
        second = [t.id for t in client.generate(" of it", max_new_tokens=3, stop=(), continue_session=True)]
        assert not fidelity(served.model, ids + answer + more, second).violations
        assert client.costs.rows - first.rows == 1 + len(more) + 2  # nothing is computed twice


def test_material_bought_ahead_is_enough_and_outlives_the_connection(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        client.prepare(20, context=20)
        bought = client.costs.left
    with llama.client(tmp_path) as client:
        before = client.costs
        assert before.left == bought and before.setup.bytes_received < 2_000_000  # documents, keys
        ids = client.encode(PROMPT)
        calls = []
        answer = [t.id for t in client.generate(ids, max_new_tokens=4, stop=(), progress=lambda *a: calls.append(a))]
        assert not calls  # nothing had to be bought
        assert client.costs.left["rows"] <= bought["rows"] - len(ids) - 3
    assert not fidelity(llama.model, ids, answer).violations


def test_a_prompt_is_bought_ahead_with_the_logits_of_one_row(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        ids = client.encode(PROMPT)
        with pytest.raises(InputError, match="neither"):
            client.prepare()
        client.prepare(context=len(ids))
        bought, calls = client.costs.left, []
        assert (bought["rows"], bought["logits"]) == (len(ids), 1)
        list(client.generate(ids, max_new_tokens=1, stop=(), progress=lambda *a: calls.append(a)))
        assert not calls  # nothing had to be bought
        left = client.costs.left
        assert (left["rows"], left["logits"]) == (0, 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_made_ready_ahead_leave_the_passes_alone(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, kind) as served, served.client(tmp_path) as client:
        ids = random_tokens(served.model.config, 9)
        client.make_ready(6)
        client.make_ready(6)
        ready, before = client.costs.spent, client.costs
        assert ready["rows"] == 12
        (first,) = client.generate(ids, max_new_tokens=1, stop=())
        cost = client.costs - before
        assert (cost.spent["rows"], cost.spent["exponentials"], cost.spent["logits"]) == (0, 0, 1)
        assert not fidelity(served.model, ids, [first.id]).violations
        # The rest is for what follows; a text after it begins anew.
        rest = [t.id for t in client.generate([5], max_new_tokens=2, stop=(), continue_session=True)]
        assert not fidelity(served.model, [*ids, first.id, 5], rest).violations
        assert client.costs.spent["rows"] == 12
        again = [t.id for t in client.generate(ids, max_new_tokens=2, stop=())]
        assert again[0] == first.id and client.costs.spent["rows"] > 12
        client.reset()
        for rows, error in ((0, InputError), (client.config.context + 1, ContextOverflow)):
            with pytest.raises(error):
                client.make_ready(rows)


def test_a_prompt_of_a_hundred_rows_is_one_pass(llama: Served, tmp_path: Path) -> None:
    assert llama.model.config.context > 100
    ids = random_tokens(llama.model.config, 100)
    with llama.client(tmp_path) as client:
        trips, answers = [], []
        for prompt in (ids[:2], ids):
            before = client.costs
            answers.append([t.id for t in client.generate(prompt, max_new_tokens=1, stop=())])
            trips.append((client.costs - before).online.round_trips)
        assert trips[0] == trips[1]
    assert not fidelity(llama.model, ids, answers[1]).violations


def test_passes_are_as_large_as_memory_allows() -> None:
    config = SHAPES["smollm2"]
    small, gpt2 = replace(config, vocab=512), SHAPES["gpt2"]
    assert [rows_of_pass(small, PREPROCESSED, first, 128) for first in (0, 400)] == [128, 64]
    rows = rows_of_pass(gpt2, PREPROCESSED, 0, 200)
    size, more = (16 * gpt2.vocab * n + attention_bytes(gpt2, 0, n) for n in (rows, rows + 1))
    assert rows > 64 and size <= PASS_BYTES < more
    assert attention_bytes(config, 3, 2) == 16 * 30 * 9 * (4 + 5)
    assert rows_of_pass(small, PREPROCESSED, 0, 70) == 70
    # More than a block of attention material only where it saves a pass: GPT-2's 128 rows are two
    # passes either way.
    assert [rows_of_pass(gpt2, PREPROCESSED, 0, rows) for rows in (65, 128)] == [65, 64]
    assert rows_of_pass(gpt2, PREPROCESSED, 64, 64) == 64
    assert rows_of_pass(config, RECOMPUTE, 0, 70) == 64


def test_sampling_is_repeatable_and_stops(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        first = next(client.generate(PROMPT, max_new_tokens=2, stop=()))
        stopped = list(client.generate(PROMPT, max_new_tokens=9, stop=[first.id]))
        assert [t.id for t in stopped] == [first.id]
        options = {"max_new_tokens": 2, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3, "stop": ()}
        assert [t.id for t in client.generate(PROMPT, **options)] == [t.id for t in client.generate(PROMPT, **options)]


def test_conversation_continues_in_one_session(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        chat = Conversation(client, system="x")
        list(chat.say("a", max_new_tokens=2))
        rows = client.costs.rows
        list(chat.say("b", max_new_tokens=2))
        assert client.length == client.costs.rows > rows


def test_logits_of_all_rows(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        logits = client.logits([5, 9, 300])
    assert logits.shape == (3, llama.model.config.vocab)


@pytest.mark.parametrize("protocol", ["preprocessed", RECOMPUTE])
def test_a_session_goes_on_behind_a_text_that_was_scored(llama: Served, tmp_path: Path, protocol: str) -> None:
    with llama.client(tmp_path, protocol=protocol) as client:
        client.score([5, 9, 300])
        assert client.length == 3
        answer = [t.id for t in client.generate([7], max_new_tokens=2, stop=(), continue_session=True)]
        assert client.length == 5  # the last token is not fed yet
    assert client.length == 0
    assert not fidelity(llama.model, [5, 9, 300, 7], answer).violations


def test_two_clients_at_once(llama: Served, tmp_path: Path) -> None:
    answers: dict[str, list[int]] = {}

    def run(name: str) -> None:
        with llama.client(tmp_path / name) as client:
            answers[name] = [t.id for t in client.generate([len(name), 7, 8], max_new_tokens=4, stop=())]

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "bb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for name in ("a", "bb"):
        assert not fidelity(llama.model, [len(name), 7, 8], answers[name]).violations


def test_server_killed_in_the_middle(tmp_path: Path) -> None:
    """The client gets a typed error; a new pair goes on from what is left, nothing is reused."""
    model = model_with_plan(tmp_path)
    arguments = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    with ServerProcess("cryptogen", arguments) as server:
        client = cryptogen.Client(server.address, fingerprint=server.fingerprint, data_dir=tmp_path)
        client.connect()
        stream = client.generate([5, 6], max_new_tokens=20, stop=())
        next(stream)
        server.kill()
        with pytest.raises(ConnectionLost):
            list(stream)
    before = cursors(tmp_path / "client"), cursors(tmp_path / "server")
    with ServerProcess("cryptogen", arguments) as server:
        client = cryptogen.Client(server.address, fingerprint=server.fingerprint, data_dir=tmp_path, resync=True)
        with client:
            assert len(list(client.generate([5, 6], max_new_tokens=2, stop=()))) == 2
    _only_forward(before, (cursors(tmp_path / "client"), cursors(tmp_path / "server")))


def test_mismatched_stores_are_refused_until_resynced(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path, client_id="half") as client:
        client.prepare(8)
    state = next((tmp_path / "client").glob("**/state.json"))
    text = state.read_text()
    assert text.count('"cursor":0') or text.count('"cursor": 0')
    state.write_text(text.replace('"cursor":0', '"cursor":1', 1).replace('"cursor": 0', '"cursor": 1', 1))
    with pytest.raises(MaterialMismatch, match="resync"):
        llama.client(tmp_path, client_id="half").connect()
    with llama.client(tmp_path, client_id="half", resync=True) as client:
        assert len(list(client.generate([3], max_new_tokens=2, stop=()))) == 2


def test_a_store_of_an_older_format_is_refused_with_both_versions(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path, client_id="older") as client:
        client.prepare(2)
    state = next((tmp_path / "client").glob("**/state.json"))
    document = json.loads(state.read_text())
    version = document["format"]
    state.write_text(json.dumps(document | {"format": version - 1}))
    with pytest.raises(StoreError, match=f"format {version - 1}, expected {version}: made by another version") as found:
        llama.client(tmp_path, client_id="older").connect()
    assert str(state) in str(found.value)


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.long)])
def test_kill_and_restart_never_reuses_material(tmp_path: Path, rounds: int) -> None:
    """Kills either party at random moments. Cursors only move forward, and a resynced pair gives
    the right tokens."""
    rng = random.Random(7)
    model = model_with_plan(tmp_path)
    serve = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    seen = {}, {}
    for round_number in range(rounds):
        with ServerProcess("cryptogen", serve) as server:
            worker = _generating(server, tmp_path)
            time.sleep(rng.uniform(1.0, 6.0))
            victim = server.pid if round_number % 2 else worker.pid
            os.kill(victim, signal.SIGKILL)
            if victim == server.pid:
                assert worker.wait(60) != 0
            worker.kill()
            worker.wait()
        now = tuple(cursors(tmp_path / side) if list((tmp_path / side).glob("**/state.json")) else {}
                    for side in ("client", "server"))  # fmt: skip
        _only_forward(seen, now)
        seen = now
    with ServerProcess("cryptogen", serve) as server:
        client = cryptogen.Client(server.address, fingerprint=server.fingerprint, data_dir=tmp_path, resync=True)
        with client:
            answer = [t.id for t in client.generate([5, 6], max_new_tokens=3, stop=())]
    assert not fidelity(cryptogen.load(model), [5, 6], answer).violations
    after = cursors(tmp_path / "client"), cursors(tmp_path / "server")
    _only_forward(seen, after)
    assert after[0] == after[1]


def _generating(server: ServerProcess, data: Path) -> subprocess.Popen[bytes]:
    """A client process that generates until it is killed."""
    code = (
        "import sys, cryptogen\n"
        "with cryptogen.Client(sys.argv[1], fingerprint=sys.argv[2], data_dir=sys.argv[3], resync=True) as c:\n"
        "    while True: list(c.generate([5, 6], max_new_tokens=3, stop=()))\n"
    )
    command = [sys.executable, "-c", code, server.address, server.fingerprint, str(data)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _only_forward(before: tuple[dict[str, int], ...], after: tuple[dict[str, int], ...]) -> None:
    for old, new in zip(before, after, strict=True):
        assert all(new[name] >= cursor for name, cursor in old.items()), (old, new)


def test_errors_are_of_the_package(llama: Served, tmp_path: Path) -> None:
    with pytest.raises(CryptogenError):
        llama.client(tmp_path, access_token=ACCESS_TOKEN + "?").connect()
