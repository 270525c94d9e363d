"""The paper's two protocols beside `preprocessed`: the same tokens, the comparison's figures,
refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cryptogen
from cryptogen import errors
from cryptogen.bench import paper, paper_tables
from cryptogen.errors import MissingPackage
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.processes import ServerProcess
from cryptogen.protocols import PROTOCOLS
from cryptogen.session.chat import Conversation
from cryptogen.session.material import POOLS
from cryptogen.session.offer import receive_offer
from cryptogen.weights.packages import find_packaged
from served import ACCESS_TOKEN, Served, model_with_plan, serving
from test_cli import failing, run

PROMPT = "the end"
HYBRID = PROTOCOLS[1:]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("llama"), access_token=None) as server:
        yield server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_clear_models_tokens(served: Served, tmp_path: Path, protocol: str) -> None:
    """5 greedy tokens, then 2 more after a second prompt in the same session."""
    with served.client(tmp_path, protocol=protocol) as client:
        ids = client.encode(PROMPT)
        answer = [t.id for t in client.generate(ids, max_new_tokens=5, stop=())]
        assert not fidelity(served.model, ids, answer).violations
        computed = client.costs.rows
        n = len(ids)
        assert computed == (5 * n + 10 if protocol == "recompute" else n + 4)
        more = client.encode(" of it", first=False)
        second = [t.id for t in client.generate(more, max_new_tokens=2, stop=(), continue_session=True)]
        assert not fidelity(served.model, ids + answer + more, second).violations
        text = n + 4 + 1 + len(more)
        assert client.length == text + 1
        assert client.costs.rows - computed == (2 * text + 1 if protocol == "recompute" else 1 + len(more) + 1)


def test_a_long_prompt_and_a_reset(llama: Served, tmp_path: Path) -> None:
    """More rows than one pass takes, more than one ciphertext of the cache holds; a new session
    forgets them."""
    ids = [(7 * i + 3) % llama.model.config.vocab for i in range(70)]
    with llama.client(tmp_path, protocol="encrypted-cache", access_token=None) as client:
        answer = [t.id for t in client.generate(ids, max_new_tokens=2, stop=())]
        assert not fidelity(llama.model, ids, answer).violations
        again = [t.id for t in client.generate([5, 6], max_new_tokens=2, stop=())]
        assert not fidelity(llama.model, [5, 6], again).violations


@pytest.mark.parametrize("protocol", HYBRID)
def test_material_bought_ahead_and_one_store_per_protocol(llama: Served, tmp_path: Path, protocol: str) -> None:
    with llama.client(tmp_path, protocol=protocol, access_token=None) as client:
        client.prepare(4, context=4)
        bought = client.costs.left
    with llama.client(tmp_path, protocol=protocol, access_token=None) as client:
        assert client.costs.left == bought and bought["rows"] >= (10 if protocol == "recompute" else 4)
        before = client.costs.offline
        list(client.generate([5, 6], max_new_tokens=2, stop=()))
        assert client.costs.left["rows"] < bought["rows"] and client.costs.offline.seconds > before.seconds
    with llama.client(tmp_path, access_token=None) as client:
        assert client.costs.left == dict.fromkeys(POOLS, 0)
    assert len(list((tmp_path / "client" / "stores").iterdir())) == 2
    assert not (tmp_path / "client" / "models").exists()  # nothing is downloaded


def test_chat_and_logits(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path, protocol="encrypted-cache", access_token=None) as client:
        chat = Conversation(client, system="x")
        list(chat.say("a", max_new_tokens=2))
        rows = client.costs.rows
        list(chat.say("b", max_new_tokens=2))
        assert client.length == client.costs.rows > rows
        assert client.logits([5, 9, 300]).shape == (3, llama.model.config.vocab)


def test_command_line(llama: Served, tmp_path: Path) -> None:
    where = ["--server", llama.address, "--fingerprint", llama.fingerprint]
    options = ["--max-new-tokens", 3, "--json"]
    tokens = [
        json.loads(run("generate", "the end", *where, *options, "--protocol", p, data=tmp_path)[0])["tokens"]
        for p in PROTOCOLS
    ]
    assert len(tokens[0]) >= 1 and tokens[1:] == tokens[:-1]
    left = json.loads(run("prepare", *where, "--tokens", 3, "--protocol", "recompute", "--json", data=tmp_path)[0])
    assert left["left"]["rows"] >= 6


def test_other_commands_take_a_protocol(tmp_path: Path) -> None:
    model = model_with_plan(tmp_path)
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog\n")
    options = ["--backend", "private", "--windows", 1, "--size", 6, "--protocol", "encrypted-cache", "--json"]
    result = json.loads(run("eval", text, "--model", model, *options)[0])
    assert result["perplexity"] == pytest.approx(result["perplexity_float"], rel=0.02)
    stdout, _ = run("demo", "--model", model, "--tokens", 2, "--protocol", "recompute")
    assert stdout.splitlines()[-1].startswith("agreement with the clear model: 2/2 tokens")
    decode = ["--shape", "tiny", "--context", 6, "--blocks", 2, "--protocol", "recompute", "--json"]
    assert json.loads(run("bench", "decode", *decode)[0])["protocol"] == "recompute"
    assert "parts" in run("inspect", model, "--protocol", "encrypted-cache")[0]


# --- refusals


def test_unknown_protocols(llama: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownProtocol, match="magic.*encrypted-cache"):
        cryptogen.Client(llama.address, protocol="magic", data_dir=tmp_path)
    for command in (["generate", "x", "--server", llama.address], ["bench", "decode"], ["demo"]):
        assert "unknown protocol" in failing(*command, "--protocol", "magic", data=tmp_path)
    connection = cryptogen._core.ClientConnection.connect(llama.address, llama.fingerprint, None)  # type: ignore[attr-defined]
    connection.hello("liar", ACCESS_TOKEN)
    with pytest.raises((errors.PeerFailed, errors.ConnectionLost)):
        receive_offer(connection, tmp_path, "magic")
        connection.recv_control()


def test_lengths_that_cannot_be_measured() -> None:
    for lengths in ((), (0, 8), (8, 4), (4, 5), (4, 4000)):
        with pytest.raises(errors.InputError):
            paper.compare(paper.Paper("tiny", lengths), lambda line: None)
    for task in (paper.Paper("tiny", (4,), blocks=9), paper.Paper("tiny", (4,), ()), paper.Paper("huge", (4,))):
        with pytest.raises(errors.InputError):
            paper.compare(task, lambda line: None)
    assert "expected" in failing("bench", "paper", "--lengths", "a")
    assert "unknown protocol" in failing("bench", "paper", "--protocols", "preprocessed,magic")


# --- the comparison


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    """Of a tiny model, by the command."""
    file = tmp_path_factory.mktemp("bench") / "paper-tiny.json"
    options = ["--shape", "tiny", "--lengths", "4,8", "--tokens", 1, "--blocks", 2, "--add-to", file, "--json"]
    stdout, stderr = run("bench", "paper", *options)
    for protocol in PROTOCOLS:
        assert f"{protocol}, 2 of 3 blocks: 8 rows" in stderr
    assert json.loads(file.read_text()) == json.loads(stdout)
    return json.loads(stdout)


def test_the_comparison_has_every_figure(figures: dict) -> None:
    runs = {(r["protocol"], r["length"]): r for r in figures["runs"]}
    assert set(runs) == {(p, length) for p in PROTOCOLS for length in (4, 8)}
    for (protocol, _), found in runs.items():
        for name in ("seconds", "bytes_sent", "bytes_received", "round_trips"):
            for unit in ("token", "block"):
                assert found[f"{name}_per_{unit}"] == pytest.approx(
                    found[f"offline_{name}_per_{unit}"] + found[f"online_{name}_per_{unit}"]
                )
        assert found["peak_rss_client"] > 0 and found["peak_rss_server"] > 0 and found["commit"]
        assert found["extrapolated_from_blocks"] == 2
        if protocol == "preprocessed":
            continue
        for name in ("ct_pt", "ct_ct", "rotations", "relinearisations", "masked", "refreshes", "refreshes_if_always"):
            assert found[f"{name}_per_token"] >= 0, name
        assert found["ct_pt_per_token"] > 0 and found["ct_ct_per_token"] > 0 and found["galois_key_bytes"] > 0
        assert found["cache_ciphertexts"] > 0
    for length in ("4", "8"):
        for name in ("recompute_over_encrypted_cache", "encrypted_cache_over_preprocessed"):
            assert figures["ratios"][length][name] > 0
    assert figures["growth"]["encrypted-cache"]["to"] == 8
    one, many = (figures["layouts"]["encrypted-cache"][rows] for rows in ("1", "64"))
    assert len(one) == len(many) == 5 and all("ms" in line for line in one + many)


def test_pages_and_plots(figures: dict, tmp_path: Path) -> None:
    text = paper_tables.page([figures])
    assert text.count("| `encrypted-cache` | 8 |") == 2 and "ratio at L = | 4 | 8 |" in text
    pytest.importorskip("matplotlib")
    paper_tables.plot(figures, tmp_path)
    first = (tmp_path / "paper-latency.svg").read_bytes()
    paper_tables.plot(figures, tmp_path)
    assert first.startswith(b"<?xml") and (tmp_path / "paper-latency.svg").read_bytes() == first
    assert (tmp_path / "paper-memory.svg").exists()


@pytest.mark.long
@pytest.mark.parametrize("protocol", HYBRID)
def test_smollm2(tmp_path: Path, protocol: str) -> None:
    """A few tokens of a real model; near ties aside they are the clear model's."""
    try:
        path = find_packaged("smollm2")
    except MissingPackage:
        pytest.skip("SmolLM2 is not in the cache: run `make demo` once")
    arguments = ["serve", str(path), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    with ServerProcess("cryptogen", arguments) as server:
        options = {"fingerprint": server.fingerprint, "data_dir": tmp_path, "protocol": protocol}
        with cryptogen.Client(server.address, **options) as client:  # type: ignore[arg-type]
            ids = client.encode("The capital of France is")
            answer = [t.id for t in client.generate(ids, max_new_tokens=3, stop=())]
    assert not fidelity(cryptogen.load(path), ids, answer).violations
