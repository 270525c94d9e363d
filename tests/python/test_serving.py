"""`serve` as a process of a machine: signals, strangers, files and disks that run out."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import cryptogen
from cryptogen import errors
from cryptogen.session.server import Seldom
from served import model_with_plan


@contextmanager
def served(
    model: Path,
    folder: Path,
    *options: str,
    limit: tuple[int, int] | None = None,
    prefix: tuple[str, ...] = (),
) -> Iterator[tuple[subprocess.Popen[str], str, str, Path]]:
    """The process, address, fingerprint and its log; `limit`: a resource and how much of it."""
    log = folder / "log"
    command = [*prefix, sys.executable, "-m", "cryptogen", "serve", str(model), "--listen", "127.0.0.1:0"]
    with log.open("w") as err:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "server"), *options], stdout=subprocess.PIPE, stderr=err, text=True,
            preexec_fn=(lambda: resource.setrlimit(limit[0], (limit[1], limit[1]))) if limit else None,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "on"], log.read_text()
            yield process, words[2], words[4], log
        finally:
            process.kill()
            process.wait()


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_with_plan(tmp_path_factory.mktemp("model"))


def own_namespace() -> tuple[str, ...]:
    """A prefix that makes a command process 1, if this host lets us."""
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here")
    return prefix


@pytest.mark.parametrize("first", [False, True])
def test_sigterm_ends_it(model: Path, tmp_path: Path, first: bool) -> None:
    """Also as process 1, as in a container, which gets no signal that it does not ask for."""
    with served(model, tmp_path, prefix=own_namespace() if first else ()) as (process, *_):
        pid = process.pid
        if first:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 4  # 2 on an idle machine


def test_no_file_left_for_a_connection_is_said_once_a_second(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path, limit=(resource.RLIMIT_NOFILE, 24)) as (process, address, _, log), ExitStack() as held:
        host, port = address.split(":")
        for _ in range(40):
            held.enter_context(socket.create_connection((host, int(port))))
        before, started, busy = log.read_text(), time.monotonic(), processor_seconds(process.pid)
        time.sleep(3)
        assert processor_seconds(process.pid) - busy < 0.2  # it waits before it tries again
        lines = log.read_text()[len(before) :].splitlines()
        refused = [line for line in lines if "a connection failed" in line]
        assert 1 <= len(refused) <= time.monotonic() - started + 1 and len(lines) < 40


def test_strangers_hold_no_place(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path, "--max-clients", "1") as (_, address, fingerprint, _), ExitStack() as held:
        host, port = address.split(":")
        for _ in range(5):
            held.enter_context(socket.create_connection((host, int(port))))
        time.sleep(1)
        with cryptogen.Client(address, fingerprint=fingerprint, data_dir=tmp_path / "client") as client:
            assert client.length == 0
            with pytest.raises(errors.PeerFailed, match="1 clients are connected already"):
                other = cryptogen.Client(address, fingerprint=fingerprint, data_dir=tmp_path / "other")
                other.connect()


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_the_servers_full_disk_is_named(model: Path, tmp_path: Path, size: int) -> None:
    """Also where the client is still sending when the server gives up."""
    with served(model, tmp_path, limit=(resource.RLIMIT_FSIZE, size)) as (_, address, fingerprint, log):
        with cryptogen.Client(address, fingerprint=fingerprint, data_dir=tmp_path / "client") as client:
            with pytest.raises(errors.PeerFailed, match="DiskFull: the server has no disk space left for material"):
                client.prepare(700)
        assert "DiskFull: disk full: no room for" in log.read_text()


def test_what_happens_often_is_logged_seldom(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    seldom = Seldom(logging.getLogger("seldom"))
    for _ in range(1000):
        seldom.warning("no more %s", "files")
    assert len(caplog.records) <= 2
    time.sleep(1.1)
    seldom.warning("no more %s", "files")
    assert "no more files (and 9" in caplog.records[-1].getMessage()
