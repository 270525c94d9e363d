"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cryptogen import errors
from cryptogen.bench.decode import PARTS
from cryptogen.bench.table import row
from cryptogen.cli.parties import _lines
from cryptogen.paths import write_private
from cryptogen.processes import ServerProcess
from served import Served, model_with_plan, serving

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, stdin: str | None = None, code: int = 0, data: Path | None = None) -> tuple[str, str]:
    """Runs `cryptogen …`; its stdout and stderr."""
    environment = os.environ | ({"CRYPTOGEN_DATA_DIR": str(data)} if data else {})
    done = subprocess.run(
        [sys.executable, "-m", "cryptogen", *map(str, arguments)],
        input=stdin or "", capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def failing(*arguments: object, **options: object) -> str:
    """The one line of an expected failure."""
    stdout, stderr = run(*arguments, **({"code": 1} | options))  # type: ignore[arg-type]
    line = stderr.strip()
    assert stdout == "" and line.startswith("error: ") and "\n" not in line, stderr
    return line


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), access_token=None) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_with_plan(tmp_path_factory.mktemp("model"))


def test_prepare_generate_and_chat(served: Served, tmp_path: Path) -> None:
    where = ["--server", served.address]
    stdout, _ = run("prepare", *where, "--fingerprint", served.fingerprint, "--tokens", 12, "--json", data=tmp_path)
    assert json.loads(stdout)["left"]["rows"] >= 12
    _, stderr = run("prepare", *where, "--tokens", 1, "--context", 300, data=tmp_path)
    assert "warning: --context 300: the model has room for 128 rows" in stderr
    first, _ = run("generate", "the end", *where, "--max-new-tokens", 3, "--json", data=tmp_path)
    answer = json.loads(first)
    assert 1 <= len(answer["tokens"]) <= 3
    text, stderr = run("generate", "the end", *where, "--max-new-tokens", 3, "--costs", data=tmp_path)
    assert text == answer["text"] + "\n" and "offline" in stderr and "left" in stderr
    chatted, _ = run("chat", *where, "--max-new-tokens", 2, "--system", "x", stdin="a\n\nb\n", data=tmp_path)
    assert chatted.count("\n") >= 2


def test_a_line_that_is_no_text_does_not_end_a_chat(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\nhello\n"), encoding="utf-8"))
    assert list(_lines()) == ["hello"]
    assert "UTF-8 text expected at character 1; not sent" in capsys.readouterr().err


def test_generate_with_a_draft(served: Served, tmp_path: Path) -> None:
    options = ["--server", served.address, "--fingerprint", served.fingerprint, "--max-new-tokens", 4]
    draft = ["--draft", served.model.source, "--draft-tokens", 2]
    stdout, _ = run("generate", "the end", *options, *draft, "--json", data=tmp_path)
    answer = json.loads(stdout)
    stats = answer["draft"]
    assert 0 <= stats["accepted"] <= stats["drafted"] and stats["acceptance_rate"] <= 1 <= stats["tokens_per_pass"]
    assert answer["costs"]["tokens"] == len(answer["tokens"])
    chatted, stderr = run("chat", *options, *draft, stdin="a\n", data=tmp_path)
    assert chatted and "proposed tokens accepted" in stderr
    refused = failing("generate", "the end", *options, *draft, "--protocol", "encrypted-cache", data=tmp_path)
    assert "encrypted-cache cannot drop rows" in refused
    assert "no such file" in failing("generate", "the end", *options, "--draft", tmp_path / "none", data=tmp_path)


def test_demo(model: Path) -> None:
    stdout, stderr = run("demo", "--model", model, "--tokens", 3)
    assert stdout.splitlines()[-1].startswith("agreement with the clear model: 3/3 tokens")
    for word in ("setup", "offline", "online", "round trips", "spent", "left"):
        assert word in stderr


def test_inspect(model: Path) -> None:
    text, _ = run("inspect", model)
    for word in ("layers", "wrong truncation", "N8192Q196", "leaks", "round trips"):
        assert word in text


def test_calibrate_and_eval(tmp_path: Path) -> None:
    model = model_with_plan(tmp_path)
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog and then rests in the shade of a tree\n" * 4)
    stdout, _ = run("calibrate", model, "--text", text, "--windows", "0,1-2", "--size", 16, "--out", tmp_path / "plan")
    assert "3 windows of 16 tokens" in stdout and "hexadecimal" in stdout
    for windows in ("0-99999999999", "1-", "8-7", "x", "0,-1"):
        assert "windows" in failing("calibrate", model, "--text", text, "--windows", windows)
    assert "expected one of text" in failing("calibrate", model, "--text", text, "--accept", "poetry")
    assert "up to 128 rows" in failing("calibrate", model, "--text", text, "--context", 129)
    for backend in ("float", "fixed", "private"):
        options = ["--windows", 1, "--size", 8, "--plan", tmp_path / "plan", "--json"]
        result = json.loads(run("eval", text, "--model", model, "--backend", backend, *options)[0])
        assert result["perplexity"] == pytest.approx(result["perplexity_float"], rel=0.02)
        assert result["agreement_all"] >= 0.75 and result["rows"] == 8
        assert result["flagged"] == 0 and result["largest_error"] < 0.2
    assert "\nevents: none" in run("eval", text, "--model", model, *options[:-1], "--backend", "float")[0]
    assert "expected one of" in failing("eval", text, "--model", model, "--backend", "magic")
    assert "tokens" in failing("eval", text, "--model", model, "--backend", "float", "--windows", 99)


def test_bench_decode() -> None:
    options = ["--shape", "tiny", "--context", 8, "--tokens", 2, "--blocks", 2, "--json"]
    figures = json.loads(run("bench", "decode", *options)[0])
    assert {
        "offline_seconds_per_token", "online_seconds_per_token", "offline_bytes_per_token", "online_bytes_per_token",
        "round_trips_per_token", "peak_rss_client", "peak_rss_server", "context", "shape", "machine", "commit",
    } <= set(figures)  # fmt: skip
    assert figures["round_trips_per_token"] == pytest.approx(8 * 3 + 3, abs=1)  # 3 layers from 1 and 2
    assert figures["extrapolated_from_blocks"] == 2
    assert row(figures).startswith("| tiny | 8 |")


def test_bench_decode_of_several_runs() -> None:
    options = ["--shape", "tiny", "--context", 8, "--tokens", 2, "--blocks", 0, "--runs", 2, "--json"]
    figures = json.loads(run("bench", "decode", *options)[0])
    low, high = figures["ranges"]["online_seconds_per_token"]
    assert figures["runs"] == 2 and low < high
    assert figures["online_seconds_per_token"] == pytest.approx((low + high) / 2)


def test_bench_decode_with_a_draft() -> None:
    options = ["--shape", "tiny", "--context", 8, "--tokens", 9, "--blocks", 0, "--draft-tokens", 4, "--json"]
    figures = json.loads(run("bench", "decode", *options)[0])
    assert 0 < figures["acceptance_rate"] <= 1
    assert 1 < figures["tokens_per_pass"] <= 5
    assert figures["round_trips_per_token"] < 8 * 3 + 3  # a pass yields several tokens
    parts = [figures[f"offline_{part}_seconds_per_token"] for part in PARTS]
    assert sum(parts) == pytest.approx(figures["offline_seconds_per_token"])


def test_errors_are_one_line(served: Served, model: Path, tmp_path: Path) -> None:
    assert "no such file" in failing("serve", tmp_path / "nothing")
    assert "already in use" in failing("serve", model, "--listen", served.address, data=tmp_path)
    where = ["--server", served.address]
    assert served.fingerprint in failing("generate", "x", *where, data=tmp_path)
    assert "expected" in failing("generate", "x", *where, "--fingerprint", "0" * 64, data=tmp_path)
    known = ["--fingerprint", served.fingerprint]
    assert "empty" in failing("generate", "", *where, data=tmp_path)
    assert "128" in failing("generate", "x " * 200, *where, *known, data=tmp_path)
    assert "no such file" in failing("generate", "x", *where, "--access-token-file", tmp_path / "none", data=tmp_path)
    assert "--server" in failing("generate", "x", code=2)
    said = failing("generate", "x", "--server", "127.0.0.1:1", *known, data=tmp_path)
    assert "127.0.0.1:1: " in said and "refused" in said
    (tmp_path / "plan.json").write_text("{}")
    assert f"plan {tmp_path / 'plan.json'}: version: " in failing("inspect", model, "--plan", tmp_path / "plan.json")
    assert "expected" in failing("calibrate", model, "--text", model / "config.json", "--windows", "a-b")


@pytest.mark.parametrize("command", [["generate", "x"], ["chat"]], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--on-range", "x", "on_range is 'x', expected one of warn, stop"),
        ("--temperature", "-1", "temperature is -1.0"),
        ("--temperature", "nan", "temperature is nan"),
        ("--top-p", "0", "top_p is 0.0"),
        ("--top-k", "0", "top_k is 0"),
        ("--seed", "-1", "seed is -1"),
    ],
)
def test_options_are_checked_before_anything_is_sent(
    command: list[str], option: str, value: str, expected: str, tmp_path: Path
) -> None:
    nowhere = ["--server", "127.0.0.1:1", "--fingerprint", "0" * 64]  # nobody listens there
    assert expected in failing(*command, *nowhere, f"{option}={value}", data=tmp_path)


def test_what_is_no_file_is_named(model: Path, tmp_path: Path) -> None:
    """A folder where a file is expected, or the other way round; nothing of the system's text."""
    text, gguf = tmp_path / "text", tmp_path / "cut.gguf"
    text.write_text("a few words")
    gguf.write_bytes(b"GGUF\x03\0\0\0")
    folder, evaluation = tmp_path / "folder", ["eval", text, "--model", model, "--windows", 1, "--size", 2]
    folder.mkdir()
    known = ["--server", "127.0.0.1:1", "--fingerprint", "0" * 64]
    for arguments, expected in (
        (["inspect", folder], f"{folder}/config.json: no such file (nor one .gguf file, but 0: no model's folder)"),
        (["inspect", gguf], f"{gguf}: a complete GGUF file expected; its header does not fit its 8 bytes"),
        (["inspect", model, "--plan", folder], f"plan: document: expected a file, got 'the folder {folder}'"),
        (["eval", folder, "--model", model, "--size", 2], f"{folder}: a text file expected, this is a folder"),
        (["calibrate", model, "--text", folder, "--size", 2], f"{folder}: a text file expected, this is a folder"),
        (["calibrate", model, "--text", text, "--size", 99999], "plan: size: expected windows of up to 128 tokens"),
        (["calibrate", model, "--text", text, "--size", 128], "expected 1538 tokens for window 11 of 128, got"),
        (["generate", "x", *known, "--data-dir", text], f"data folder {text}: a folder expected, {text} is a file"),
        ([*evaluation, "--plan", folder], "expected a file"),
    ):
        line = failing(*arguments, data=tmp_path / "data")
        assert expected in line and "Errno" not in line


def test_bytes_that_are_no_text_are_not_asked(tmp_path: Path) -> None:
    nowhere = ["--server", "127.0.0.1:1", "--fingerprint", "0" * 64]
    for command in (["generate", b"ab\xff"], ["chat", "--system", b"ab\xff"]):
        arguments = [os.fsencode(str(a)) if isinstance(a, str) else a for a in [*command, *nowhere]]
        done = subprocess.run(
            [sys.executable, "-m", "cryptogen", *arguments], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr in [
            f"error: {what}: UTF-8 text expected, character 3 is none\n" for what in ("prompt", "system message")
        ]


def test_serve_with_a_token_and_ctrl_c(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "access-token"
    secret.write_text("swordfish\n")
    arguments = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    arguments += ["--access-token-file", str(secret)]
    with ServerProcess("cryptogen", arguments) as server:
        where = ["--server", server.address, "--fingerprint", server.fingerprint]
        assert "access token" in failing("prepare", *where, "--tokens", 1, data=tmp_path)
        run("prepare", *where, "--tokens", 1, "--access-token-file", secret, data=tmp_path)
        code, log = server.interrupt()
        assert code == 130
        assert "swordfish" not in log and "Traceback" not in log


def test_client_ctrl_c(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cryptogen", "prepare", "--server", served.address, "--fingerprint",
               served.fingerprint, "--tokens", "2000", "--data-dir", str(tmp_path)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("client/stores/*/state.json")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    """Imports take most of a short command; here one of them is interrupted."""
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "from cryptogen.__main__ import main; main()"
    assert 'cryptogen = "cryptogen.__main__:main"' in (ROOT / "pyproject.toml").read_text()
    for command in (["-m", "cryptogen"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, *command, "clean"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_damaged_files_of_the_client_are_named(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.mkdir()
    generate = ["generate", "x", "--server", "127.0.0.1:1"]
    for name in (b"", b"\xff", b"a b", b"-x", b"x" * 65):
        (client / "client_id").write_bytes(name)
        assert f"{client / 'client_id'}: a client id expected" in failing(*generate, data=tmp_path)
    (client / "client_id").write_text("x\n")
    for known in (b"{", b"\xff", b"[" * 100_000, b"3", b'{"127.0.0.1:1": 3}'):
        (client / "known_servers").write_bytes(known)
        assert f"{client / 'known_servers'}: a JSON object" in failing(*generate, data=tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for limit, error in ((0, errors.DiskFull), (1 << 20, None)):
        with limited_files(limit), pytest.raises(error) if error else nullcontext():
            write_private(tmp_path / "client_id", "x" * 100)
    assert [p.name for p in tmp_path.iterdir()] == ["client_id"]
    with pytest.raises(errors.StoreError, match="no/such: cannot be written: No such file"):
        write_private(tmp_path / "no" / "such", "x")


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """What a full disk looks like: files of this process cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_clean(tmp_path: Path) -> None:
    """Old encrypted models, keys, documents and material go; what is in use or unknown stays."""
    store_format = pytest.importorskip("cryptogen._core").STORE_FORMAT
    assert "nothing is left" in run("clean", data=tmp_path / "none")[0]
    assert not (tmp_path / "none").exists()
    (tmp_path / "server").mkdir()
    old = tmp_path / "client" / "models" / "abc"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(1000))
    key = tmp_path / "server" / "lattice.key"
    key.write_bytes(bytes(100))
    document = tmp_path / "client" / "documents" / ("0" * 64)
    kept = document.parent / ("1" * 32) / document.name
    kept.parent.mkdir(parents=True)
    document.write_bytes(bytes(10))
    kept.write_bytes(bytes(10))
    stores = {}
    for name, state in (("old", {"format": store_format - 1}), ("new", {"format": store_format}), ("odd", [])):
        for folder in (tmp_path / "client" / "stores" / name, tmp_path / "server" / "stores" / "client-1" / name):
            folder.mkdir(parents=True)
            (folder / "state.json").write_text(json.dumps(state))
            stores[folder] = name == "old"
    listed = json.loads(run("clean", "--json", data=tmp_path)[0])
    gone = {str(old), str(key), str(document)} | {str(folder) for folder, is_old in stores.items() if is_old}
    assert {entry["path"] for entry in listed} == gone and old.exists() and key.exists()
    assert {entry["bytes"] for entry in listed} >= {1000, 100}
    assert "removed" in run("clean", "--remove", data=tmp_path)[0]
    assert not old.exists() and not key.exists() and not document.exists() and kept.exists()
    assert {folder for folder in stores if not folder.exists()} == {
        folder for folder, is_old in stores.items() if is_old
    }
    assert "nothing is left" in run("clean", data=tmp_path)[0]


def test_where_a_prompt_comes_from(served: Served, tmp_path: Path) -> None:
    """Not from an argument alone, which `ps` and the shell's history show."""
    where = ["--server", served.address, "--fingerprint", served.fingerprint, "--max-new-tokens", 3]
    file = tmp_path / "prompt.txt"
    file.write_text("the end\n")
    given, _ = run("generate", "the end", *where, data=tmp_path)
    assert run("generate", "-", *where, stdin="the end\n", data=tmp_path)[0] == given
    assert run("generate", *where, "--prompt-file", file, data=tmp_path)[0] == given
    assert run("generate", *where, "--prompt-file", "-", stdin="the end", data=tmp_path)[0] == given
    one = "one prompt expected: as an argument (-: from stdin) or as --prompt-file"
    assert one in failing("generate", *where, data=tmp_path)
    assert one in failing("generate", "x", *where, "--prompt-file", file, data=tmp_path)
    assert "the prompt is empty" in failing("generate", "-", *where, stdin="\n", data=tmp_path)
    assert "no such file (prompt)" in failing("generate", *where, "--prompt-file", tmp_path / "none", data=tmp_path)
    assert "this is a folder (prompt)" in failing("generate", *where, "--prompt-file", tmp_path, data=tmp_path)
    file.write_bytes(b"caf\xe9")
    said = failing("generate", *where, "--prompt-file", file, data=tmp_path)
    assert "prompt.txt: UTF-8 text expected, byte 4 is none (prompt)" in said


def test_stop_strings(served: Served, tmp_path: Path) -> None:
    where = ["--server", served.address, "--fingerprint", served.fingerprint, "--max-new-tokens", 6]
    whole = json.loads(run("generate", "the end", *where, "--json", data=tmp_path)[0])["text"]
    stop = whole[len(whole) // 2 :][:1]
    stops = ["--stop", "nowhere", "--stop", stop]
    answer = json.loads(run("generate", "the end", *where, *stops, "--json", data=tmp_path)[0])
    assert answer["text"] == whole[: whole.index(stop)] and answer["complete"]
    assert "--stop: a text of one character" in failing("generate", "a", *where, "--stop", "", data=tmp_path)
    assert run("chat", *where, *stops, stdin="a\n", data=tmp_path)[0]


def test_a_terminal_that_takes_only_ascii_gets_the_answer(served: Served, tmp_path: Path) -> None:
    where = ["--server", served.address, "--fingerprint", served.fingerprint, "--data-dir", str(tmp_path)]
    command = [sys.executable, "-m", "cryptogen", "generate", "the end", *where, "--max-new-tokens", "12"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, timeout=300)
    assert done.returncode == 0 and b"\\" in done.stdout and done.stdout.isascii(), done.stderr


def test_what_was_expected_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "server 'localhost': host:port expected" in failing("generate", "x", "--server", "localhost", data=tmp_path)
    monkeypatch.chdir(model)
    assert "layers" in run("inspect", ".")[0]
    (tmp_path / "latin1").write_bytes(b"caf\xe9 " * 99)
    said = failing("calibrate", model, "--text", tmp_path / "latin1", "--size", 64)
    assert "latin1: UTF-8 text expected, byte 4 is none (calibration text)" in said


def test_a_bug_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import cryptogen.cli as cli

    def broken(**_: object) -> None:
        raise ValueError("a secret of the user's")

    codes: list[int] = []
    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(cli.os, "_exit", codes.append)
    cli.main()
    said = capsys.readouterr().err
    assert codes == [1] and said.startswith("error: internal error: ValueError at test_cli.py:")
    assert "secret of" not in said and said.count("\n") == 1
