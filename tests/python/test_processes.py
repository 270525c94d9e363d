"""Work in several processes: none of them outlives the command, and none prints a traceback at
Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = """
import os, pathlib, sys, time
def work(folder):
    (pathlib.Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
"""
MAIN = """
import sys
from cryptogen.processes import in_processes
from busy import work
if __name__ == "__main__":
    try:
        list(in_processes(work, [sys.argv[1]] * 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_command(tmp_path: Path, ended_by: signal.Signals) -> None:
    (tmp_path / "busy.py").write_text(WORK)
    (tmp_path / "main.py").write_text(MAIN)
    (found := tmp_path / "found").mkdir()
    command = [sys.executable, str(tmp_path / "main.py"), str(found)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: len(list(found.iterdir())) == 2)
        if ended_by == signal.SIGINT:
            os.killpg(process.pid, ended_by)  # as a terminal does
        else:
            process.send_signal(ended_by)
        assert process.stderr is not None
        said = process.stderr.read()  # until no worker is left that holds the pipe
        assert process.wait(20) == (130 if ended_by == signal.SIGINT else -ended_by)
    until(lambda: not any(alive(int(file.name)) for file in found.iterdir()))
    assert "Traceback" not in said


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(true: object) -> None:
    assert callable(true)
    for _ in range(200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("did not happen within 20 seconds")
