"""What one more token costs after L others, under each protocol: seconds, bytes, round trips,
operations, memory.

With a cache the text grows in one session, from length to length, so that the prefix is really
there; rows and logits are bought in one batch each and counted per record, exponentials are those
of the measured tokens. Without a cache a token is the whole text: as many rows, the exponentials of
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptogen.errors import InputError
from cryptogen.protocols import RECOMPUTE
from cryptogen.session import Client, Costs, Need, PhaseCost

from .memory import peak_rss, reset_peak_rss
from .shapes import random_tokens

Note = Callable[[str], None]


@dataclass(frozen=True)
class PerToken:
    """What a phase took for one token: a `PhaseCost` with fractions."""

    seconds: float = 0.0
    bytes_sent: float = 0.0
    bytes_received: float = 0.0
    round_trips: float = 0.0

    @staticmethod
    def of(cost: PhaseCost, tokens: float = 1.0) -> PerToken:
        """Of a cost that was paid for so many tokens."""
        values = (cost.seconds, cost.bytes_sent, cost.bytes_received, cost.round_trips)
        return PerToken(*(v / tokens for v in values))

    def __add__(self, other: PerToken) -> PerToken:
        return PerToken(
            self.seconds + other.seconds,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.round_trips + other.round_trips,
        )


@dataclass(frozen=True)
class Token:
    """One token after `length` others."""

    length: int
    offline: PerToken
    online: PerToken
    counts: Mapping[str, float]  # operations of this token
    state: Mapping[str, int]  # what the server holds afterwards: ciphertexts in the cache, bytes of keys
    peak_rss_client: int
    peak_rss_server: int
    prefill_seconds: float = 0.0  # all that came before, material included


def tokens(client: Client, protocol: str, lengths: Sequence[int], n: int, server: int, note: Note) -> Iterator[Token]:
    """One figure per length, ascending. `n`: tokens measured where there is a cache; `server`: its
    process."""
    check_lengths(lengths, 1 if protocol == RECOMPUTE else n, client.config.context)
    run = _again if protocol == RECOMPUTE else _cached
    yield from run(client, lengths, n, server, note)


def check_lengths(lengths: Sequence[int], n: int, context: int) -> None:
    """Ascending, with room for the measured tokens in between."""
    gaps = [b - a for a, b in zip(lengths, lengths[1:], strict=False)]
    if not lengths or lengths[0] < 1 or any(gap < n + 3 for gap in gaps):
        raise InputError(f"lengths {list(lengths)[:8]}, expected ascending ones at least {n + 3} apart")
    if lengths[-1] + n + 1 > context:
        raise InputError(f"{lengths[-1]} + {n + 1} rows, the model's context has {context}")


def _cached(client: Client, lengths: Sequence[int], n: int, server: int, note: Note) -> Iterator[Token]:
    started, exponentials_needed = client.costs, client.checked_plan.exponentials_needed
    rows, logits_bought = lengths[-1] + 1 + n, len(lengths) * (n + 2)
    note(f"material of {rows} rows")
    of_rows, of_logits = _buying(client, Need(rows, 0, 0)), _buying(client, Need(0, logits_bought, 0))
    text, pending = random_tokens(client.config, lengths[-1]), 0
    for length in lengths:
        done = client.length
        note(f"{length} rows")
        client.buy(Need(0, 0, exponentials_needed(done, length + 1 - done)))
        of_exponentials = _buying(client, Need(0, 0, exponentials_needed(length + 1, n)))
        stream = client.generate(text[: length - done - pending], max_new_tokens=n + 2, stop=(), continue_session=True)
        next(stream)  # the prefill samples the first token
        next(stream)  # and one row alone lets the server do what it does once, such as encoding weights
        before = client.costs - started
        prefill = before.offline.seconds + before.online.seconds
        reset_peak_rss(server)
        counted, begun = client.counters(), client.costs
        for _ in stream:
            pass
        decoding = client.costs - begun
        now = client.counters()
        offline = PerToken.of(of_rows.offline, rows) + PerToken.of(of_logits.offline, logits_bought)
        offline += PerToken.of(of_exponentials.offline, n) + PerToken.of(decoding.offline, n)
        yield _token(length, offline, PerToken.of(decoding.online, n), counted, now, n, server, prefill)
        pending = 1  # the last token sampled is fed with the next ones


def _again(client: Client, lengths: Sequence[int], n: int, server: int, note: Note) -> Iterator[Token]:
    del n  # one token is enough: it is as many rows as the text
    for length in lengths:
        note(f"{length} rows")
        reset_peak_rss(server)
        of_rows, of_logits = _buying(client, Need(length, 0, 0)), _buying(client, Need(0, 1, 0))
        of_exponentials = _buying(client, Need(0, 0, client.checked_plan.exponentials_needed(0, length)))
        text = random_tokens(client.config, length)
        counted, begun = client.counters(), client.costs
        list(client.generate(text, max_new_tokens=1, stop=()))
        whole = client.costs - begun
        now = client.counters()
        offline = PerToken.of(of_rows.offline) + PerToken.of(of_logits.offline)
        offline += PerToken.of(of_exponentials.offline) + PerToken.of(whole.offline)
        yield _token(length, offline, PerToken.of(whole.online), counted, now, 1, server, 0.0)


def _token(
    length: int,
    offline: PerToken,
    online: PerToken,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    n: int,
    server: int,
    prefill: float,
) -> Token:
    counts = {name: (value - before["counts"].get(name, 0)) / n for name, value in now["counts"].items()}
    return Token(length, offline, online, counts, now["state"], peak_rss(), peak_rss(server), prefill)


def _buying(client: Client, need: Need) -> Costs:
    before = client.costs
    client.buy(need)
    return client.costs - before
