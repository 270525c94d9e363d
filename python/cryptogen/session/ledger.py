"""What a client has spent so far: seconds, bytes and round trips by phase, material, rows and
tokens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cryptogen import _core
from cryptogen.errors import Forked

from .costs import Costs, phase_costs


class Ledger:
    """One account of all connections of a link. While one is open, its endpoint counts bytes and
    round trips."""

    def __init__(self) -> None:
        self.rows = self.known_rows = self.tokens = self.range_events = 0
        self._endpoint: _core.ClientEndpoint | None = None
        self._seconds: dict[str, float] = {}  # by phase, of the connection that is open
        self._earlier, self._spent = Costs(), Counter[str]()

    def opened(self, endpoint: _core.ClientEndpoint) -> None:
        """From now on this endpoint counts."""
        self.closed()
        self._endpoint = endpoint

    def closed(self) -> None:
        """Keeps what the endpoint has counted; it may go."""
        try:
            self._earlier = self.costs()
        except Forked:
            pass  # the endpoint is another process's, and so is what it has counted
        self._seconds, self._endpoint = {}, None

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Adds the seconds inside to a phase, whatever happens there."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started

    def setup_took(self, seconds: float) -> None:
        """The whole setup of this connection, instead of the sum of its steps."""
        self._seconds["setup"] = seconds

    def made_rows(self, n: int) -> None:
        """Making their material has spent as many records of `linears`."""
        self._spent["linears"] += n

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What the store holds less afterwards has been spent; nothing if the connection does not
        survive."""
        endpoint = self._endpoint
        before = endpoint.stock() if endpoint else {}
        try:
            yield
        finally:
            if self._endpoint is not None:
                after = self._endpoint.stock()
                self._spent.update({name: n - after[name] for name, n in before.items()})

    def costs(self) -> Costs:
        """The account as it stands."""
        now = phase_costs(self._endpoint.stats() if self._endpoint else "{}", self._seconds)
        left = self._endpoint.stock() if self._endpoint else self._earlier.left
        before = self._earlier
        return Costs(
            before.setup + now["setup"],
            before.offline + now["offline"],
            before.online + now["online"],
            self.rows,
            self.known_rows,
            self.tokens,
            self.range_events,
            dict(self._spent),
            dict(left),
        )
