"""How faithful the protocol's integers are to the float model on a text, row by row, and what is
good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.backends.fixed import FixedBackend, Place
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.rounding import Random
from cryptogen.evaluate.perplexity import surprise
from cryptogen.models.backend import Backend
from cryptogen.models.decoder import forward
from cryptogen.numerics.plan import NumericPlan
from cryptogen.numerics.quantise import IntegerModel, quantise
from cryptogen.processes import in_processes
from cryptogen.weights import Checkpoint, load
from cryptogen.weights.canonical import Canonical, canonicalise

ROWS = 256  # of one pass: bounds the memory of two rows of logits each
# Logits. Rows where the float model's best token leads the next by less are left out of
# `Faithful.agreement`.
COUNTED_LEAD = 0.1
PERPLEXITY, AGREEMENT, ERROR = 0.005, 0.985, 1.0  # what is good enough; see `Faithful.faults`
UNLIKELY = 1000.0  # perplexity of text that the model would not write: it says nothing about what is sampled
Progress = Callable[[str, int, int], None]
Windows = Sequence[Sequence[int]]  # tokens of sequences that begin anew


@dataclass(frozen=True)
class Faithful:
    """The integers of a plan against the float model on one text from position 0.

    `perplexity`, `perplexity_float`: of the text's own tokens. `agreement`: share of rows with the
    same best token, among those where the float model's best leads by at least `COUNTED_LEAD`;
    `agreement_all`: among all. `flagged`: rows with range events. `largest_error`: largest |logit
    difference| in rows that are not flagged. `events`: places with range events, most first:
    (place, events, how far outside).
    """

    rows: int
    perplexity: float
    perplexity_float: float
    agreement: float
    agreement_all: float
    flagged: int
    largest_error: float
    errors: int  # unflagged rows with a logit error above 1
    events: tuple[tuple[str, int, float], ...]

    def faults(self) -> list[str]:
        """What is not good enough, each with what was expected and what came; where numbers left
        their range, if so."""
        found = []
        change = self.perplexity / self.perplexity_float - 1
        if abs(change) > PERPLEXITY and self.perplexity_float < UNLIKELY:
            wanted = f"within {PERPLEXITY:.1%} of {self.perplexity_float:.2f}"
            came = f"{change:+.2%}" if change < 10 else f"{change + 1:.3g} times as much"
            found.append(f"perplexity {wanted} expected, {came} came")
        if self.agreement < AGREEMENT:
            found.append(f"the float model's token in {AGREEMENT:.1%} of rows expected, {self.agreement:.1%} came")
        if self.largest_error > ERROR:
            found.append(
                f"logit errors up to {ERROR} in rows without range events expected, "
                f"{self.errors} rows have more, up to {self.largest_error:.2f}"
            )
        if found and self.events:
            places = (f"{place} ({count} times, by up to {by:.3g})" for place, count, by in self.events[:3])
            found.append(f"outside their range: {', '.join(places)}")
        return found


class Comparison:
    """Adds up rows of logits, the float model's and the other's, with the range events of the
    other's."""

    def __init__(self) -> None:
        self._rows = self._same = self._clear_same = self._clear = self._flagged = self._errors = 0
        self._windows: list[NDArray[np.float64]] = []  # mean surprise of each window: ours, the float model's
        self._largest = 0.0
        self._events: Counter[str] = Counter()
        self._excess: dict[str, float] = {}

    def window(self, tokens: Sequence[int], parts: Iterable[tuple[NDArray[Any], NDArray[Any], Sequence[int]]]) -> None:
        """One window of tokens; its rows in order, as logits [n, vocab] twice and range events
        [n]."""
        total, at = np.zeros(2), 0
        for reference, logits, events in parts:
            for row, other, count in zip(reference, logits, events, strict=True):
                at += 1
                clear, ours = row.astype(np.float64), other.astype(np.float64)
                if at < len(tokens):
                    total += surprise(ours, tokens[at]), surprise(clear, tokens[at])
                self._row(clear, ours, count)
        self._windows.append(total / max(len(tokens) - 1, 1))

    def _row(self, clear: NDArray[np.float64], ours: NDArray[np.float64], count: int) -> None:
        two = np.partition(clear, -2)[-2:]
        same = int(clear.argmax()) == int(ours.argmax())
        self._rows, self._same = self._rows + 1, self._same + same
        if two[1] - two[0] >= COUNTED_LEAD:
            self._clear, self._clear_same = self._clear + 1, self._clear_same + same
        if count:
            self._flagged += 1
            return
        error = float(np.abs(clear - ours).max())
        self._largest, self._errors = max(self._largest, error), self._errors + (error > ERROR)

    def places(self, events: Mapping[Place, int], excess: Mapping[Place, float]) -> None:
        """Where a window's range events came from, if the backend knows."""
        self._events.update({str(place): count for place, count in events.items()})
        for place, by in excess.items():
            self._excess[str(place)] = max(self._excess.get(str(place), 0.0), float(by))

    def result(self) -> Faithful:
        ours, clear = np.exp(np.minimum(np.mean(self._windows, axis=0), 700.0))
        places = tuple((place, count, self._excess[place]) for place, count in self._events.most_common())
        return Faithful(
            self._rows, float(ours), float(clear), self._clear_same / self._clear if self._clear else 1.0,
            self._same / self._rows, self._flagged, self._largest, self._errors, places,
        )  # fmt: skip


def float_rows(model: Checkpoint | Canonical, tokens: Sequence[int]) -> Iterator[NDArray[Any]]:
    """The float model's logits, a few rows at a time."""
    backend = FloatBackend(model)
    for part in parts_of(tokens):
        logits = forward(backend, model.config, part, "all")
        assert logits is not None  # want="all"
        yield logits


def parts_of(tokens: Sequence[int]) -> list[list[int]]:
    """The tokens of one pass each."""
    return [list(tokens[at : at + ROWS]) for at in range(0, len(tokens), ROWS)]


def cropped(windows: Iterable[Sequence[int]], rows: int) -> Windows:
    """The first `rows` tokens of windows that may have no end; a last one of a single token is left
    out."""
    kept: list[Sequence[int]] = []
    for window in windows:
        kept.append(window[:rows])
        rows -= len(window)
        if rows < 2:
            break
    return kept


def faithful(model: Canonical, weights: IntegerModel, plan: NumericPlan, windows: Windows, seed: int = 0) -> Faithful:
    """Runs both over windows of tokens (two or more, at most the context); truncations as random as
    in a private run."""
    comparison, rng = Comparison(), np.random.default_rng(seed)
    for tokens in windows:
        compare_fixed(comparison, model, weights, plan, tokens, rng)
    return comparison.result()


def compare_fixed(
    comparison: Comparison,
    model: Checkpoint | Canonical,
    weights: IntegerModel,
    plan: NumericPlan,
    tokens: Sequence[int],
    rng: np.random.Generator,
) -> None:
    """One window of the oracle against the float model."""
    fixed = FixedBackend(weights, plan, Random(rng))
    run: Backend[Any] = fixed

    def both() -> Iterator[tuple[NDArray[Any], NDArray[Any], Sequence[int]]]:
        for part, reference in zip(parts_of(tokens), float_rows(model, tokens), strict=True):
            forward(run, model.config, part, "all")
            yield reference, fixed.raw_logits / 2.0**plan.coarse_logit_bits, fixed.range_events

    comparison.window(tokens, both())
    comparison.places(fixed.events, fixed.excess)


def faithful_texts(
    source: str, plan: NumericPlan, texts: Mapping[str, Windows], progress: Progress | None = None
) -> dict[str, Faithful]:
    """`faithful` for several texts, in as many processes as there are processors. `source`: the
    model's path."""
    model, results = Loaded(source, plan.to_json()), {}
    for name, result in zip(texts, in_processes(model.faithful, list(texts.values())), strict=True):
        results[name] = result
        if progress:
            progress("checking texts", len(results), len(texts))
    return results


class Loaded:
    """A model and a plan that every worker process loads once, when it first needs them."""

    def __init__(self, source: str, plan: str) -> None:
        self._source, self._plan = source, plan

    def faithful(self, windows: Windows) -> Faithful:
        """See `faithful`."""
        model = canonical_of(self._source)
        weights, plan = _quantised(self._source, self._plan)
        return faithful(model, weights, plan, windows)


@cache
def canonical_of(source: str) -> Canonical:
    """The rewritten weights of a model file, loaded once per process."""
    return canonicalise(load(source))


@cache
def _quantised(source: str, plan: str) -> tuple[IntegerModel, NumericPlan]:
    parsed = NumericPlan.from_json(plan)
    return quantise(canonical_of(source), parsed), parsed
