"""What people see in a terminal: progress bars and cost tables on stderr, answers on stdout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .session.costs import PHASES, Costs
from .session.draft import DraftStats
from .session.material import POOLS

err = Console(stderr=True, highlight=False)


class Bars:
    """A progress listener, `bars(phase, done, total)`: a bar per phase, gone when all are full
    unless `keep`.

    Where stderr is no terminal only kept bars are written, once they are full.
    """

    def __init__(self, console: Console = err, keep: bool = False) -> None:
        self._console, self._keep = console, keep
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        if not self._keep and not self._console.is_terminal:
            return
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._progress = Progress(*columns, console=self._console, transient=not self._keep)
            self._progress.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._tasks[phase], completed=done, total=total)
        if all(task.finished for task in self._progress.tasks):
            self.close()

    def close(self) -> None:
        """Ends the display; the next call starts a new one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}


def cost_table(costs: Costs) -> Table:
    """Seconds, bytes and round trips per phase."""
    table = Table("phase", *(("seconds", "MB sent", "MB received", "round trips")), title="cost, as the client sees it")
    for name in PHASES:
        phase = getattr(costs, name)
        sent, received = phase.bytes_sent / 1e6, phase.bytes_received / 1e6
        table.add_row(name, f"{phase.seconds:.2f}", f"{sent:.2f}", f"{received:.2f}", str(phase.round_trips))
    return table


def show_costs(costs: Costs, console: Console = err) -> None:
    """The table, the material and the range events."""
    console.print(cost_table(costs))
    console.print(f"material spent: {_counts(costs.spent)}; left: {_counts(costs.left)}")
    console.print(f"rows computed: {costs.rows}; known to the server: {costs.known_rows}")
    console.print(f"range events: {costs.range_events}")


class RangeWarnings:
    """One answer's range events: a line at the first token with some, and one with the total if
    there were more."""

    def __init__(self, console: Console = err) -> None:
        self._console, self._first = console, 0
        self._tokens, self._total = 0, 0

    def add(self, events: int) -> None:
        """One more token."""
        self._tokens += 1
        self._total += events
        if events and not self._first:
            self._first = events
            self._say(f"token {self._tokens}: {events} range events; the text from here on may be wrong")

    def close(self) -> None:
        """The answer is over."""
        if self._total > self._first:
            self._say(f"{self._total} range events in the {self._tokens} tokens of this answer")

    def _say(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print()  # the answer's line may be unfinished there
        self._console.print(f"warning: {text} (see docs/guide/ranges.md)", soft_wrap=True)


def show_draft(stats: DraftStats, console: Console = err) -> None:
    """What came of a draft's proposals."""
    console.print(
        f"draft: {stats.accepted} of {stats.drafted} proposed tokens accepted ({stats.acceptance_rate:.0%}), "
        f"{stats.tokens_per_pass:.1f} tokens per pass"
    )


def draft_json(stats: DraftStats) -> dict[str, Any]:
    """For `--json`."""
    return asdict(stats) | {"acceptance_rate": stats.acceptance_rate, "tokens_per_pass": stats.tokens_per_pass}


def costs_json(costs: Costs) -> dict[str, Any]:
    """For `--json`."""
    return asdict(costs)


def _counts(counts: Any) -> str:
    return ", ".join(f"{counts.get(pool, 0)} {pool}" for pool in POOLS)
