"""Options that several commands have, and what they are turned into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryptogen.errors import InputError, MissingFile
from cryptogen.paths import read_text

if TYPE_CHECKING:
    from cryptogen.session import Draft

Model = Annotated[Path, typer.Argument(help="Hugging Face folder, .gguf or llama2.c .bin")]
ServerAddress = Annotated[str, typer.Option("--server", help="host:port")]
Fingerprint = Annotated[str | None, typer.Option(help="SHA-256 of the server's certificate; needed once")]
CaFile = Annotated[Path | None, typer.Option(help="trust certificates signed by these (PEM) instead of a fingerprint")]
AccessTokenFile = Annotated[Path | None, typer.Option(help="file whose first line is the access token")]
DataDir = Annotated[Path | None, typer.Option(help="where keys and material are kept")]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="numeric plan; default: beside the model, or shipped")]
BatchTokens = Annotated[int | None, typer.Option(help="buy material for at least so many tokens when short")]
LinearTokens = Annotated[
    int | None, typer.Option(help="what linear layers need: buy it for at least so many tokens when short, best 1024")
]
Resync = Annotated[bool, typer.Option("--resync", help="after a crash: drop material that only one party still has")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Costs = Annotated[bool, typer.Option("--costs", help="show seconds, bytes, round trips and material")]
Protocol = Annotated[str, typer.Option(help="preprocessed, encrypted-cache or recompute")]
Temperature = Annotated[float, typer.Option(help="0: greedy")]
TopK = Annotated[int | None, typer.Option(help="sample among the best K tokens")]
TopP = Annotated[float, typer.Option(help="sample among the best tokens of this total probability")]
DraftModel = Annotated[
    Path | None,
    typer.Option("--draft", help="a small local model of the same vocabulary proposes tokens, one pass verifies them"),
]
DraftTokens = Annotated[int, typer.Option(min=1, max=63, help="tokens proposed at a time by --draft")]
SampleSeed = Annotated[
    int | None, typer.Option("--seed", help="≥ 0; same seed and text, same choices, but for near ties (0.05 logits)")
]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="end the answer in front of this text; may be given several times")
]
OnRange = Annotated[
    str, typer.Option("--on-range", help="at a token whose numbers left the plan's ranges: warn, or stop before it")
]
MOST = 4096  # numbers of an option that takes several


def access_token_in(path: Path | None) -> str | None:
    if path is None:
        return None
    lines = read_text(path, "access token").splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: an access token on the first line expected, none found")
    return lines[0].strip()


def checked_stops(stops: list[str] | None) -> tuple[str, ...]:
    """Texts that end an answer. `InputError`."""
    for text in stops or ():
        utf8(text, "--stop")
        if not text:
            raise InputError("--stop: a text of one character or more expected")
    return tuple(stops or ())


def utf8(text: str, what: str) -> None:
    """Refuses what the command line made of bytes that are not UTF-8. `InputError`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: UTF-8 text expected, character {error.start + 1} is none") from None


def draft_of(model: Path | None, tokens: int) -> Draft | None:
    from cryptogen.session import Draft

    return None if model is None else Draft(model, tokens)


def existing(path: Path, what: str) -> None:
    if not path.exists():
        raise MissingFile(path, what)


def numbers(text: str, what: str = "windows") -> list[int]:
    """`"8-11"` or `"0,3"`."""
    try:
        ends = [
            (int(first), int(last or first)) for first, _, last in (part.partition("-") for part in text.split(","))
        ]
    except ValueError:
        ends = []
    found = [i for first, last in ends if last - first < MOST for i in range(first, last + 1)]
    if not 0 < len(found) <= MOST:
        raise InputError(f"{what} {text[:80]!r}, expected numbers such as 8-11 or 0,3")
    return found


def show(result: dict[str, Any], as_json: bool) -> None:
    lines = (f"{key}: {'none' if value == () else value}" for key, value in result.items())
    print(json.dumps(result) if as_json else "\n".join(lines))
