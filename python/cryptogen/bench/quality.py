"""Perplexity of a text under a backend, and how often it prefers the same token as the float model."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.backends.base import Backend
from cryptogen.backends.float import FloatBackend
from cryptogen.errors import InputError
from cryptogen.evaluate.perplexity import Perplexity, mean_nll, windows
from cryptogen.models.canonical import canonicalise
from cryptogen.models.decoder import forward
from cryptogen.protocols import PREPROCESSED, check_protocol
from cryptogen.session.link import Progress
from cryptogen.session.plans import find_plan
from cryptogen.weights import Checkpoint, load

BACKENDS = ("float", "fixed", "private")
Logits = Callable[[Sequence[int]], NDArray[Any]]  # tokens → [T, vocab]


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
    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise InputError(f"{text}: UTF-8 text expected ({e.reason} at byte {e.start})") from None
    parts = windows(checkpoint.tokenizer.encode(content), n, size)
    events: Counter[str] = Counter()
    clear, ours, same = [], [], 0
    with _logits(backend, checkpoint, model, plan, events, progress, protocol) as logits_of:
        for i, part in enumerate(parts):
            reference = _float(checkpoint, part)  # [T, vocab]
            clear.append(mean_nll(reference, part))
            logits = reference if backend == "float" else logits_of(part)
            ours.append(mean_nll(logits, part))
            same += int((logits.argmax(axis=1) == reference.argmax(axis=1)).sum())
            if progress:
                progress("windows", i + 1, n)
    result = {
        "backend": backend, "model": Path(model).name, "windows": n, "size": size,
        "perplexity": Perplexity(tuple(ours)).value, "perplexity_float": Perplexity(tuple(clear)).value,
        "perplexity_per_window": list(Perplexity(tuple(ours)).per_window), "agreement_with_float": same / (n * size),
    }  # fmt: skip
    return result | ({"events": dict(events)} if backend == "fixed" else {})


@contextmanager
def _logits(
    backend: str,
    checkpoint: Checkpoint,
    path: Path,
    plan: Path | None,
    events: Counter[str],
    progress: Progress | None,
    protocol: str,
) -> Iterator[Logits]:
    if backend == "private":
        with _private(path, plan, progress, protocol) as logits_of:
            yield logits_of
    elif backend == "fixed":
        yield _fixed(checkpoint, plan, events)
    else:
        yield lambda tokens: _float(checkpoint, tokens)


def _float(checkpoint: Checkpoint, tokens: Sequence[int]) -> NDArray[Any]:
    logits = forward(FloatBackend(checkpoint), checkpoint.config, tokens, want="all")
    assert logits is not None  # want="all"
    return logits


def _fixed(checkpoint: Checkpoint, plan_path: Path | None, events: Counter[str]) -> Logits:
    """The integers of the protocol in the clear, truncations as random as in a private run."""
    from cryptogen.backends.fixed import FixedBackend
    from cryptogen.backends.rounding import Random
    from cryptogen.numerics.quantise import quantise

    plan = find_plan(checkpoint, plan_path)
    weights, rng = quantise(canonicalise(checkpoint), plan), np.random.default_rng(0)

    def logits_of(tokens: Sequence[int]) -> NDArray[Any]:
        backend = FixedBackend(weights, plan, Random(rng))
        run: Backend[Any] = backend
        forward(run, checkpoint.config, tokens, want="all")
        events.update(backend.events)
        return backend.raw_logits / 2.0**plan.logit_bits

    return logits_of


@contextmanager
def _private(model: Path, plan: Path | None, progress: Progress | None, protocol: str) -> Iterator[Logits]:
    """Two processes on this host; each window is a session of its own."""
    from cryptogen.session import Client

    from .processes import ServerProcess

    with tempfile.TemporaryDirectory(prefix="cryptogen-eval-") as folder:
        arguments = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", folder]
        arguments += ["--plan", str(plan)] if plan else []
        with (
            ServerProcess("cryptogen", arguments) as server,
            Client(
                server.address, fingerprint=server.fingerprint, data_dir=folder, protocol=protocol, progress=progress
            ) as client,
        ):
            yield client.logits
