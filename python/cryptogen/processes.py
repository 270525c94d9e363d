"""Processes of our own: many that share work, or one that serves, for whatever measures or
demonstrates two parties.

A server's process ends with the one that started it, even if that is killed (`setpriv --pdeathsig`,
where there is one).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Self, TypeVar

from cryptogen.errors import ConnectionFailed

Input = TypeVar("Input")
Output = TypeVar("Output")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def in_processes(work: Callable[[Input], Output], inputs: Sequence[Input]) -> Iterator[Output]:
    """`work` of every input, in order. `work` must be importable; its exceptions are raised here.
    Each worker has one thread for numpy's products, so that they do not get into each other's
    way."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # inherited by the workers
    try:
        workers = min(len(os.sched_getaffinity(0)), max(len(inputs), 1))
        with ProcessPoolExecutor(workers, get_context("spawn"), _as_worker) as pool:
            yield from pool.map(work, inputs)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _as_worker() -> None:
    """A worker ends when its parent does, however that ends, and at Ctrl-C without a word: it
    reaches them all, and the command says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    assert parent is not None  # a worker is a process that another has started
    parent.join()
    os._exit(1)


class Listener:
    """Runs `python -m <module> <arguments>` until the block ends; it must say
    `listening on <address>`.

    `prefix`: words before the command that start it elsewhere and then become it (exec). Raises
    `ConnectionFailed` with the process's last words if it ends or says nothing for `patience`
    seconds.
    """

    ready = re.compile(r"listening on (?P<address>\S+)")
    address: str

    def __init__(
        self, module: str, arguments: Sequence[str], patience: float = 600.0, prefix: Sequence[str] = ()
    ) -> None:
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._command = [*prefix, *bound, sys.executable, "-m", module, *arguments]
        self._patience = patience

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile(mode="w+")
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        watchdog = threading.Timer(self._patience, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if found := self.ready.search(line):
                    for name, value in found.groupdict().items():
                        setattr(self, name, value)
                    return self
            raise ConnectionFailed(f"the server did not start: {self._last_words()}")
        except BaseException:
            self._end()
            raise
        finally:
            watchdog.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        self._process.kill()
        self._process.wait()

    def interrupt(self, patience: float = 20.0) -> tuple[int, str]:
        """Ctrl-C. Its exit code, and what it has logged."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(patience)
        self._log.seek(0)
        return code, self._log.read()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        self._process.wait(timeout=5)
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"exit code {self._process.returncode}"


class ServerProcess(Listener):
    """A server of ours, whose certificate the client must know.

    with ServerProcess("cryptogen", ["serve", model, "--listen", "127.0.0.1:0"]) as server:
        client = Client(server.address, fingerprint=server.fingerprint)
    """

    ready = re.compile(r"listening on (?P<address>\S+) fingerprint (?P<fingerprint>[0-9a-f]{64})")
    fingerprint: str
