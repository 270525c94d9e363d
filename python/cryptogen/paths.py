"""Where things are kept: names, keys, material. One folder per role below the user's data
directory."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sys
from pathlib import Path

from cryptogen.errors import DiskFull, InputError, MalformedFile, MissingFile, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def data_folder(role: str, override: str | Path | None = None, make: bool = True) -> Path:
    """The private (mode 0700) folder of a role, `client` or `server`; made if absent, if `make`.

    Below `override`, else `$CRYPTOGEN_DATA_DIR`, else `$XDG_DATA_HOME/cryptogen`, else
    `~/.local/share/cryptogen`.
    """
    base = override or os.environ.get("CRYPTOGEN_DATA_DIR")
    root = Path(base).expanduser() if base else _xdg_data_home() / "cryptogen"
    folder = root / role
    if in_the_way := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise InputError(f"data folder {root}: a folder expected, {in_the_way} is a file")
    if make:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    return folder


def client_id(folder: Path) -> str:
    """This client's stable random name: servers keep material under it. Made on first use.
    `MalformedFile` if the file holds something else."""
    path = folder / "client_id"
    if not path.exists():
        write_private(path, f"client-{secrets.token_hex(8)}\n")
    name = path.read_bytes().decode("ascii", errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise MalformedFile(path, "a client id expected: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit")
    return name


def secret_of(folder: Path) -> bytes:
    """32 random bytes, from which a server derives what it calls itself to each client. Made on
    first use. `MalformedFile` if they are others."""
    path = folder / "name.key"
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    secret = path.read_bytes()
    if len(secret) != 32:
        raise MalformedFile(path, f"32 bytes expected, {len(secret)} found")
    return secret


def read_text(path: str | Path, what: str = "text", stdin: bool = False) -> str:
    """A whole UTF-8 file; with `stdin` the path `-` is the standard input.

    Raises:
        MissingFile: There is no such file.
        InputError: A folder, a file that cannot be read, or bytes that are not UTF-8.
    """
    if stdin and str(path) == "-":
        path, data = "stdin", sys.stdin.buffer.read()
    elif not Path(path).exists():
        raise MissingFile(Path(path), what)
    elif Path(path).is_dir():
        raise InputError(f"{path}: a text file expected, this is a folder ({what})")
    else:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: a file that can be read expected, {error.strerror} ({what})") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: UTF-8 text expected, byte {error.start + 1} is none ({what})") from None


class KnownServers:
    """Fingerprints of servers that the user has checked: `known_servers`, a JSON object address →
    SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "known_servers"

    def get(self, address: str) -> str | None:
        return self._read().get(address)

    def put(self, address: str, fingerprint: str) -> None:
        known = self._read()
        if known.get(address) != fingerprint:
            write_private(self._path, json.dumps(known | {address: fingerprint}, indent=1) + "\n")

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as e:
            raise MalformedFile(self._path, f"a JSON object expected: {e}") from None
        if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
            raise MalformedFile(self._path, "a JSON object of fingerprints expected")
        return known


def write_private(path: Path, content: str | bytes) -> None:
    """Replace a file of mode 0600, all of it or nothing, also where the power fails. `DiskFull`,
    `StoreError`."""
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        kind = DiskFull if error.errno in FULL else StoreError
        raise kind(f"{path}: cannot be written: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    """Brings the names in it to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _xdg_data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
