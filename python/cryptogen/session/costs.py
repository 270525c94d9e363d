"""What a session has cost so far: seconds, bytes in both directions, round trips, material."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PHASES = ("setup", "offline", "online")


@dataclass(frozen=True)
class PhaseCost:
    """One phase, as the client sees it.

    Attributes:
        seconds: By the client's clock, waiting for the server included.
        bytes_sent: From client to server: messages and their frame headers, inside TLS.
        bytes_received: From server to client, likewise.
        round_trips: How often the client sent and then received.
    """

    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    round_trips: int = 0

    @property
    def bytes(self) -> int:
        """Both directions."""
        return self.bytes_sent + self.bytes_received

    def __add__(self, other: PhaseCost) -> PhaseCost:
        return PhaseCost(
            self.seconds + other.seconds,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.round_trips + other.round_trips,
        )

    def __sub__(self, other: PhaseCost) -> PhaseCost:
        return PhaseCost(
            self.seconds - other.seconds,
            self.bytes_sent - other.bytes_sent,
            self.bytes_received - other.bytes_received,
            self.round_trips - other.round_trips,
        )


@dataclass(frozen=True)
class Costs:
    """What a client has spent so far. The difference of two is what happened in between.

    Attributes:
        setup: Connecting: handshake, documents of the model, keys, base transfers.
        offline: Making material, and binding it to rows.
        online: The prompt and the tokens.
        rows: Rows computed: tokens of prompts, generated ones that were fed, drafted ones.
        known_rows: Rows that texts have begun with for nothing: of the server's system prompt, or
            of the chat template's head.
        tokens: Tokens that `generate` has given.
        range_events: Range events of all rows computed, those of drafted tokens that were not
            accepted too.
        spent: Material taken out of the store: `linears`, `rows` and `logits` by row,
            `exponentials` by pair of rows.
        left: What is left in the store, alike.
    """

    setup: PhaseCost = PhaseCost()
    offline: PhaseCost = PhaseCost()
    online: PhaseCost = PhaseCost()
    rows: int = 0
    known_rows: int = 0
    tokens: int = 0
    range_events: int = 0
    spent: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)

    def __sub__(self, before: Costs) -> Costs:
        """The cost of what happened since `before`; `left` stays what it is now."""
        return Costs(
            self.setup - before.setup,
            self.offline - before.offline,
            self.online - before.online,
            self.rows - before.rows,
            self.known_rows - before.known_rows,
            self.tokens - before.tokens,
            self.range_events - before.range_events,
            {name: n - before.spent.get(name, 0) for name, n in self.spent.items()},
            self.left,
        )


def phase_costs(stats: str, seconds: Mapping[str, float]) -> dict[str, PhaseCost]:
    """From the core's counters (`_Endpoint.stats`) and measured seconds."""
    counted: dict[str, Any] = json.loads(stats)
    costs = {}
    for phase in PHASES:
        c = counted.get(phase, {})
        numbers = (int(c.get(name, 0)) for name in ("bytes_sent", "bytes_received", "round_trips"))
        costs[phase] = PhaseCost(seconds.get(phase, 0.0), *numbers)
    return costs
