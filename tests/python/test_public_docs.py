"""What a user reads in an editor: every parameter of a public call and every field of a public
record is described."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")

import cryptogen  # noqa: E402
from cryptogen import session  # noqa: E402
from cryptogen.defaults import ADDRESS, PORT  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/guide/*.md")])
PUBLIC = {name: getattr(module, name) for module in (session, cryptogen) for name in module.__all__}


def calls() -> Iterator[tuple[str, Any]]:
    """Public functions, classes and their public methods. A class is documented where its
    `__init__` would be."""
    for name, found in PUBLIC.items():
        yield name, found
        for attribute in vars(found) if inspect.isclass(found) else ():
            method = getattr(found, attribute)
            if not attribute.startswith("_") and inspect.isroutine(method):
                yield f"{name}.{attribute}", method


def section(doc: str, title: str) -> dict[str, str]:
    """Entry → its text of a Google-style section; nothing if there is no such section."""
    found = re.search(rf"^{title}:\n((?: .*\n|\n)*)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+):((?:.*\n?)(?:^     +.*\n?)*)", found[1] if found else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def parameters(call: Any) -> list[str]:
    """What a caller may give. An instance is not given, and a static method has none."""
    return [name for name in inspect.signature(call).parameters if name != "self"]


@pytest.mark.parametrize(("name", "call"), [pytest.param(*c, id=c[0]) for c in calls()])
def test_every_parameter_is_described(name: str, call: Any) -> None:
    doc = call.__doc__ or ""
    record = dataclasses.is_dataclass(call)
    expected = [f.name for f in dataclasses.fields(call)] if record else parameters(call)
    found = section(doc, "Attributes" if record else "Args")
    assert doc.strip(), f"{name} has no docstring"
    assert list(found) == expected, f"{name}: described {list(found)}, expected {expected} in this order"
    assert all(text.endswith(".") for text in found.values()), f"{name}: whole sentences expected, got {found}"


def test_properties_are_described() -> None:
    for name, found in PUBLIC.items():
        for attribute, value in vars(found).items() if inspect.isclass(found) else ():
            if isinstance(value, property) and not attribute.startswith("_"):
                assert value.__doc__, f"{name}.{attribute} has no docstring"


def test_the_sections_are_read() -> None:
    """The test above can fail: an entry counts only in its own section, with a text, at its own
    indent."""
    doc = """Says something about late: nothing.

        Args:
            one: The first,
                other: in two lines.
            two: The second.

            three: After an empty line.

        Raises:
            four: Not an argument.
        """
    assert section(doc, "Args") == {
        "one": "The first, other: in two lines.",
        "two": "The second.",
        "three": "After an empty line.",
    }
    assert section(doc, "Raises") == {"four": "Not an argument."}
    assert section(doc, "Attributes") == {} == section("Args: in the first line.", "Args")


def test_annotations_are_for_users_too() -> None:
    assert (Path(cryptogen.__file__).parent / "py.typed").is_file()  # PEP 561


def test_one_port_everywhere() -> None:
    """README, guides and docstrings show the port that a server takes by default."""
    assert inspect.signature(cryptogen.Server.serve).parameters["address"].default == ADDRESS == f"127.0.0.1:{PORT}"
    docs = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
    docs |= {name: call.__doc__ or "" for name, call in calls()} | {"cryptogen": cryptogen.__doc__ or ""}
    addresses = re.compile(r"(?:host|example|\d):(\d{4,5})\b")
    shown = {(name, port) for name, text in docs.items() for port in addresses.findall(text)}
    assert shown and all(port == str(PORT) for _, port in shown), sorted(shown)
