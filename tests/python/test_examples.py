"""The examples and the docstrings' snippets run as they are."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import cryptogen
from cryptogen.defaults import PORT
from served import Served, model_with_plan, serving

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def private_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOGEN_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), access_token=None) as server:
        yield server


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_private_generation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("private_generation").main(str(model_with_plan(tmp_path)), "the end", tokens=2)
    out = capsys.readouterr().out
    assert out.startswith("the end") and "round trips" in out


def test_clear_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("clear_models").main(str(model_with_plan(tmp_path)), "the end")
    assert "largest difference" in capsys.readouterr().out


@pytest.mark.long
def test_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cryptogen.bench.shapes import quick_plan
    from cryptogen.session.plans import beside
    from tiny import tiny_llama

    path = tiny_llama(tmp_path / "long", max_position_embeddings=512)
    quick_plan(cryptogen.load(path)).save(beside(path))
    with serving(tmp_path, access_token=None, model=path) as server:
        example("conversation").main(server.address, server.fingerprint, tokens=2)
    assert capsys.readouterr().out.count("rows in the cache") == 2


@pytest.mark.parametrize("where", [cryptogen, cryptogen.Client])
def test_docstring_of_the_client(served: Served, where: object) -> None:
    """The client's block of the snippet, against a server that exists."""
    code = snippet(where.__doc__ or "")
    block = next(node for node in code.body if isinstance(node, ast.With))
    text = ast.unparse(ast.Module([block], [])).replace(f"host:{PORT}", served.address)
    text = text.replace("'…'", repr(served.fingerprint), 1)
    exec(compile(text, "docstring", "exec"), {"cryptogen": cryptogen})


def test_docstring_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cryptogen.Server, "serve", lambda self, address: None)  # it would serve until Ctrl-C
    text = ast.unparse(snippet(cryptogen.Server.__doc__ or "")).replace("path/to/model", str(model_with_plan(tmp_path)))
    exec(compile(text, "docstring", "exec"), {"cryptogen": cryptogen})


def snippet(doc: str) -> ast.Module:
    """The indented lines of a docstring, up to its first section."""
    text = re.split(r"^(?:Args|Attributes|Returns|Raises):$", inspect.cleandoc(doc), flags=re.MULTILINE)[0]
    lines = text.splitlines()
    return ast.parse(textwrap.dedent("\n".join(line for line in lines if line.startswith("    "))))
