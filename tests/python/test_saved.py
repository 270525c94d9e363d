"""Encrypted caches that the server keeps: a session goes on later; a file that does not fit is
refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cryptogen import errors
from cryptogen.evaluate.fidelity import fidelity
from served import Served, serving

PROMPT = [5, 9, 300]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with serving(folder, cache_dir=folder / "caches") as server:
        yield server


def saved(served: Served, data: Path, **options: object) -> list[int]:
    """A session of `PROMPT` and the three tokens returned, saved by the server and this client."""
    with served.client(data, protocol="encrypted-cache", **options) as client:
        answer = [t.id for t in client.generate(PROMPT, max_new_tokens=3, stop=())]
        client.save()
    return answer


def cache_file(served: Served) -> Path:
    """The file written last."""
    return max((served.folder.parent / "caches").glob("*/*.cache"), key=lambda path: path.stat().st_mtime_ns)


def test_a_session_goes_on_in_a_later_connection(served: Served, tmp_path: Path) -> None:
    answer = saved(served, tmp_path)
    assert cache_file(served).stat().st_mode & 0o077 == 0
    with served.client(tmp_path, protocol="encrypted-cache") as client:
        rows = client.costs.rows
        assert client.resume() == len(PROMPT) + 2 == client.length
        more = [t.id for t in client.generate([7], max_new_tokens=3, stop=(), continue_session=True)]
        assert client.costs.rows - rows == 1 + 1 + 2  # the last token of before, the new one, two that were sampled
    assert not fidelity(served.model, [*PROMPT, *answer, 7], more).violations


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def another_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, shortened, another_version, empty, Path.unlink])
def test_a_file_that_is_damaged_is_refused(served: Served, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    saved(served, tmp_path)
    damage(cache_file(served))
    with served.client(tmp_path, protocol="encrypted-cache") as client:
        with pytest.raises(errors.CacheRejected):
            client.resume()
        assert client.length == 0
        answer = [t.id for t in client.generate(PROMPT, max_new_tokens=2, stop=())]  # the connection goes on
    assert not fidelity(served.model, PROMPT, answer).violations


def test_a_file_of_another_key_or_model_is_refused(served: Served, tmp_path: Path) -> None:
    saved(served, tmp_path / "a")
    foreign = cache_file(served)
    saved(served, tmp_path / "b")
    own = cache_file(served)
    assert own != foreign
    shutil.copy(foreign, own)
    with served.client(tmp_path / "b", protocol="encrypted-cache") as client:
        with pytest.raises(errors.CacheRejected):
            client.resume()
    with serving(tmp_path / "gpt2", "gpt2", cache_dir=tmp_path / "gpt2" / "caches") as other:
        saved(other, tmp_path / "c")
        shutil.copy(foreign, cache_file(other))
        with other.client(tmp_path / "c", protocol="encrypted-cache") as client:
            with pytest.raises(errors.CacheRejected):
                client.resume()


def test_the_clients_record_must_be_of_the_same_session(served: Served, tmp_path: Path) -> None:
    saved(served, tmp_path)
    (record,) = (tmp_path / "client" / "sessions").iterdir()
    for text in ("{}", "", '{"pending": [99999], "rows": 5}', '{"pending": [3], "rows": 4}'):
        record.write_text(text)
        with served.client(tmp_path, protocol="encrypted-cache") as client:
            with pytest.raises(errors.CacheRejected):
                client.resume()
            assert client.length == 0


def test_what_cannot_be_saved(served: Served, tmp_path: Path) -> None:
    for protocol in ("preprocessed", "recompute"):
        with served.client(tmp_path, protocol=protocol) as client, pytest.raises(errors.InputError):
            client.save()
    with serving(tmp_path / "keeps none") as other:
        with other.client(tmp_path, protocol="encrypted-cache") as client:
            for ask in (client.save, client.resume):
                with pytest.raises(errors.CacheRejected, match="no cache is kept"):
                    ask()


@pytest.mark.parametrize(("side", "name"), [("client", "hybrid.secret"), ("server", "hybrid.keys")])
def test_damaged_keys_are_refused(served: Served, tmp_path: Path, side: str, name: str) -> None:
    with served.client(tmp_path, protocol="encrypted-cache", client_id=name) as client:
        assert client.costs.setup.bytes_sent > 1_000_000  # evaluation keys
    with served.client(tmp_path, protocol="encrypted-cache", client_id=name) as client:
        assert client.costs.setup.bytes_sent < 1_000_000  # they are kept
    folder = tmp_path / "client" if side == "client" else served.folder / "server" / "stores" / name
    (file,) = folder.glob(f"**/{name}")
    assert file.stat().st_mode & 0o077 == 0
    flipped(file)
    with pytest.raises((errors.StoreError, errors.PeerFailed, errors.ConnectionLost)):
        served.client(tmp_path, protocol="encrypted-cache", client_id=name).connect()


# --- encoded weights


def test_encoded_weights_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A later start reads them; a damaged file is made again; the tokens are the same."""
    folder, answers = tmp_path / "weights", []
    caplog.set_level("INFO", "cryptogen")
    for name in ("first", "second", "third"):
        caplog.clear()
        (tmp_path / name).mkdir()
        with serving(tmp_path / name, weights_cache=folder) as server:
            files = sorted(folder.iterdir())
            message = next(r.getMessage() for r in caplog.records if "linear layers" in r.getMessage())
            expected = {"first": (0, len(files)), "second": (len(files), 0), "third": (len(files) - 1, 1)}[name]
            assert f"{expected[0]} linear layers read, {expected[1]} written" in message
            assert (name == "third") == any("damaged" in r.getMessage() for r in caplog.records)
            with server.client(tmp_path / name / "client", protocol="encrypted-cache") as client:
                answers.append([t.id for t in client.generate(PROMPT, max_new_tokens=2, stop=())])
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)
        if name == "second":
            flipped(files[0])
    assert answers[0] == answers[1] == answers[2]


def test_a_weights_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.CryptogenError, match="file"), serving(tmp_path, weights_cache=tmp_path / "file"):
        pass
