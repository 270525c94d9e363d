"""Documentation is executed: links and paths exist, commands and options are real, the examples run
on a tiny model."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryptogen import _core
from cryptogen.bench import table as figures
from cryptogen.defaults import PORT
from cryptogen.numerics.plan import VERSION as PLAN_VERSION
from cryptogen.weights import load
from tiny import tiny_llama, write_gguf

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CLI = [sys.executable, "-c", "from cryptogen.cli import main; main()"]
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`((?:crates|python|docs|tests|vectors|examples)/[\w./-]*\w/?)`")
# Sizes that suit a model with a context of 128.
SMALLER = {"--tokens": "4", "--context": "8", "--max-new-tokens": "2"}


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands() -> list[str]:
    """Every `cryptogen …` line of every page, once."""
    lines = [line for page in PAGES for text in blocks(page, "sh") for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("cryptogen ")})


def anchors(page: Path) -> set[str]:
    """Heading anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading, expected one of {anchors(file)}"
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), f"{path}: no such file"


def test_first_screen() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in "\n".join(readme.splitlines()[:30])
    assert readme.count("<!-- figures:begin -->") == readme.count("<!-- figures:end -->") == 1


def constant(path: str, expression: str) -> str:
    """What the code says, once."""
    (found,) = re.findall(expression, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def wire_version() -> str:
    return constant("crates/mpc/src/session/handshake.rs", r"PROTOCOL_VERSION: u32 = (\d+);")


def test_every_page_states_the_wire_version_of_the_code() -> None:
    """But for those that tell how it came about."""
    history = (ROOT / "CHANGELOG.md", ROOT / "docs" / "decisions")
    stated = {
        str(page.relative_to(ROOT)): re.findall(
            r"wire protocol(?: version)? (\d+)", page.read_text(encoding="utf-8"), re.IGNORECASE
        )
        for page in PAGES
        if not any(page.is_relative_to(old) for old in history)
    }
    assert {name: found for name, found in stated.items() if set(found) - {wire_version()}} == {}
    assert stated["docs/protocols/session.md"] and stated["README.md"]


def test_the_table_of_versions_is_that_of_the_code() -> None:
    package = constant("Cargo.toml", r'^version = "([\d.]+)"')
    wire = wire_version()
    store = constant("crates/mpc/src/store/state.rs", r"^pub const FORMAT: u32 = (\d+);")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"| {package} | {wire} | {store} | {PLAN_VERSION} |" in changelog
    formats = f"with stores of format {store} and plans of version {PLAN_VERSION};"
    readme = f"Version {package} speaks wire protocol {wire}, {formats}"
    assert readme in (ROOT / "README.md").read_text(encoding="utf-8")
    assert package == _core.VERSION == constant("pyproject.toml", r'^version = "([\d.]+)"')


@pytest.mark.parametrize("name", figures.PAGES)
def test_figures_are_those_of_the_files(name: str) -> None:
    """`python -m cryptogen.bench.table` would change nothing."""
    page = (ROOT / name).read_text(encoding="utf-8")
    measured = figures.measured(ROOT / "benches")
    assert page == figures.filled(page, figures.NAME, figures.table(measured, figures.PAGES[name])), "run `make docs`"
    assert len(figures.BRIEF) == 6 and measured


def test_the_plot_is_of_shapes_with_three_contexts(tmp_path: Path) -> None:
    def line(shape: str, context: int, **more: object) -> figures.Figures:
        names = [f"{phase}_{what}_per_token" for phase in ("offline", "online") for what in ("seconds", "bytes")]
        alike = {"shape": shape, "context": context, "kernels": "avx512", "linear_tokens": 64}
        return alike | dict.fromkeys(names, context) | more

    lines = [line("gpt2", n) for n in (512, 128, 256)] + [line("gpt2", 64, network="lan"), line("tiny", 8)]
    shown = figures.by_length([*lines, line("gpt2", 32, drafted=8), line("gpt2", 16, kernels="portable")])
    assert {shape: [f["context"] for f in found] for shape, found in shown.items()} == {"gpt2": [128, 256, 512]}
    pytest.importorskip("matplotlib")
    figures.plot(lines, tmp_path / "once.svg")
    figures.plot(lines, tmp_path / "again.svg")
    once = (tmp_path / "once.svg").read_bytes()
    assert once == (tmp_path / "again.svg").read_bytes() and b"gpt2, online" in once and b"tiny" not in once


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}, expected one of {targets}"


def run(command: list[str], folder: Path) -> str:
    """Output of a process in `folder`; fails the test with what it wrote if it does not succeed."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(command[-8:])}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Ours, with a data folder of its own and plain output; relative import paths made absolute."""
    paths = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    changed = {"CRYPTOGEN_DATA_DIR": str(folder / "data"), "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | changed


@pytest.mark.parametrize("command", commands())
def test_commands_have_their_options(command: str, tmp_path: Path) -> None:
    pytest.importorskip("cryptogen.cli")
    words = shlex.split(command)
    name = words[1:3] if words[1] == "bench" else words[1:2]
    text = run([*CLI, *name, "--help"], tmp_path)
    for option in (w for w in words if w.startswith("--")):
        assert option in text, f"cryptogen {shlex.join(name)} has no {option}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples expect to find: a model with its plan, an access token."""
    pytest.importorskip("cryptogen._core")
    from cryptogen.calibration.model import calibrate_model

    folder = tmp_path_factory.mktemp("readme")
    write_gguf(load(tiny_llama(folder / "tiny")), folder / "model.gguf")
    (folder / "public.txt").write_text("the rain in spain falls on the plain " * 8, encoding="utf-8")
    plan = calibrate_model(folder / "model.gguf", folder / "public.txt", windows=[0], size=48)
    plan.save(folder / "model.gguf.plan.json")
    (folder / "access-token.txt").write_text("a long secret\n", encoding="utf-8")
    return folder


@contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """A server process; yields the fingerprint of the certificate it shows."""
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)
        try:
            yield fingerprint(port, server, folder / "server.log")
        finally:
            server.terminate()
            server.wait(30)


def fingerprint(port: int, server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            certificate = ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
        except OSError:
            time.sleep(0.1)  # not listening yet
        else:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
    raise AssertionError(f"no server after two minutes:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def here(text: str, port: int, pin: str = "") -> str:
    text = re.sub(rf"(?:server\.example|0\.0\.0\.0):{PORT}\b", f"127.0.0.1:{port}", text)
    return text.replace("FINGERPRINT", pin)


@pytest.mark.parametrize("name", ["README.md", "docs/guide/python.md"])
def test_python_examples(name: str, workplace: Path) -> None:
    server, client, *local = blocks(ROOT / name, "python")
    port = free_port()
    with serving([sys.executable, "-c", here(server, port)], workplace, port) as pin:
        assert run([sys.executable, "-c", here(client, port, pin)], workplace)
    for text in local:
        assert run([sys.executable, "-c", text], workplace)


@pytest.mark.parametrize("name", ["README.md", "docs/guide/two-hosts.md", "docs/guide/material.md"])
def test_shell_examples(name: str, workplace: Path) -> None:
    """`serve` as a process, then everything that talks to it (`chat` needs a person)."""
    pytest.importorskip("cryptogen.cli")
    lines = [line for text in blocks(ROOT / name, "sh") for line in text.splitlines()]
    port = free_port()
    serve = next((line for line in lines if " serve " in line), f"cryptogen serve model.gguf --listen 0.0.0.0:{PORT}")
    with serving([*CLI, *shlex.split(here(serve, port))[1:]], workplace, port) as pin:
        for line in lines:
            words = shlex.split(here(line, port, pin))
            if words[1] in ("serve", "chat"):
                continue
            words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
            if "--fingerprint" not in words:
                words += ["--fingerprint", pin]  # another port on every run: nothing to remember it by
            assert run([*CLI, *words[1:]], workplace) or words[1] == "prepare"


def test_inspect_example(workplace: Path) -> None:
    pytest.importorskip("cryptogen.cli")
    assert run([*CLI, "inspect", "model.gguf"], workplace)
