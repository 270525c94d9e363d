"""What earlier versions have left in the data folders and no version uses any more."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptogen import _core
from cryptogen.paths import data_folder


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nothing reads.

    Attributes:
        path: Where it is.
        what: What it was for.
        size: Bytes on disk.
    """

    path: Path
    what: str
    size: int

    def remove(self) -> None:
        """Deletes it. `OSError` if it cannot be."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def leftovers(data_dir: str | Path | None = None) -> list[Leftover]:
    """Encrypted models of clients and the lattice key of servers, which wire protocol 5 used,
    documents that were kept for all servers together, and material of another store format.

    Args:
        data_dir: As for `Client` and `Server`.
    """
    client, server = (data_folder(role, data_dir, make=False) for role in ("client", "server"))
    found = [(path, "encrypted model of wire protocol 5") for path in _inside(client / "models")]
    found += [(path, "document of an earlier version") for path in _inside(client / "documents") if path.is_file()]
    found += [(server / "lattice.key", "lattice key of wire protocol 5")] if (server / "lattice.key").exists() else []
    stores = [*_inside(client / "stores"), *(store for of in _inside(server / "stores") for store in _inside(of))]
    for store in stores:
        if (version := _format(store)) not in (None, _core.STORE_FORMAT):
            found.append((store, f"material of store format {version}"))
    return [Leftover(path, what, _size(path)) for path, what in found]


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _format(store: Path) -> int | None:
    """The format that a store says it has; None if there is no telling: such a store is left
    alone."""
    try:
        state = json.loads((store / "state.json").read_text(encoding="utf-8"))
        version = state["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if type(version) is int else None


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)
