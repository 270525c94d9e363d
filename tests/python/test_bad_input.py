"""What can go wrong between two parties: each a typed error that says what was expected and what
came."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cryptogen
from cryptogen import _core, errors
from cryptogen.numerics.plan import NumericPlan
from cryptogen.protocols import PREPROCESSED, RECOMPUTE
from cryptogen.session import material, messages, server
from cryptogen.session.material import Need
from cryptogen.session.offer import Offer, receive_offer
from cryptogen.session.plans import beside
from served import ACCESS_TOKEN, Served, cursors, model_with_plan, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def client(served: Served, tmp_path: Path):
    with served.client(tmp_path) as open_client:
        yield open_client


# --- who is there


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(errors.ConnectionFailed):
        cryptogen.Client("127.0.0.1:1", fingerprint="0" * 64, data_dir=tmp_path).connect()


def test_wrong_fingerprint(served: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.WrongFingerprint, match=f"{served.fingerprint}.*{'1' * 64}"):
        served.client(tmp_path, fingerprint="1" * 64).connect()


def test_unknown_server_is_not_trusted_silently_and_a_known_one_is_remembered(served: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.WrongFingerprint, match=served.fingerprint):
        served.client(tmp_path, fingerprint=None).connect()
    with served.client(tmp_path):
        pass
    with served.client(tmp_path, fingerprint=None) as client:
        assert client.config == served.model.config


def test_malformed_fingerprint(served: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match="64 hexadecimal"):
        served.client(tmp_path, fingerprint="abc").connect()


@pytest.mark.parametrize("access_token", [None, "", "wrong"])
def test_wrong_access_token(served: Served, tmp_path: Path, access_token: str | None) -> None:
    with pytest.raises((errors.WrongAccessToken, errors.PeerFailed)):
        served.client(tmp_path, access_token=access_token).connect()


def test_port_in_use(served: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.AddressInUse, match=served.address):
        cryptogen.Server(served.model, data_dir=tmp_path).serve(served.address)


def test_too_many_clients(tmp_path: Path) -> None:
    with serving(tmp_path / "server", max_clients=1) as served, served.client(tmp_path / "one"):
        with pytest.raises(errors.PeerFailed, match="Busy"):
            served.client(tmp_path / "two").connect()


def test_one_data_folder_twice_at_once(served: Served, client: cryptogen.Client, tmp_path: Path) -> None:
    with pytest.raises(errors.StoreLocked):
        served.client(tmp_path).connect()


# --- what is served


def test_no_model_no_plan_or_another_models_plan(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match="no such file"):
        cryptogen.Server(tmp_path / "nothing", data_dir=tmp_path)
    model = model_with_plan(tmp_path)
    plan = NumericPlan.load(beside(model))
    beside(model).unlink()
    with pytest.raises(errors.MissingPlan, match="cryptogen calibrate"):
        cryptogen.Server(model, data_dir=tmp_path)
    other = model_with_plan(tmp_path / "other", seed=1)
    with pytest.raises(errors.PlanRejected, match="is for model"):
        cryptogen.Server(other, plan, data_dir=tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    model = model_with_plan(tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(errors.WeightsError):
        cryptogen.Server(model, data_dir=tmp_path)


@pytest.mark.parametrize("field", ["model", "plan", "tables"])
def test_parties_that_mean_different_things(served: Served, tmp_path: Path, field: str) -> None:
    connection = _connection(served)
    offer, _ = receive_offer(connection, tmp_path)
    digests = {"model": offer.model, "plan": offer.documents["plan"], "tables": offer.tables} | {field: "0" * 64}
    with pytest.raises(errors.AgreementMismatch, match=f"{field}.*{'0' * 64}"):
        connection.agree(**digests)


# --- what is asked


def test_prompts_that_cannot_be(served: Served, client: cryptogen.Client) -> None:
    before = client.costs
    context = served.model.config.context
    for prompt, error in (("", errors.InputError), ([], errors.InputError), ([512], errors.InputError)):
        with pytest.raises(error):
            client.generate(prompt)
    with pytest.raises(errors.ContextOverflow, match=str(context)):
        client.generate([1] * (context + 1), max_new_tokens=1)
    with pytest.raises(errors.ContextOverflow):
        client.generate([1] * context, max_new_tokens=2)
    for options in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"seed": -1}):
        with pytest.raises(errors.InputError):
            client.generate([1], **options)
    after = client.costs
    assert after.left == before.left and after.offline.bytes == before.offline.bytes


def test_options_are_checked_before_there_is_a_connection(tmp_path: Path) -> None:
    nowhere = cryptogen.Client("127.0.0.1:1", fingerprint="0" * 64, data_dir=tmp_path)
    for options in ({"max_new_tokens": 0}, {"top_k": 0}, {"seed": -1}, {"on_range": "x"}):
        with pytest.raises(errors.InputError):
            nowhere.generate("x", **options)


def test_closed_client_and_batch(served: Served, tmp_path: Path) -> None:
    with pytest.raises(errors.InputError):
        served.client(tmp_path, batch_tokens=0)
    with served.client(tmp_path) as client:
        with pytest.raises(errors.InputError):
            client.prepare(0)


# --- a client that does not follow the protocol


@pytest.mark.parametrize(
    "text",
    [
        '{"op": "rewind"}', '{"op": ["reset"]}', '{"op": "reset", "extra": 1}', '{"op": "extend"}',
        '{"op": "extend", "rows": 0}', '{"op": "extend", "rows": 129}', '{"op": "extend", "rows": true}',
        '{"op": "extend", "rows": 1.0}', '{"op": "forward", "rows": 4, "sampled": 2}', "[]", "3",
        '{"op": "crop"}', '{"op": "crop", "rows": -1}', '{"op": "crop", "rows": 1}',
        '{"op": "prepare", "linears": 0, "rows": 0, "logits": 0}',
    ],
)  # fmt: skip
def test_server_refuses_what_is_not_in_the_protocol(served: Served, tmp_path: Path, text: str) -> None:
    endpoint = _endpoint(served, tmp_path)
    with pytest.raises((errors.PeerFailed, errors.ConnectionLost, errors.ProtocolViolation)):
        endpoint.send_control(text)
        endpoint.recv_control()


@pytest.mark.parametrize(
    ("field", "largest"),
    [
        ("linears", messages.LARGEST_BATCH), ("rows", messages.LARGEST_BATCH), ("logits", messages.LARGEST_BATCH),
        ("exponentials", messages.LARGEST_EXPONENTIALS),
    ],
)  # fmt: skip
def test_server_prepares_so_much_at_once(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str, largest: int
) -> None:
    message = {"op": "prepare", "linears": 0, "rows": 0, "logits": 0, "exponentials": 0}
    for n, amount in enumerate((-1, largest + 1)):
        endpoint = _endpoint(served, tmp_path / str(n))
        endpoint.send_control(json.dumps(message | {field: amount}))
        with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
            endpoint.recv_control()
        assert f"{field} is {amount}" in caplog.text
        caplog.clear()
    endpoint = _endpoint(served, tmp_path / "none")
    endpoint.send_control(json.dumps(message))  # what is refused above is the amount
    endpoint.prepare(Need(0, 0, 0))


def test_server_takes_no_more_logits_than_a_pass_samples(served: Served, tmp_path: Path) -> None:
    """They lie in memory from then on, and a store holds thousands."""
    endpoint = _endpoint(served, tmp_path)
    endpoint.set_idle_timeout(20.0)
    most = messages.LARGEST_BLOCK
    endpoint.send_control(messages.encode(messages.Prepare(0, 0, most + 1, 0)))
    endpoint.prepare(Need(0, most + 1, 0))
    endpoint.send_control(messages.encode(messages.Logits(most)))
    endpoint.take_logits(most)
    endpoint.send_control(messages.encode(messages.Logits(1)))
    with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
        endpoint.recv_control()


def test_server_keeps_memory_for_so_many_ready_rows_only(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = served.model.config
    monkeypatch.setattr(server, "READY_BYTES", material.attention_bytes(config, 0, 8))
    monkeypatch.setattr(messages, "LARGEST_PASS", 6)
    with served.client(tmp_path) as client:
        client.make_ready(8)
        # The client is sending ciphertexts when the server refuses and hangs up.
        with pytest.raises((errors.PeerFailed, errors.ConnectionLost)):
            client.make_ready(1)
    assert "ProtocolViolation: extend: 9 rows would be ready" in caplog.text


def test_passes_of_the_two_protocols_on_ciphertexts_have_64_rows(served: Served, tmp_path: Path) -> None:
    endpoint = _endpoint(served, tmp_path, RECOMPUTE)
    endpoint.send_control(messages.encode(messages.Forward(messages.LARGEST_BLOCK + 1, 0)))
    with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
        endpoint.recv_control()


def test_server_survives_garbage(served: Served, tmp_path: Path) -> None:
    host, port = served.address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for data in (b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"", b"\x00" * 4096):
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(data)
        with context.wrap_socket(socket.create_connection((host, int(port)))) as tls:
            tls.sendall(data)
    with served.client(tmp_path) as client:
        assert client.config == served.model.config


def test_requests_beyond_the_context(served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = _endpoint(served, tmp_path)
    endpoint.send_control(messages.encode(messages.Extend(1)))  # nothing is prepared: short on both sides alike
    with pytest.raises(errors.MaterialShort):
        endpoint.extend(1)
    endpoint.send_control(messages.encode(messages.Prepare(1, 1, 0, 1)))
    endpoint.prepare(Need(1, 0, 1, linears=1))
    endpoint.send_control(messages.encode(messages.Extend(1)))
    endpoint.extend(1)
    context = served.model.config.context
    assert context <= messages.LARGEST_PASS  # so that it is the context that forbids the next request
    endpoint.send_control(messages.encode(messages.Extend(context)))
    with pytest.raises(errors.PeerFailed, match="ProtocolViolation"):
        endpoint.recv_control()
    assert f"extend: {context} rows more than the context of {context}" in caplog.text


# --- a server that does not follow the protocol


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1}, {"config": {}}, {"config": 3}, {"model": "xyz"}, {"stop": [-1]},
        {"stop": "all"}, {"server": "x"}, {"server": None}, {"documents": {}}, {"documents": {"plan": "../x"}},
        {"documents": {"plan": "0" * 64, "chat": "0" * 64}}, {"chat": None},
        {"documents": {"plan": "0" * 64, "other": "0" * 64}}, {"more": 1},
        {"prefix": 3}, {"prefix": {"rows": 3}}, {"prefix": {"rows": 0, "digest": None}},
        {"prefix": {"rows": 128, "digest": None}}, {"prefix": {"rows": True, "digest": None}},
        {"prefix": {"rows": 3, "digest": "xyz"}}, {"prefix": {"rows": 3, "digest": 1}},
    ],
)  # fmt: skip
def test_client_checks_the_offer(served: Served, tmp_path: Path, change: dict[str, object]) -> None:
    offer, _ = receive_offer(_connection(served), tmp_path)
    assert Offer.from_json(offer.to_json()) == offer
    with pytest.raises(errors.ProtocolViolation):
        Offer.from_json(json.dumps(json.loads(offer.to_json()) | change))


class Script:
    """A wire whose peer says what is written here."""

    def __init__(self, *said: object) -> None:
        self._said = iter(said)

    def send_control(self, json: str) -> None:
        pass

    def recv_control(self) -> str:
        said = next(self._said)
        return said if isinstance(said, str) else json.dumps(said)


@pytest.mark.parametrize(
    "pieces",
    [
        [{}], [{"document": "plan", "left": 0, "data": "%"}], [{"document": "plan", "left": -1, "data": ""}],
        [{"document": "plan", "left": 1, "data": ""}, {"document": "plan", "left": 1, "data": ""}],
        [{"document": "plan", "left": 10**9, "data": ""}], [{"document": "plan", "left": 0, "data": ""}],
        [{"document": "tokenizer", "left": 0, "data": ""}], ["[" * 100_000],
    ],
)  # fmt: skip
def test_client_checks_documents(served: Served, tmp_path: Path, pieces: list[object]) -> None:
    offer, _ = receive_offer(_connection(served), tmp_path / "sound")
    with pytest.raises(errors.ProtocolViolation):
        receive_offer(Script(offer.to_json(), *pieces), tmp_path / "other")


def test_what_a_client_asks_for_says_nothing_of_other_servers(served: Served, tmp_path: Path) -> None:
    """A server can offer any digest. Whether the client lacks that document must not tell it which
    models the client has used elsewhere."""

    def received(of: Served) -> int:
        with of.client(tmp_path / "client") as client:
            return int(client.costs.setup.bytes_received)

    first, again = received(served), received(served)
    assert again < first  # documents of the same server are kept
    with serving(tmp_path / "other", model=served.model.source) as other:
        assert received(other) > first - 100


# --- disks


def test_full_disk_is_typed_and_loses_linears_at_most(tmp_path: Path) -> None:
    """A limit on file sizes is what a full disk looks like to the store. The server has spent the
    `linears` of the batch when the client, which has not, finds no room for it."""
    with serving(tmp_path / "server") as served:
        with served.client(tmp_path) as client:
            client.prepare(2)
            left = client.costs.left
        before = cursors(tmp_path / "client")
        assert cursors(tmp_path / "server") == before
        code = (
            "import sys, cryptogen\n"
            "try:\n"
            "    where, secret, folder = sys.argv[1:]\n"
            "    with cryptogen.Client(where, access_token=secret, data_dir=folder) as c: c.prepare(60)\n"
            "except cryptogen.errors.DiskFull as e: print(e); sys.exit(7)\n"
        )
        command = [sys.executable, "-c", code, served.address, ACCESS_TOKEN, str(tmp_path)]
        limit = (1_000_000, 1_000_000)
        done = subprocess.run(
            command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), capture_output=True, text=True
        )
        assert done.returncode == 7, done.stderr
        assert "disk full" in done.stdout.lower()
        assert cursors(tmp_path / "client") == before
        spent = {name: at - before[name] for name, at in cursors(tmp_path / "server").items()}
        assert {name for name, n in spent.items() if n} == {"linears"} and 0 < spent["linears"] <= 60, spent
        with pytest.raises(errors.MaterialMismatch, match=f"pool linears: .* {before['linears']} of .*: resync"):
            served.client(tmp_path).connect()
        with served.client(tmp_path, resync=True) as client:
            now = client.costs.left
            assert now["linears"] == left["linears"] + 60 - spent["linears"]
            assert {p: n for p, n in now.items() if p != "linears"} == {p: n for p, n in left.items() if p != "linears"}
            assert len(list(client.generate([3], max_new_tokens=1, stop=()))) == 1
        assert cursors(tmp_path / "client") == cursors(tmp_path / "server")


def test_store_of_another_server(served: Served, tmp_path: Path) -> None:
    """A copied store does not fit a server that never made it."""
    with served.client(tmp_path / "a") as client:
        client.prepare(1)
    with serving(tmp_path / "second") as other:
        with other.client(tmp_path / "b") as client:
            client.prepare(1)
        ours = next((tmp_path / "a" / "client" / "stores").iterdir())
        theirs = next((tmp_path / "b" / "client" / "stores").iterdir())
        shutil.rmtree(theirs)
        shutil.copytree(ours, theirs)
        with pytest.raises(errors.MaterialMismatch):
            other.client(tmp_path / "b").connect()


def _connection(served: Served) -> _core.ClientConnection:
    connection = _core.ClientConnection.connect(served.address, served.fingerprint, None)
    connection.hello(f"test-{threading.get_ident()}", ACCESS_TOKEN)
    return connection


def _endpoint(served: Served, folder: Path, protocol: str = PREPROCESSED) -> _core.ClientEndpoint:
    """A client that has agreed on everything and may now say anything."""
    from cryptogen.numerics.plan import tables, tables_digest

    connection = _core.ClientConnection.connect(served.address, served.fingerprint, None)
    connection.hello(f"test-{abs(hash(folder))}", ACCESS_TOKEN)
    offer, documents = receive_offer(connection, folder, protocol)
    plan = NumericPlan.from_json(documents["plan"].decode())
    made = tables(plan)
    connection.agree(offer.model, offer.documents["plan"], tables_digest(made))
    core = _core.CheckedPlan(plan.to_json(), made)
    return connection.open(
        core, str(folder / "store"), served.fingerprint, offer.model, offer.documents["plan"], False, protocol
    )
