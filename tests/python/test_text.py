"""The owner of a session's text: tokens, rows that count, rows behind them, and what becomes of
them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cryptogen.session.text import Text


@dataclass
class Rows:
    """What an endpoint counts."""

    length: int = 0
    ready_rows: int = 0
    ready_logits: int = 0


def opened() -> tuple[Text, Rows]:
    text, rows = Text(), Rows()
    text.opened(rows)
    return text, rows


def feed(text: Text, rows: Rows, *tokens: int) -> None:
    """A pass."""
    rows.length += len(tokens)
    text.fed(tokens)


def drop(text: Text, rows: Rows) -> None:
    """What `Link.settle` does."""
    rows.length = text.length
    text.settled()


def drafted(*tokens: int) -> tuple[Text, Rows]:
    """Three tokens of a prompt and one that was sampled, which has been fed with drafted ones."""
    text, rows = opened()
    feed(text, rows, 5, 9, 300)
    text.take(7)
    feed(text, rows, *text.pending, *tokens)
    text.drafted(len(tokens))
    return text, rows


def test_a_sampled_token_is_pending_until_it_is_fed() -> None:
    text, rows = opened()
    feed(text, rows, 5, 9, 300)
    assert (text.length, text.tokens, text.pending) == (3, [5, 9, 300], [])
    text.take(7)
    assert (text.length, text.tokens, text.pending) == (3, [5, 9, 300, 7], [7])
    feed(text, rows, 7, 8)
    assert (text.length, text.tokens, text.pending) == (5, [5, 9, 300, 7, 8], [])


def test_drafted_rows_count_one_by_one_as_the_text_reaches_them() -> None:
    text, rows = drafted(1, 2, 3)
    assert (text.length, text.cached, text.tokens) == (4, 7, [5, 9, 300, 7])
    text.take(1)
    assert (text.length, text.cached, text.pending) == (5, 7, [])
    text.take(2)
    assert (text.length, text.tokens) == (6, [5, 9, 300, 7, 1, 2])
    text.take(3)
    text.take(4)  # of no row: all that was drafted was accepted
    assert (text.length, text.cached, text.pending) == (7, 7, [4])


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_caller_who_leaves_is_at_the_last_token_that_it_took(taken: int) -> None:
    text, rows = drafted(1, 2, 3)
    for token in [1, 2, 3][:taken]:
        text.take(token)
    assert text.length == 4 + taken
    drop(text, rows)
    assert text.tokens == [5, 9, 300, 7, *[1, 2, 3][:taken]] and text.cached == text.length
    feed(text, rows, 6)
    assert text.tokens[-1] == 6 and text.length == 5 + taken


def test_rows_behind_a_rejected_token_never_count() -> None:
    text, rows = drafted(1, 2, 3)
    text.take(1)
    text.take(8)  # where 2 was drafted
    assert (text.length, text.tokens, text.pending) == (5, [5, 9, 300, 7, 1, 8], [8])
    drop(text, rows)
    feed(text, rows, 8)
    assert (text.length, text.tokens) == (6, [5, 9, 300, 7, 1, 8])
    text.take(3)  # drafted once, but its row is gone
    assert text.pending == [3]


def test_of_a_resumed_cache_only_the_number_of_rows_is_known() -> None:
    text, rows = opened()
    rows.length = 5
    text.resumed([7])
    assert (text.length, text.cached, text.tokens, text.pending) == (5, 5, [7], [7])
    feed(text, rows, 7, 8)
    text.take(1)
    feed(text, rows, 1, 2, 3)
    text.drafted(2)
    text.take(2)
    assert (text.length, text.tokens) == (9, [7, 8, 1, 2])
    drop(text, rows)
    assert (text.cached, text.tokens) == (9, [7, 8, 1, 2])


@pytest.mark.parametrize("known", [[], [5, 9, 300]])
def test_a_text_begins_with_rows_of_the_servers(known: list[int]) -> None:
    """Whose tokens are known here, or not."""
    text, rows = opened()
    rows.length = 3
    text.begun(3, known)
    assert (text.length, text.cached, text.tokens, text.pending) == (3, 3, known, [])
    feed(text, rows, 7)
    text.take(8)
    assert (text.length, text.tokens) == (4, [*known, 7, 8])
    feed(text, rows, 8, 1, 2)
    text.drafted(2)
    text.take(3)
    drop(text, rows)
    assert (text.length, text.cached, text.tokens) == (5, 5, [*known, 7, 8, 3])
    with pytest.raises(AssertionError):
        text.begun(3, [5])


def test_rows_and_logits_that_are_ready_are_the_endpoints() -> None:
    text, rows = opened()
    rows.ready_rows, rows.ready_logits = 16, 3
    assert (text.ready_rows, text.ready_logits) == (16, 3)


def test_nothing_outlives_the_session() -> None:
    for end in (Text.closed, Text.forget, lambda text: text.opened(Rows())):
        text, rows = drafted(1, 2)
        text.take(8)
        if end is Text.forget:
            rows.length = 0
        end(text)
        assert (text.length, text.cached, text.tokens, text.pending) == (0, 0, [], [])
    text, rows = opened()
    rows.ready_rows = 4
    text.closed()  # the endpoint may go: it is asked no more
    assert (text.ready_rows, text.ready_logits) == (0, 0)


def test_a_wrong_order_of_steps_is_noticed() -> None:
    """Answers would be of another text."""
    text, rows = drafted(1, 2)
    text.take(8)
    with pytest.raises(AssertionError, match="4 of 6 rows count"):  # the rejected rows are still there
        feed(text, rows, 8)
    rows.length -= 1
    with pytest.raises(AssertionError, match="fed first"):
        text.take(9)
    drop(text, rows)
    rows.length += 1  # a row that the core alone knows of
    with pytest.raises(AssertionError, match="5 rows fed, the endpoint has 6"):
        feed(text, rows, 8)
