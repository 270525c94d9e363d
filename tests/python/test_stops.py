"""Answers that end at a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen import errors
from cryptogen.tokens.stops import StopStrings

LETTERS = st.text("ab\n", max_size=30)


def streamed(text: str, cuts: list[int], strings: list[str]) -> tuple[str, bool, list[str]]:
    """What is shown, whether it was stopped, and the pieces."""
    ends = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    stops, shown = StopStrings(strings), []
    for first, last in zip(ends, ends[1:], strict=False):
        piece, found = stops.push(text[first:last])
        shown.append(piece)
        if found:
            return "".join(shown), True, shown
    return "".join([*shown, stops.finish()]), False, shown


@given(LETTERS, st.lists(st.integers(0, 30), max_size=6), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_in_front_of_the_first_string(text: str, cuts: list[int], strings: list[str]) -> None:
    """However it is cut into pieces: nothing of a string is shown, and nothing else is missing."""
    shown, found, _ = streamed(text, cuts, strings)
    assert found is any(s in text for s in strings)
    if not found:
        assert shown == text
        return
    assert text.startswith(shown) and not any(s in shown for s in strings)
    assert any(text.startswith(s, len(shown)) for s in strings)


def test_only_what_may_begin_a_string_is_held_back() -> None:
    assert streamed("xxab", [1, 2, 3], ["abc"])[2] == ["x", "x", "", ""]
    assert streamed("xxax", [1, 2, 3], ["abc"])[2] == ["x", "x", "", "ax"]
    assert streamed("xyz", [1, 2], [])[2] == ["x", "y", "z"]


pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")

from served import Served  # noqa: E402


def test_an_answer_ends_at_a_string(llama: Served, tmp_path: Path) -> None:
    with llama.client(tmp_path) as client:
        whole = "".join(t.text for t in client.generate("the end", max_new_tokens=8, stop=()))
        middle = whole[2:4]
        tokens = list(client.generate("the end", max_new_tokens=8, stop=(), stop_strings=["nowhere", middle]))
        assert "".join(t.text for t in tokens) == whole[: whole.index(middle)] and len(tokens) < 8
        for wrong in ("ab", [""], [5]):
            with pytest.raises(errors.InputError, match="stop_strings"):
                client.generate("the end", stop_strings=wrong)  # type: ignore[arg-type]
