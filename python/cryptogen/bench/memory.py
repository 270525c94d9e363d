"""What a process has used: memory at most, processor time; from /proc."""

from __future__ import annotations

import os
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


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its threads so far, user and system (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak_rss(*others: int) -> None:
    """Starts the peak of this process and of others anew (proc(5), clear_refs)."""
    for pid in ("self", *others):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
