"""Material belongs to the client and the server that made it, whatever certificate, address or
name of a host leads to the server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cryptogen import errors
from cryptogen.session.offer import server_name
from served import ACCESS_TOKEN, model_with_plan, serving

import cryptogen  # isort: skip

PREPARED = 12


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost, signed by the authority in `folder`, and its key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    if not (folder / "ca.pem").exists():
        openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=ca")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
    openssl(
        "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", f"{name}.pem", "-days", "9", "-extfile", "names",
    )  # fmt: skip
    (folder / f"{name}.key").chmod(0o600)
    return folder / f"{name}.pem", folder / f"{name}.key"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_material_outlives_certificates_names_and_pins(tmp_path: Path) -> None:
    model, ca, data = model_with_plan(tmp_path), tmp_path / "ca.pem", tmp_path / "client"
    first, renewed = certificate(tmp_path, "a"), certificate(tmp_path, "b")

    def left(address: str, **trust: object) -> int:
        with cryptogen.Client(address, data_dir=data, access_token=ACCESS_TOKEN, **trust) as client:  # type: ignore[arg-type]
            return client.costs.left["rows"]

    with serving(tmp_path, model=model, certificate=first[0], key=first[1]) as served:
        port = served.address.rpartition(":")[2]
        with served.client(data) as client:
            client.prepare(PREPARED)
        for address in (f"127.0.0.1:{port}", f"localhost:{port}"):  # two names
            assert left(address, ca_file=ca) == PREPARED
            assert left(address, fingerprint=served.fingerprint) == PREPARED
        assert left(served.address) == PREPARED  # remembered
        old = served.address
    with serving(tmp_path, model=model, certificate=renewed[0], key=renewed[1]) as served:
        with pytest.raises(errors.WrongFingerprint):
            left(served.address, fingerprint="0" * 64)
        assert served.address != old or pytest.skip("the same port")
        assert left(served.address, fingerprint=served.fingerprint) == PREPARED  # the new pin, once given
        assert left(served.address) == PREPARED
        assert left(served.address, ca_file=ca) == PREPARED
        with served.client(data) as client:  # and both sides still agree on it
            assert len(list(client.generate([5, 9], max_new_tokens=2, stop=()))) == 2
            assert client.costs.left["rows"] == PREPARED - 3


def test_a_changed_pin_has_to_be_given(tmp_path: Path) -> None:
    """At the address that the client knows: it is refused until the user gives the new one."""
    model, data = model_with_plan(tmp_path), tmp_path / "client"
    with serving(tmp_path, model=model) as served, served.client(data) as client:
        client.prepare(PREPARED)
        old = served.fingerprint
    for file in (tmp_path / "data" / "server").glob("identity*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    with serving(tmp_path, model=model) as served:
        assert served.fingerprint != old
        with pytest.raises(errors.WrongFingerprint, match=served.fingerprint):
            served.client(data, fingerprint=old).connect()
        with served.client(data) as client:
            assert client.costs.left["rows"] == PREPARED


def test_another_server_is_another_store(tmp_path: Path) -> None:
    model, data = model_with_plan(tmp_path), tmp_path / "client"
    for name in ("one", "two"):
        with serving(tmp_path / name, model=model) as served, served.client(data) as client:
            assert client.costs.left["rows"] == 0
            client.prepare(PREPARED)
    assert len(list((data / "client" / "stores").iterdir())) == 2


def test_what_a_server_calls_itself_is_told_to_one_client() -> None:
    names = {server_name(secret, client) for secret in (bytes(32), bytes([1] * 32)) for client in ("a", "b")}
    assert len(names) == 4 and all(len(name) == 64 for name in names)
    assert server_name(bytes(32), "a") in names


def test_what_is_lost_with_one_server_is_not_lost_with_others(tmp_path: Path) -> None:
    """Doing what the error says, with two servers."""
    data = tmp_path / "client"
    with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        with one.client(data) as client:
            client.prepare(PREPARED)
        (mine,) = (data / "client" / "stores").iterdir()
        with two.client(data) as client:
            client.prepare(PREPARED)
        state = mine / "state.json"
        state.write_text(state.read_text()[:50])
        with pytest.raises(errors.StoreError, match=f"state.json .*: remove {mine} here and stores/client-") as found:
            one.client(data).connect()
        theirs = str(found.value).partition(" here and ")[2].partition(" in the server's folder")[0]
        shutil.rmtree(mine)
        with pytest.raises(errors.MaterialMismatch, match=f"resync; .* remove {mine} here and {theirs} in the server"):
            one.client(data, resync=True).connect()
        assert (one.folder / "server" / theirs / "state.json").exists()
        shutil.rmtree(mine)
        shutil.rmtree(one.folder / "server" / theirs)
        with one.client(data) as client:
            assert client.costs.left["rows"] == 0
            client.prepare(PREPARED)
        with two.client(data) as client:
            assert client.costs.left["rows"] == PREPARED
