"""`bench peers`: the peer's environment, refusals, the arithmetic of the ratios; the peer itself if
installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cryptogen.bench.decode import Task as Decode
from cryptogen.bench.decode import decode
from cryptogen.bench.peers import compare
from cryptogen.bench.peers.environment import spu_python
from cryptogen.errors import InputError, PeerUnavailable
from cryptogen.weights.packages import cache_folder


def test_what_cannot_be_installed_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # a machine without the registry
    with pytest.raises(PeerUnavailable, match=r"spu==0\.9\.5 cannot be installed: .*No matching distribution"):
        spu_python(lambda line: None, tmp_path / "venv")
    assert not (tmp_path / "venv" / "complete").exists()  # it is tried again next time
    command = [sys.executable, "-m", "cryptogen", "bench", "peers"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: spu==0.9.5 cannot be installed: ")


def test_an_environment_is_made_once_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = small_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    notes: list[str] = []
    for _ in range(2):
        python = spu_python(notes.append, tmp_path / "venv", "smallpeer==1")
    assert len(notes) == 1
    found = subprocess.run(
        [python, "-c", "import smallpeer; print(smallpeer.__file__)"], capture_output=True, text=True
    )
    assert found.stdout.startswith(str(tmp_path / "venv"))
    (tmp_path / "venv" / "complete").unlink()  # as an interrupted installation leaves it
    spu_python(notes.append, tmp_path / "venv", "smallpeer==1")
    assert len(notes) == 2


def small_wheel(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "smallpeer-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("smallpeer.py", "")
        info = "smallpeer-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: smallpeer\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (compare.Task(shape="smollm2"), "expected gpt2"),
        (compare.Task(context=1024), "context 1024, expected 1 to 1020"),
    ],
)
def test_bad_values(task: compare.Task, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare.compare(task, lambda line: None)


def test_a_peer_that_fails_is_an_error() -> None:
    with pytest.raises(PeerUnavailable, match="failed: .*spu|failed: .*jax"):
        compare.run_spu(Path(sys.executable), 8, 1)  # has no SPU


def test_a_token_of_the_peer_is_multiplied() -> None:
    one = {"seconds": 2.0, "bytes": 10, "sends": 3}
    spu = {"block": one, "head": {"seconds": 5.0, "bytes": 1, "sends": 1}}
    assert compare.multiplied(spu, 12) == {"seconds": 29.0, "bytes": 121, "sends": 37}


def test_per_block_is_the_slope_of_the_figures() -> None:
    figures = decode(Decode("tiny", 4, 1, blocks=2))
    assert figures["per_block"]["round_trips_per_token"] == 8
    block = compare.totals(figures["per_block"])
    assert block["seconds"] == block["offline_seconds"] + block["online_seconds"]
    assert 0 < block["bytes"] < compare.totals(figures)["bytes"]


@pytest.mark.long
def test_spu_computes_the_block() -> None:
    if not (cache_folder() / "peers" / "spu-0.9.5" / "complete").exists():
        pytest.skip("SPU is not installed: `cryptogen bench peers` does it")
    found = compare.run_spu(spu_python(lambda line: None), 8, 1)
    assert found["block"]["max_error"] < 0.1 and found["head"]["max_error"] < 0.01
    assert found["block"]["seconds"] > 0 and found["block"]["bytes"] > 1e7 and found["block"]["sends"] > 100
