"""All errors of the package are in one module, and the Rust core raises none that is not there.

Every error of the core with its class and text: `crates/protocols/tests/python_errors.rs`."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cryptogen
from cryptogen import errors

TABLE = Path(__file__).resolve().parents[2] / "crates" / "python" / "src" / "errors" / "table.rs"


def subclasses(kind: type[errors.CryptogenError]) -> set[type[errors.CryptogenError]]:
    return {kind}.union(*(subclasses(sub) for sub in kind.__subclasses__()))


def test_all_errors_are_in_one_module() -> None:
    for module in pkgutil.walk_packages(cryptogen.__path__, "cryptogen."):
        if module.name not in ("cryptogen.__main__", "cryptogen.bench.peers.spu_block"):  # one runs, one needs SPU
            importlib.import_module(module.name)
    elsewhere = {kind.__qualname__ for kind in subclasses(errors.CryptogenError) if kind.__module__ != errors.__name__}
    assert {name for name in elsewhere if not name.startswith("test_")} == set()


def test_the_core_raises_errors_that_exist() -> None:
    if not TABLE.exists():
        pytest.skip("no checkout")
    named = set(re.findall(r'"([A-Z][A-Za-z]+)"', TABLE.read_text(encoding="utf-8")))
    assert len(named) > 15
    for name in named - {"KeyboardInterrupt"}:
        assert issubclass(getattr(errors, name), errors.CryptogenError), name
        assert str(getattr(errors, name)("a text")).count("a text") == 1, name


def test_a_bug_of_ours_says_so_and_how_to_report_it() -> None:
    text = str(errors.InternalError("keys: expected ours, got theirs"))
    assert "internal error: keys: expected ours, got theirs." in text
    assert "bug of cryptogen" in text and "report" in text
    assert "\n" not in text
    assert not issubclass(errors.InternalError, errors.InputError | errors.SessionError | errors.MaterialError)


def test_the_core_raises_whose_fault_it_is(tmp_path: Path) -> None:
    core = pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")
    with pytest.raises(errors.PlanRejected):
        core.CheckedPlan("{", [])
