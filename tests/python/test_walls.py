"""The walls of `python/cryptogen` (DESIGN.md): what a folder may import, and what is nobody else's.

A scan of the source with `ast`: every import counts, also inside functions and for type checkers.
The files of the Rust shell (`crates/python`) use each other in one direction, too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "cryptogen"
SHELL = ROOT / "crates" / "python" / "src"

# Every room, with those that it stands on: only rooms above it.
ROOMS = {
    "_core": "",
    "models": "",
    "tokens": "",
    "weights": "models tokens",
    "numerics": "models weights",
    "backends": "_core models numerics weights",
    "session": "_core backends models numerics tokens weights",
    "evaluate": "_core backends models numerics session weights",
    "calibration": "backends evaluate models numerics tokens weights",
    "console": "session",
    "bench": "_core backends calibration console evaluate models numerics session tokens weights",
    "cli": "bench calibration console evaluate session weights",
    "__init__": "session weights",
    "__main__": "cli",
}
# The ground, on which all rooms stand: single files that stand on nothing but `errors`.
GROUND = {"errors", "defaults", "paths", "processes", "protocols", "sampling"}
SESSION_ONLY = re.compile(r"\._(?:link|endpoint|ledger|run|connector|backend)\b")


def room(path: Path) -> str:
    """Of a file, by its path below the package."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imported(path: Path, text: str) -> set[str]:
    """The rooms that a file imports from, its own aside."""
    package = ["cryptogen", *path.parent.parts]
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names] if base == "cryptogen" else [base]
    found = {name.split(".")[1] if "." in name else "__init__" for name in names if name.split(".")[0] == "cryptogen"}
    return {name if name in GROUND | set(ROOMS) else "__init__" for name in found} - {room(path)}


def sources() -> Iterator[tuple[Path, str]]:
    """All files of the package, by their path below it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), path.read_text(encoding="utf-8")


def test_no_arrow_runs_backwards() -> None:
    wrong, used = [], {name: set[str]() for name in ROOMS}
    for path, text in sources():
        name, found = room(path), imported(path, text)
        if name in GROUND:
            wrong += [f"{path} imports {other}" for other in sorted(found - {"errors"})]
        elif name in ROOMS:
            used[name] |= found - GROUND
            wrong += [f"{path} imports {other}" for other in sorted(found - GROUND - set(ROOMS[name].split()))]
        else:
            wrong.append(f"{path} lies in no room")
    assert not wrong, wrong
    idle = {name: sorted(set(below.split()) - used[name]) for name, below in ROOMS.items()}
    assert not any(idle.values()), f"arrows that nobody uses: {idle}"


def test_the_arrows_make_no_circle() -> None:
    above = set[str]()
    for name, below in ROOMS.items():
        assert set(below.split()) <= above, f"{name} stands on a room that is not above it"
        above.add(name)


def test_design_shows_the_same_table() -> None:
    """The rows of three cells whose first is a folder or file of the package."""
    shown = {}
    for line in (ROOT / "DESIGN.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and (named := re.fullmatch(r"`(\w+)(?:/|\.py)`", cells[0])) and named[1] in ROOMS:
            shown.setdefault(named[1], []).append(" ".join(re.findall(r"`(\w+)`", cells[2])))
    assert shown == {name: [below] for name, below in ROOMS.items() if not name.startswith("_")}


def uses(text: str, files: set[str]) -> set[str]:
    """The files of a crate that the code of one of them names by a path from the root. Whatever
    stands in braces behind `crate::` counts by its name."""
    code = re.sub(r"//.*", "", text)
    named = re.findall(r"\bcrate::(\w+)", code)
    named += [name for group in re.findall(r"\bcrate::\{([^;]*)\}", code) for name in re.findall(r"\w+", group)]
    return set(named) & files


def test_the_files_of_the_shell_make_no_circle() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in SHELL.glob("*.rs") if path.stem != "lib"}
    assert all("super::" not in text for text in files.values())  # so paths from the root are all there are
    arrows = {name: uses(text, set(files)) - {name} for name, text in files.items()}
    assert {"shared", "errors"} <= arrows["session"]
    order = list(TopologicalSorter(arrows).static_order())  # CycleError names the files of a circle
    assert set(order) == set(files)


def test_the_scan_finds_every_way_to_use_a_file() -> None:
    files = {"errors", "model", "session"}
    assert uses("use crate::session::lock;", files) == {"session"}
    assert uses("let x = crate::model::parse(y)?;", files) == {"model"}
    assert uses("use crate::{\n    errors,\n    model::{A, B},\n};", files) == {"errors", "model"}
    assert uses("use mycrate::session; // crate::model\n/// [`crate::errors`]", files) == set()


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "examples"], ids=lambda folder: folder.name)
def test_nobody_uses_what_another_keeps_private(folder: Path) -> None:
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                owner = ast.unparse(node.value)
                assert owner in ("self", "os"), f"{path}:{node.lineno}: {owner}.{node.attr}"
            elif isinstance(node, ast.ImportFrom):
                private = [alias.name for alias in node.names if re.match(r"_[a-z]", alias.name)]
                assert set(private) <= {"_core"}, f"{path}:{node.lineno}: {private}"


def test_tests_ask_a_session_by_its_public_names() -> None:
    """What they cannot ask `Client`, whoever measures cannot, either."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = SESSION_ONLY.findall(path.read_text(encoding="utf-8").replace("self._", "self."))
        assert not found, f"{path} reaches into the session: {found}"


def test_the_scan_finds_every_way_to_write_an_import() -> None:
    def found(path: str, text: str) -> str:
        return " ".join(sorted(imported(Path(path), text)))

    assert found("bench/a.py", "from cryptogen.session.link import Progress") == "session"
    assert found("bench/a.py", "import cryptogen.session.link as link, numpy") == "session"
    assert found("bench/a.py", "from cryptogen import _core, errors, load") == "__init__ _core errors"
    assert found("bench/a.py", "import cryptogen") == "__init__"
    assert found("bench/peers/a.py", "def f():\n    from ...session import Client") == "session"
    assert found("bench/peers/a.py", "from ... import session\nfrom .. import table\nfrom . import b") == "session"
    assert found("bench/a.py", "from .measure import tokens\nfrom cryptogen.bench import shapes") == ""
    assert found("paths.py", "from .errors import InputError\nfrom . import sampling") == "errors sampling"
    assert found("session/a.py", "if TYPE_CHECKING:\n    from ..bench import shapes") == "bench"
    assert found("session/a.py", '"from cryptogen import bench"  # import cryptogen.bench') == ""
