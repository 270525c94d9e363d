"""Cost of one token of a decode step, offline and online: two processes on this host, over TLS.

Prefills `context` random tokens, then decodes. Rows and logits are measured over the batch that is
bought, exponentials and attention over the decoded tokens. With `blocks` = K, runs of 1 and of K
blocks are made and a straight line is drawn through them: blocks are identical, and what is not a
block (embedding, head) is in both.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cryptogen import _core
from cryptogen.errors import InputError
from cryptogen.processes import ServerProcess
from cryptogen.protocols import PREPROCESSED, RECOMPUTE, check_protocol
from cryptogen.session import Client, Costs, Draft, Need
from cryptogen.session.link import Progress
from cryptogen.session.material import POOLS

from .measure import Note, tokens
from .memory import cpu_seconds, own_peak_rss, peak_rss
from .network import Network, emulate, network
from .shapes import SHAPES, random_checkpoint, random_tokens, shape

PARTS = (*POOLS, "attention")  # of the offline phase: material of each kind, and of rows at their positions
LINEAR = (
    "setup_seconds", "setup_bytes", "offline_seconds_per_token", "online_seconds_per_token", "offline_bytes_per_token",
    "online_bytes_per_token", "round_trips_per_token", "offline_round_trips_per_token", "prefill_seconds",
    "prefill_online_seconds",
    "cpu_seconds_per_token_client", "cpu_seconds_per_token_server",
    *(f"offline_{part}_seconds_per_token" for part in PARTS),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """`shape`: a name of `SHAPES` or the path of a model. `batch_tokens`: None buys what the run
    needs at once; `linear_tokens`: None buys as much for linear layers.

    The draft is the served model itself in the clear: nearly all is accepted, which is the best
    that a draft can do.

    Under `recompute` a token is the whole text again: one is measured, whatever `tokens` says.
    """

    shape: str
    context: int
    tokens: int
    batch_tokens: int | None = None
    linear_tokens: int | None = None
    blocks: int | None = None
    protocol: str = PREPROCESSED
    network: str | None = None  # lan, wan; None: the loopback as it is
    drafted: int = 0  # tokens that the client's draft proposes for every pass
    runs: int = 1  # whole runs, each with a server of its own; medians count


def decode(task: Task, progress: Progress | None = None, note: Note = lambda line: None) -> dict[str, Any]:
    """The figures of `cryptogen bench decode --json`. Bytes are both directions;
    `round_trips_per_token` is online.

    Of several runs the medians, and the lowest and highest of what is a time, in `ranges`.
    """
    check_protocol(task.protocol)
    link = network(task.network) if task.network else None
    if task.context < 1 or task.tokens < 1:
        raise InputError(f"context {task.context} and {task.tokens} tokens, expected 1 or more")
    figures = _median([_scaled(task, link, progress, note) for _ in range(task.runs)])
    return figures | {
        "context": task.context,
        "shape": task.shape if task.shape in SHAPES else Path(task.shape).name,
        "tokens": task.tokens,
        "protocol": task.protocol,
        "kernels": _core.KERNELS,
        "machine": machine(),
        "commit": commit(),
    }


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Whatever is a number; the rest is the same in all runs."""
    if len(runs) == 1:
        return runs[0]
    numbers = [key for key, value in runs[0].items() if isinstance(value, int | float)]
    values = {key: sorted(run[key] for run in runs) for key in numbers}
    ranges = {key: (v[0], v[-1]) for key, v in values.items() if "seconds" in key}
    return runs[0] | {key: median(v) for key, v in values.items()} | {"runs": len(runs), "ranges": ranges}


def _scaled(task: Task, link: Network | None, progress: Progress | None, note: Note) -> dict[str, Any]:
    """One run of all blocks, or one of 1 and one of K blocks, scaled up."""
    layers = SHAPES[task.shape].layers if task.shape in SHAPES else None
    if task.blocks is None or task.blocks == layers:
        return _run(task, layers, link, progress, note)
    if layers is None or not 2 <= task.blocks < layers:
        raise InputError(f"{task.blocks} blocks of {task.shape}, expected a known shape and 2 to its layers")
    one, some = (_run(task, k, link, progress, note) for k in (1, task.blocks))
    slope = {key: (some[key] - one[key]) / (task.blocks - 1) for key in LINEAR if key in one}
    figures = some | {key: one[key] + (layers - 1) * slope[key] for key in slope}
    return figures | {"extrapolated_from_blocks": task.blocks, "per_block": slope}


def _run(task: Task, blocks: int | None, link: Network | None, progress: Progress | None, note: Note) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cryptogen-bench-") as folder, emulate(link, note) as there:
        if blocks is not None:
            command = ("cryptogen.bench.server", [task.shape, str(blocks), folder, there.listen])
        else:
            command = ("cryptogen", ["serve", task.shape, "--listen", there.listen, "--data-dir", folder])
        with ServerProcess(*command, prefix=there.prefix) as server, there.reach(server.address) as address:
            client = Client(
                address, fingerprint=server.fingerprint, data_dir=folder, protocol=task.protocol, progress=progress
            )
            with client:
                if task.protocol == RECOMPUTE:
                    figures = _again(client, task, server.pid)
                else:
                    figures = _measure(client, task, _draft(task, blocks), server.pid)
            figures |= {"peak_rss_client": own_peak_rss(), "peak_rss_server": peak_rss(server.pid)}
            return figures if link is None else figures | {"network": link.name, "network_by": there.by}


def _draft(task: Task, blocks: int | None) -> Draft | None:
    if not task.drafted:
        return None
    model = random_checkpoint(shape(task.shape, blocks)) if task.shape in SHAPES else task.shape
    return Draft(model, task.drafted)


def _measure(client: Client, task: Task, draft: Draft | None, server: int) -> dict[str, Any]:
    rows = task.context + task.tokens
    if rows > client.config.context:
        raise InputError(f"{task.context} + {task.tokens} rows, the model's context has {client.config.context}")
    cost = _Meter(client, server)
    setup, exponentials_needed = client.costs.setup, client.checked_plan.exponentials_needed
    batch = max(task.batch_tokens or 0, rows)
    linears = max(task.linear_tokens or 0, batch)
    of_linears = cost(lambda: client.buy(Need(0, 0, 0, linears)))
    of_rows = cost(lambda: client.buy(Need(batch, 0, 0)))
    before = cost(lambda: client.buy(Need(0, 1, exponentials_needed(0, task.context))))
    logits_bought = max(task.batch_tokens or 0, task.tokens)
    of_logits = cost(lambda: client.buy(Need(0, logits_bought, 0)))
    of_exponentials = cost(lambda: client.buy(Need(0, 0, exponentials_needed(task.context, task.tokens))))
    begun = cost.now()
    stream = client.generate(
        random_tokens(client.config, task.context),
        max_new_tokens=task.tokens + 1,
        stop=(),
        continue_session=True,
        draft=draft,
    )
    next(stream)  # the prefill samples the first token
    prefill = cost.now() - begun
    decoding = cost(lambda: [None for _ in stream])
    n = task.tokens
    parts = ((of_linears, linears), (of_rows, batch), (of_logits, logits_bought), (of_exponentials, n), (decoding, n))
    return (
        {
            "setup_seconds": setup.seconds,
            "setup_bytes": setup.bytes,
            "offline_seconds_per_token": sum(part.wall.offline.seconds / per for part, per in parts),
            "offline_bytes_per_token": sum(part.wall.offline.bytes / per for part, per in parts),
            "offline_round_trips_per_token": sum(part.wall.offline.round_trips / per for part, per in parts),
            "online_seconds_per_token": decoding.wall.online.seconds / n,
            "online_bytes_per_token": decoding.wall.online.bytes / n,
            "round_trips_per_token": decoding.wall.online.round_trips / n,
            "cpu_seconds_per_token_client": sum(part.cpu_client / per for part, per in parts),
            "cpu_seconds_per_token_server": sum(part.cpu_server / per for part, per in parts),
            # its rows at their price in the batch, exponentials and attention, and the pass itself
            "prefill_seconds": task.context * sum(part.seconds / per for part, per in parts[:2])
            + before.seconds
            + prefill.seconds,
            "prefill_online_seconds": prefill.wall.online.seconds,
            "batch_tokens": batch,
            "linear_tokens": linears,
        }
        | _drafted(draft)
        | {
            f"offline_{name}_seconds_per_token": part.wall.offline.seconds / per
            for name, (part, per) in zip(PARTS, parts, strict=True)
        }
    )


def _drafted(draft: Draft | None) -> dict[str, Any]:
    if draft is None:
        return {}
    stats = draft.stats
    return {
        "drafted": draft.tokens,
        "acceptance_rate": stats.acceptance_rate,
        "tokens_per_pass": stats.tokens_per_pass,
    }


def _again(client: Client, task: Task, server: int) -> dict[str, Any]:
    """The same figures without a cache."""
    setup = client.costs.setup
    (token,) = tokens(client, task.protocol, [task.context], 1, server, lambda line: None)
    figures: dict[str, Any] = {"setup_seconds": setup.seconds, "setup_bytes": setup.bytes}
    for phase, cost in (("offline", token.offline), ("online", token.online)):
        figures[f"{phase}_seconds_per_token"] = cost.seconds
        figures[f"{phase}_bytes_per_token"] = cost.bytes_sent + cost.bytes_received
    figures["offline_round_trips_per_token"] = token.offline.round_trips
    figures["round_trips_per_token"] = token.online.round_trips
    return figures | {"batch_tokens": task.context}


@dataclass(frozen=True)
class _Cost:
    """What the client says that a piece of work has cost, and processor seconds of both parties."""

    wall: Costs
    cpu_client: float
    cpu_server: float

    def __sub__(self, before: _Cost) -> _Cost:
        return _Cost(self.wall - before.wall, self.cpu_client - before.cpu_client, self.cpu_server - before.cpu_server)

    @property
    def seconds(self) -> float:
        return self.wall.offline.seconds + self.wall.online.seconds


class _Meter:
    """`server`: its process."""

    def __init__(self, client: Client, server: int) -> None:
        self._client, self._server = client, server

    def now(self) -> _Cost:
        return _Cost(self._client.costs, time.process_time(), cpu_seconds(self._server))

    def __call__(self, work: Callable[[], object]) -> _Cost:
        before = self.now()
        work()
        return self.now() - before


def machine() -> str:
    """Processor, cores and the instructions that matter here."""
    model, flags = platform.machine(), ""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        if key.strip() == "flags":
            flags = value
    known = [name for name in ("avx2", "avx512f", "avx512ifma", "vaes") if name in flags.split()]
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {' '.join(known)}"


def commit() -> str:
    """The source's commit, where there is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
