"""A virtual environment for a peer, made on demand below the user's cache folder and used again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cryptogen.errors import PeerUnavailable
from cryptogen.weights.packages import cache_folder

SPU = "spu==0.9.5"
PYTHONS = ((3, 11), (3, 10))  # SPU's wheels


def spu_python(note: Callable[[str], None], folder: Path | None = None, requirement: str = SPU) -> Path:
    """The interpreter of an environment with `requirement`, by default below `cache_folder()`.

    Made by pip from the configured package registry where it is missing or incomplete;
    `PeerUnavailable` if that fails.
    """
    home = folder or cache_folder() / "peers" / requirement.replace("==", "-")
    python, complete = home / "bin" / "python", home / "complete"
    if complete.exists() and python.exists():
        return python
    note(f"installing {requirement} into {home} (once, about 1.2 GB)")
    home.parent.mkdir(parents=True, exist_ok=True)
    _do([_interpreter(), "-m", "venv", "--clear", str(home)], requirement)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    _do([*pip, requirement], requirement)
    complete.touch()  # last: an interrupted installation is begun again
    return python


def _interpreter() -> str:
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in PYTHONS:
        if found := shutil.which(f"python{major}.{minor}"):
            return found
    versions = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    raise PeerUnavailable(f"{SPU}: Python {versions} expected, neither found")


def _do(command: list[str], requirement: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerUnavailable(f"{requirement} cannot be installed: {error}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise PeerUnavailable(f"{requirement} cannot be installed: {lines[-1]}")
