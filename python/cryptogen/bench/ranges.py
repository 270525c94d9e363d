"""`cryptogen bench ranges`: does any text break the plan? Every class of stress text, texts of the
caller's, chains.

The stress texts are made from a seed that calibration has not seen. `--docs` writes the table
between the markers of docs/guide/ranges.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cryptogen.backends.float import FloatBackend
from cryptogen.calibration.model import stress_tokens
from cryptogen.evaluate.texts import Progress, Windows, cropped, faithful_texts
from cryptogen.models.decoder import forward
from cryptogen.paths import read_text
from cryptogen.session.plans import find_plan
from cryptogen.tokens import Tokenizer
from cryptogen.weights import Checkpoint, load

from .decode import commit
from .table import filled

SEED = 2  # 0 makes the plan, 1 checks it
CHAIN = 256
PROMPTS = (
    "The capital of France is", "Once upon a time, in a village by the sea,", "def binary_search(items, target):\n",
    "Q: How do vaccines work?\nA:",
)  # fmt: skip
COLUMNS = ("text", "rows", "perplexity, float", "change", "same token", "rows flagged", "largest error of the others")


def measure(
    model: Path, plan: Path | None, sizes: Sequence[int], files: Sequence[Path], progress: Progress | None = None
) -> dict[str, Any]:
    """The figures of `cryptogen bench ranges --json`. `texts`: as in `Faithful`; `check`: what
    `calibrate` found."""
    checkpoint = load(model)
    found = find_plan(checkpoint, plan)
    tokens = texts(checkpoint, sizes, files) | {f"chain {i + 1}": [chain(checkpoint, p)] for i, p in enumerate(PROMPTS)}
    results = faithful_texts(str(model), found, tokens, progress)
    return {
        "model": model.name,
        "plan": found.digest(),
        "commit": commit(),
        "check": found.statistics.get("classes", {}),
        "texts": {name: asdict(result) | {"faults": result.faults()} for name, result in results.items()},
    }


def texts(checkpoint: Checkpoint, sizes: Sequence[int], files: Sequence[Path], seed: int = SEED) -> dict[str, Windows]:
    """Tokens by name and length: every class of stress text, and the beginning of every file, at
    every size."""
    tokenizer = _tokenizer(checkpoint)
    largest = min(max(sizes), checkpoint.config.context)
    found = stress_tokens(tokenizer, largest, seed)
    found |= {path.name: [tokenizer.encode(read_text(path))[:largest]] for path in files}
    return {
        f"{name}, {size}": cropped(windows, size)
        for name, windows in found.items()
        for size in sizes
        if sum(map(len, windows)) >= size - 1
    }


def chain(checkpoint: Checkpoint, prompt: str, length: int = CHAIN) -> list[int]:
    """A prompt and the float model's greedy answer to it: rows whose best token is the next one by
    construction."""
    backend, text = FloatBackend(checkpoint), _tokenizer(checkpoint).encode(prompt)
    new = text
    for _ in range(length):
        rows = forward(backend, checkpoint.config, new)
        assert rows is not None  # the last row was asked for
        new = [int(np.argmax(rows[0]))]
        text = [*text, *new]
    return text


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    assert checkpoint.tokenizer is not None  # models without one cannot be calibrated
    return checkpoint.tokenizer


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: the texts, and behind them the check that `calibrate` made with other texts of the
    same classes."""
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    origin = f"{figures['model']}, plan {figures['plan'][:16]}, commit {figures['commit'][:8]}."
    check = ["", "The check that `calibrate` made of the same plan:", "", *head, *_lines(figures["check"])]
    return "\n".join([*head, *_lines(figures["texts"]), *(check if figures["check"] else []), "", origin])


def _lines(texts: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, f in texts.items():
        ratio = f["perplexity"] / f["perplexity_float"]
        change = f"{ratio - 1:+.2%}" if ratio < 10 else f"× {ratio:.3g}"
        cells = (
            name.rpartition(",")[0] or name, f["rows"], f"{f['perplexity_float']:.2f}", change,
            f"{f['agreement']:.1%}", f["flagged"], f"{f['largest_error']:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def write_docs(figures: Mapping[str, Any]) -> Path:
    """The table between the markers of docs/guide/ranges.md."""
    page = Path(__file__).resolve().parents[3] / "docs" / "guide" / "ranges.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), "ranges", table(figures)))
    return page


def failing(figures: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is not good enough, by text."""
    return {name: f["faults"] for name, f in figures["texts"].items() if f["faults"]}
