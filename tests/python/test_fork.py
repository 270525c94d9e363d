"""A process that is forked from one with an open session cannot use it, and harms neither the
connection nor the store by anything it does, leaving included."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen import _core, errors
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.private import ClientBackend, ServerBackend
from cryptogen.models.decoder import forward
from cryptogen.session.material import Need
from parties import Parties, both, open_parties
from served import Served
from tiny import tiny_llama

PROMPT = [5, 9, 300]

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_a_child(act: Callable[[], Any]) -> Any:
    """What `act` returns in a forked process, which then leaves at once; its failure is ours."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer: Any = act()
        except BaseException:
            answer = traceback.format_exc()
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = pickle.load(pipe)
    os.waitpid(child, 0)
    return answer


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of everything in a folder."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def calls(endpoint: Any, parties: Parties, tensor: Any) -> dict[str, Callable[[], Any]]:
    """Every way to use an endpoint, with arguments that it would accept or refuse otherwise."""
    file = str(parties.folder / "file")
    mine = endpoint is parties.client
    model = () if mine else (parties.model,)
    shape = parties.canonical.config
    row = [np.zeros((1, shape.kv_width), dtype=np.int64)] * shape.layers
    prefix = 1 if mine else _core.Prefix(parties.checked, row, row)
    return {
        "send_control": lambda: endpoint.send_control("{}"),
        "recv_control": endpoint.recv_control,
        "send_failure": lambda: endpoint.send_failure("kind", "text"),
        "set_idle_timeout": lambda: endpoint.set_idle_timeout(1.0),
        "stats": endpoint.stats,
        "stock": endpoint.stock,
        "prepare": lambda: endpoint.prepare(*model, Need(1, 1, 1, linears=1), None),
        "put_prefix": lambda: endpoint.put_prefix(prefix),
        "extend": lambda: endpoint.extend(1),
        "take_logits": lambda: endpoint.take_logits(1),
        "crop": lambda: endpoint.crop(0),
        "reset": endpoint.reset,
        "length": lambda: endpoint.length,
        "ready_rows": lambda: endpoint.ready_rows,
        "ready_logits": lambda: endpoint.ready_logits,
        "embed": lambda: endpoint.embed([5], 1) if mine else endpoint.embed(parties.model, 1, 1),
        "norm": lambda: endpoint.norm(tensor, "layers.0.qkv"),
        "linear": lambda: endpoint.linear(*model, tensor, "layers.0.qkv"),
        "attention": lambda: endpoint.attention(tensor, 0),
        "activation": lambda: endpoint.activation(tensor, 0),
        "logits": lambda: endpoint.logits(*model, tensor),
        **(
            {
                "resume_cache": endpoint.resume_cache,
            }
            if mine
            else {
                "save_cache": lambda: endpoint.save_cache(file, "model"),
                "load_cache": lambda: endpoint.load_cache(file, "model"),
                "send_shape": endpoint.send_shape,
                "counters": endpoint.counters,
            }
        ),
    }


LOCAL = {"add", "last"}  # of tensors alone; what they give can go nowhere


class Begun:
    """An endpoint whose pass has begun."""

    def __init__(self, endpoint: Any, h: Any) -> None:
        self._endpoint, self._h = endpoint, h

    def __getattr__(self, name: str) -> Any:
        return getattr(self._endpoint, name)

    def embed(self, *_: Any) -> Any:
        return self._h


def test_no_call_of_an_endpoint_works_in_a_child(tmp_path: Path) -> None:
    parties = open_parties(tmp_path, tiny_llama(tmp_path / "model"))
    config, clear = parties.canonical.config, FloatBackend(parties.canonical)
    parties.material(4, 3)

    def check(tokens: list[int], client: Any, server: Any) -> None:
        backend, theirs = ClientBackend(client, parties.numeric), ServerBackend(server, parties.model)
        got = both(lambda: forward(backend, config, tokens), lambda: forward(theirs, config, [0] * len(tokens)))
        expected = forward(clear, config, tokens)
        assert got is not None and expected is not None
        assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()

    check([5, 9], parties.client, parties.server)
    # A child is forked in the middle of a pass, so that even steps have operands.
    theirs: list[Any] = []
    h = both(lambda: parties.client.embed([7], 1), lambda: theirs.append(parties.server.embed(parties.model, 1, 1)))
    before = files(tmp_path)

    def use() -> dict[str, str]:
        answers = {}
        for name, endpoint, tensor in (("client", parties.client, h), ("server", parties.server, theirs[0])):
            used = calls(endpoint, parties, tensor)
            public = {n for n in dir(endpoint) if not n.startswith(("_", "insecure_"))}
            assert used.keys() | LOCAL == public, "every call of an endpoint is tried"
            for call, act in used.items():
                try:
                    act()
                    answers[f"{name}.{call}"] = "worked"
                except errors.CryptogenError as error:
                    answers[f"{name}.{call}"] = type(error).__name__
        return answers

    def let_go() -> str:
        references = [sys.getrefcount(getattr(parties, name)) for name in ("client", "server")]
        assert references == [2, 2], "the attribute and the argument: they are dropped here"
        parties.client = parties.server = None
        return "let go"

    answers = in_a_child(use)
    assert isinstance(answers, dict), answers
    assert set(answers.values()) == {"Forked"}, answers
    assert in_a_child(let_go) == "let go"
    assert files(tmp_path) == before, "nothing of the store was wiped, cut or written"
    # The parent's pass ends as if nothing had happened, and so does the next.
    check([7], Begun(parties.client, h), Begun(parties.server, theirs[0]))
    check([11], parties.client, parties.server)


def answers_of(client: Any) -> list[str]:
    """What a client's methods raise in a child, which closes it then."""
    calls: list[Callable[[], Any]] = [
        lambda: list(client.generate(PROMPT, max_new_tokens=1, stop=())),
        lambda: list(client.generate([7], max_new_tokens=1, stop=(), continue_session=True)),
        lambda: client.score(PROMPT),
        lambda: client.buy(Need(1, 1, 1)),
        client.reset,
    ]
    found = []
    for call in calls:
        try:
            call()
            found.append("worked")
        except errors.CryptogenError as error:
            found.append(type(error).__name__)
    client.close()
    return found


def put_answers(client: Any, queue: Any) -> None:
    queue.put(answers_of(client))


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_client_survives_its_children(llama: Served, tmp_path: Path, how: str) -> None:
    with llama.client(tmp_path) as client:
        tokens = [token.id for token in client.generate(PROMPT, max_new_tokens=3, stop=())]
        client.buy(Need(2, 2, 2))
        before = files(tmp_path), files(llama.folder)
        if how == "os.fork":
            found = in_a_child(lambda: answers_of(client))
        else:  # which leaves the child in its own way
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            child = context.Process(target=put_answers, args=(client, queue))
            child.start()
            found = queue.get(timeout=60)
            child.join(60)
            assert child.exitcode == 0
        assert found == ["Forked"] * 5
        assert (files(tmp_path), files(llama.folder)) == before
        costs = client.costs
        assert [token.id for token in client.generate(PROMPT, max_new_tokens=3, stop=())] == tokens
        assert (client.costs - costs).setup.round_trips == 0, "on the same connection"
