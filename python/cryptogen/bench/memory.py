"""How much memory a process has used at most, from /proc."""

from __future__ import annotations

import resource
from pathlib import Path

from cryptogen.errors import CryptogenError


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
