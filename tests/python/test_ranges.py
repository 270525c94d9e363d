"""Range events and absurd logits on their way to the user.

What the parties count is tested elsewhere, bit for bit; here the client's passes report what a test
says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import cryptogen
from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.models.decoder import forward
from cryptogen.numerics.plan import NumericPlan
from cryptogen.protocols import ENCRYPTED_CACHE, RECOMPUTE
from cryptogen.session import Draft
from cryptogen.session.chat import Conversation
from cryptogen.session.plans import beside
from cryptogen.weights import Checkpoint
from served import Served, model_with_plan, serving
from test_cli import run
from test_draft import blurred, clear_tokens

PROMPT = [5, 9, 300]
Report = Callable[..., None]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    """`report([2], [0, 1])`: the next pass that samples has one row with 2 events, the one after it
    two rows with 0 and 1; then come passes without."""
    from cryptogen.backends.private import ClientBackend

    counted = ClientBackend.logits

    def set_passes(*passes: list[int]) -> None:
        left = list(passes)

        def logits(self: ClientBackend, x: object) -> np.ndarray:
            rows = counted(self, x)  # type: ignore[arg-type]
            self.range_events = left.pop(0) if left else [0] * len(rows)
            assert len(self.range_events) == len(rows)
            return rows

        monkeypatch.setattr(ClientBackend, "logits", logits)

    return set_passes


def events_of(client: cryptogen.Client, n: int, **options: object) -> list[int]:
    return [t.range_events for t in client.generate(PROMPT, max_new_tokens=n, stop=(), **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["preprocessed", RECOMPUTE])
def test_a_token_has_the_events_of_its_row(llama: Served, tmp_path: Path, report: Report, protocol: str) -> None:
    with llama.client(tmp_path, protocol=protocol) as client:
        report([2], [0], [5])
        assert events_of(client, 4) == [2, 0, 5, 0]
        before = client.costs
        assert before.range_events == 7
        report([1])
        assert events_of(client, 1) == [1]
        assert (client.costs - before).range_events == 1


def test_drafted_tokens_have_the_events_of_their_rows(llama: Served, tmp_path: Path, report: Report) -> None:
    with llama.client(tmp_path) as client:
        report([1], [0, 3, 0, 2], [0, 4, 0])
        assert events_of(client, 8, draft=Draft(llama.model, 3)) == [1, 0, 3, 0, 2, 0, 4, 0]
        report([0], [7, 30, 30])  # of rows behind a rejected token only the costs know
        other = Draft(blurred(llama.model, 20.0), 2)
        assert events_of(client, 4, draft=other)[:3] == [0, 7, 0]
        assert other.stats.accepted == 0
        assert client.costs.range_events == 10 + 67


def test_events_of_a_row_that_was_computed_ahead_are_not_lost(llama: Served, tmp_path: Path, report: Report) -> None:
    """The caller leaves at an accepted token: its row stays, and the next token is the first that
    can report it."""
    with llama.client(tmp_path) as client:
        report([0], [0, 3, 9, 9])
        stream = client.generate(PROMPT, max_new_tokens=6, stop=(), draft=Draft(llama.model, 3))
        assert [next(stream).range_events for _ in range(2)] == [0, 0]
        report([1])
        more = client.generate([7], max_new_tokens=2, stop=(), continue_session=True)
        assert [t.range_events for t in more] == [4, 0]
        assert events_of(client, 2) == [0, 0]


def test_stop_comes_in_place_of_the_token(llama: Served, tmp_path: Path, report: Report) -> None:
    draft = Draft(llama.model, 3)
    with llama.client(tmp_path) as client:
        plain = [t.id for t in client.generate(PROMPT, max_new_tokens=4, stop=())]
        setup = client.costs.setup
        for passes, options in (([[0], [0], [2]], {}), ([[0], [0, 2, 5, 0]], {"draft": draft})):
            report(*passes)
            taken = []
            with pytest.raises(errors.RangeExceeded, match="token 3: 2 range events, 0 expected") as found:
                for token in client.generate(PROMPT, max_new_tokens=6, stop=(), on_range="stop", **options):  # type: ignore[arg-type]
                    taken.append(token.id)
            assert taken == plain[:2] and (found.value.events, found.value.token) == (2, 3)
            with pytest.raises(errors.InputError, match="expected a new one"):
                client.generate([7], continue_session=True)
            answer = client.generate(PROMPT, max_new_tokens=4, stop=(), on_range="stop")  # anew, without events
            assert [t.id for t in answer] == plain
            assert len(list(client.generate([7], max_new_tokens=1, continue_session=True))) == 1
        assert client.costs.setup == setup  # one connection for all of this
        with pytest.raises(errors.InputError, match="expected one of warn, stop"):
            client.generate(PROMPT, on_range="never")


def test_a_conversation_that_was_stopped_is_over(llama: Served, tmp_path: Path, report: Report) -> None:
    with llama.client(tmp_path) as client:
        talk = Conversation(client, system="x")
        report([0], [1])
        with pytest.raises(errors.RangeExceeded):
            list(talk.say("a", max_new_tokens=3, on_range="stop"))
        with pytest.raises(errors.InputError, match="expected a new one"):
            talk.say("b", max_new_tokens=2)
        assert list(Conversation(client, system="x").say("b", max_new_tokens=2))


def test_score_gives_the_events_of_every_row(llama: Served, tmp_path: Path, report: Report) -> None:
    tokens = [int(t) for t in np.random.default_rng(0).integers(3, 500, 66)]  # more than one pass
    with llama.client(tmp_path) as client:
        report([*range(64)], [7, 8])
        rows = client.score(tokens)
        assert rows.events == (*range(64), 7, 8) and rows.logits.shape == (66, llama.model.config.vocab)
        assert client.costs.range_events == sum(rows.events)
        draft = Draft(llama.model, 3)  # knows the whole text, so it is always right
        assert len(list(client.generate([7], max_new_tokens=5, stop=(), continue_session=True, draft=draft))) == 5
        assert draft.stats.acceptance_rate == 1.0


# --- the command line


def command(served: Served, data: Path, *arguments: object) -> None:
    """`cryptogen …` in this process."""
    from cryptogen.cli.app import app

    options = ["--server", served.address, "--fingerprint", served.fingerprint, "--data-dir", data]
    app([str(a) for a in (*arguments, *options)], standalone_mode=False)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("open"), access_token=None) as server:
        yield server


def test_generate_warns_once_and_sums_up(
    open_server: Served, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    def generate(*passes: list[int]) -> tuple[str, list[str]]:
        report(*passes)
        command(open_server, tmp_path, "generate", "the end", "--max-new-tokens", 4)
        out, err = capsys.readouterr()
        return out, [line for line in err.splitlines() if line.startswith("warning")]

    text, lines = generate()
    assert text.endswith("\n") and not lines
    note = "warning: token 2: 3 range events; the text from here on may be wrong (see docs/guide/ranges.md)"
    assert generate([0], [3]) == (text, [note])
    total = "warning: 8 range events in the 4 tokens of this answer (see docs/guide/ranges.md)"
    assert generate([0], [3], [1], [4]) == (text, [note, total])


def test_generate_json_and_costs(
    open_server: Served, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    report([0], [3])
    command(open_server, tmp_path, "generate", "the end", "--max-new-tokens", 3, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["range_events"] == [0, 3, 0][: len(found["tokens"])]
    assert found["complete"] is True and found["costs"]["range_events"] == 3
    report([2])
    command(open_server, tmp_path, "generate", "the end", "--max-new-tokens", 1, "--costs")
    assert "range events: 2" in capsys.readouterr().err


def test_stop_keeps_what_was_printed(
    open_server: Served, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("generate", "the end", "--max-new-tokens", 4)
    command(open_server, tmp_path, *ask, "--json")
    plain = json.loads(capsys.readouterr().out)
    printed = []
    for options in (["--json"], []):
        report([0], [0], [6])
        with pytest.raises(errors.RangeExceeded):
            command(open_server, tmp_path, *ask, "--on-range", "stop", *options)
        printed.append(capsys.readouterr().out)
    answer = json.loads(printed[0])
    assert answer["tokens"] == plain["tokens"][:2] and answer["complete"] is False
    assert printed[1] == answer["text"] + "\n"
    report([1])
    with pytest.raises(errors.RangeExceeded):
        command(open_server, tmp_path, *ask, "--on-range", "stop")
    assert capsys.readouterr().out == ""


def test_json_is_printed_whenever_there_was_a_session(
    open_server: Served, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def said(error: type[BaseException] | None, *arguments: object) -> dict[str, dict[str, float]]:
        with pytest.raises(error) if error else nullcontext():
            command(open_server, tmp_path, "generate", *arguments, "--json")
        found = json.loads(capsys.readouterr().out)
        assert (found["text"], found["tokens"], found["complete"]) == ("", [], False)
        costs: dict[str, dict[str, float]] = found["costs"]
        return costs

    report([1])
    assert said(errors.RangeExceeded, "the end", "--on-range", "stop")["online"]["bytes_received"] > 0
    assert said(errors.ContextOverflow, "the end", "--max-new-tokens", 1000)["setup"]["bytes_received"] > 0

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cryptogen.sampling.Sampler.sample", interrupted)
    said(None, "the end")  # typer makes exit code 130 of it


def test_chat_warns_in_every_answer(
    open_server: Served, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lines = ["a", "b"]
    monkeypatch.setattr("cryptogen.cli.parties._lines", lambda: iter(lines))
    report([1], [2])
    command(open_server, tmp_path, "chat", "--system", "x", "--max-new-tokens", 1)
    err = capsys.readouterr().err
    assert "token 1: 1 range events" in err and "token 1: 2 range events" in err and "tokens of this" not in err
    monkeypatch.setattr("cryptogen.cli.parties._lines", lambda: iter("a"))
    report([1])
    with pytest.raises(errors.RangeExceeded):
        command(open_server, tmp_path, "chat", "--system", "x", "--on-range", "stop")


# --- absurd logits: under this plan only small ones are possible


def largest_logits(model: Checkpoint, prompt: list[int], n: int) -> list[float]:
    """Of the rows that the next `n` tokens are sampled from."""
    text, found = list(prompt), []
    for _ in range(n):
        rows = forward(FloatBackend(model), model.config, text)
        assert rows is not None
        found.append(float(np.abs(rows[0]).max()))
        text.append(int(rows[0].argmax()))
    return found


@dataclasses.dataclass(frozen=True)
class Strict:
    """A server whose plan allows the logits of the first two rows after `prompt`, not those of the
    third."""

    server: Served
    text: str
    prompt: list[int]
    tokens: list[int]
    bound: float


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strict")
    path = model_with_plan(folder)
    model, plan, rng = cryptogen.load(path), NumericPlan.load(beside(path)), np.random.default_rng(0)
    assert model.tokenizer is not None
    margin = 0.0
    while margin < 0.05:
        text = "".join(rng.choice(list("aeinorst"), 4))
        prompt = model.tokenizer.encode(text, special=True)
        sizes = largest_logits(model, prompt, 3)
        margin = sizes[2] - max(sizes[:2])
    bound = sizes[2] - margin / 2
    dataclasses.replace(plan, logit_bound=int(bound * 2**plan.logit_bits)).save(beside(path))
    with serving(folder, access_token=None, model=path, cache_dir=folder / "caches") as server:
        yield Strict(server, text, prompt, clear_tokens(model, prompt, 2)[0], bound)


@pytest.mark.parametrize("protocol", ["preprocessed", ENCRYPTED_CACHE, RECOMPUTE])
def test_absurd_logits_are_an_error_and_the_connection_goes_on(strict: Strict, tmp_path: Path, protocol: str) -> None:
    n = len(strict.prompt)
    with strict.server.client(tmp_path, protocol=protocol) as client:
        for _ in range(2):  # the second on what the first left
            before, taken = client.costs, []
            with pytest.raises(errors.NumericFailure, match=r"at most .* expected") as found:
                for token in client.generate(strict.prompt, max_new_tokens=5, stop=()):
                    taken.append(token.id)
            assert taken == strict.tokens
            assert found.value.bound == pytest.approx(strict.bound, abs=0.01) and found.value.largest > strict.bound
            assert (client.costs - before).setup.round_trips == 0  # the same connection
            assert (client.costs - before).rows == (n + 2 if protocol != RECOMPUTE else n + n + 1 + n + 2)
            with pytest.raises(errors.InputError, match="expected a new one"):
                client.generate([7], continue_session=True)
            if protocol == ENCRYPTED_CACHE:
                with pytest.raises(errors.InputError, match="expected a new one"):
                    client.save()
        assert [t.id for t in client.generate(strict.prompt, max_new_tokens=2, stop=())] == strict.tokens
        if protocol == ENCRYPTED_CACHE:
            client.save()


def test_score_of_absurd_logits(strict: Strict, tmp_path: Path) -> None:
    with strict.server.client(tmp_path) as client:
        with pytest.raises(errors.NumericFailure):
            client.score([*strict.prompt, *strict.tokens])
        with pytest.raises(errors.InputError, match="expected a new one"):
            client.generate([7], continue_session=True)


def test_absurd_logits_in_the_command_line(strict: Strict, tmp_path: Path) -> None:
    where = ["--server", strict.server.address, "--fingerprint", strict.server.fingerprint]
    ask = ["generate", strict.text, *where, "--max-new-tokens", 5]
    answer = json.loads(run(*ask, "--json", code=1, data=tmp_path)[0])
    assert answer["tokens"] == strict.tokens and answer["complete"] is False
    stdout, stderr = run(*ask, code=1, data=tmp_path)
    assert stdout == answer["text"] + "\n"
    assert stderr.startswith("error: the largest |logit| is") and stderr.count("\n") == 1
