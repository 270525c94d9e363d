"""How faithful a backend is to the float model on a text: the figures of `cryptogen eval`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryptogen import _core
from cryptogen.errors import InputError
from cryptogen.evaluate.perplexity import windows
from cryptogen.evaluate.texts import Comparison, compare_fixed, float_rows
from cryptogen.numerics.plan import tables
from cryptogen.numerics.quantise import quantise
from cryptogen.paths import read_text
from cryptogen.processes import ServerProcess
from cryptogen.protocols import PREPROCESSED, check_protocol
from cryptogen.session.link import Progress
from cryptogen.session.plans import find_plan
from cryptogen.session.rows import Rows
from cryptogen.weights import Checkpoint, load
from cryptogen.weights.canonical import canonicalise

if TYPE_CHECKING:
    from cryptogen.session import Client

BACKENDS = ("float", "fixed", "private")


def evaluate(
    model: Path,
    text: Path,
    backend: str,
    n: int,
    size: int,
    plan: Path | None,
    progress: Progress | None,
    protocol: str = PREPROCESSED,
) -> dict[str, Any]:
    """The figures of `cryptogen eval --json`, on windows `tokens[size·i : size·(i + 1)]`, i < n."""
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    check_protocol(protocol)
    checkpoint = load(model)
    if checkpoint.tokenizer is None:
        raise InputError(f"{model} has no tokenizer")
    if size > checkpoint.config.context:
        raise InputError(f"windows of {size} tokens, the model's context has {checkpoint.config.context}")
    parts = windows(checkpoint.tokenizer.encode(read_text(text)), n, size)
    comparison = Comparison()
    with _compare(backend, checkpoint, model, plan, progress, protocol) as compare:
        for i, part in enumerate(parts):
            compare(comparison, part)
            if progress:
                progress("windows", i + 1, n)
    result = comparison.result()
    return {"backend": backend, "model": Path(model).name, "windows": n, "size": size} | asdict(result)


@contextmanager
def _compare(
    backend: str, checkpoint: Checkpoint, path: Path, plan: Path | None, progress: Progress | None, protocol: str
) -> Iterator[Callable[[Comparison, Sequence[int]], None]]:
    """How one window is added to a comparison."""
    if backend == "private":
        with _private(path, plan, progress, protocol) as client:
            yield lambda comparison, tokens: comparison.window(tokens, _rows(checkpoint, tokens, client.score(tokens)))
    elif backend == "fixed":
        found, rng = find_plan(checkpoint, plan), np.random.default_rng(0)
        _core.CheckedPlan(found.to_json(), tables(found))  # what a server would refuse is not measured
        weights = quantise(canonicalise(checkpoint), found)
        yield lambda comparison, tokens: compare_fixed(comparison, checkpoint, weights, found, tokens, rng)
    else:
        yield lambda comparison, tokens: comparison.window(
            tokens, ((rows, rows, [0] * len(rows)) for rows in float_rows(checkpoint, tokens))
        )


def _rows(
    checkpoint: Checkpoint, tokens: Sequence[int], scored: Rows
) -> Iterator[tuple[NDArray[Any], NDArray[Any], Sequence[int]]]:
    """A private run's rows beside the float model's."""
    at = 0
    for reference in float_rows(checkpoint, tokens):
        rows = slice(at, at + len(reference))
        yield reference, scored.logits[rows], scored.events[rows]
        at += len(reference)


@contextmanager
def _private(model: Path, plan: Path | None, progress: Progress | None, protocol: str) -> Iterator[Client]:
    """Two processes on this host; each window is a session of its own."""
    from cryptogen.session import Client

    with tempfile.TemporaryDirectory(prefix="cryptogen-eval-") as folder:
        arguments = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", folder]
        arguments += ["--plan", str(plan)] if plan else []
        with (
            ServerProcess("cryptogen", arguments) as server,
            Client(
                server.address, fingerprint=server.fingerprint, data_dir=folder, protocol=protocol, progress=progress
            ) as client,
        ):
            yield client
