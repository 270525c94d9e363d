"""A server in a process of its own, for everything here that measures or demonstrates two parties.

Such a process ends with the one that started it, even if that is killed (`setpriv --pdeathsig`, where there is one).
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptogen.errors import ConnectionFailed, CryptogenError


class Listener:
    """Runs `python -m <module> <arguments>` until the block ends; it must say `listening on <address>`.

    `prefix`: words before the command that start it elsewhere and then become it (exec). Raises `ConnectionFailed` with
    the process's last words if it ends or says nothing for `patience` seconds.
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

    def peak_rss(self) -> int:
        """Largest resident set so far, bytes."""
        return peak_rss(self.pid)

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        self._process.kill()
        self._process.wait()

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


def own_peak_rss() -> int:
    """Largest resident set of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rss(pid: int | str = "self") -> int:
    """Largest resident set of a process since its start or the last `reset_peak_rss`, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise CryptogenError(f"/proc/{pid}/status has no VmHWM")


def reset_peak_rss(*others: int) -> None:
    """Starts the peak of this process and of others anew (proc(5), clear_refs)."""
    for pid in ("self", *others):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
