"""The `cryptogen` command. Answers go to stdout, the rest to stderr; an error is one line and an exit code ≠ 0."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryptogen.errors import CryptogenError, InputError, MissingFile
from cryptogen.protocols import PROTOCOLS, check_protocol

if TYPE_CHECKING:
    from cryptogen.session import Client

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Private text generation: the model stays with the server, the text with the client.",
)  # fmt: skip
bench = typer.Typer(no_args_is_help=True, help="Measurements on this host.")
app.add_typer(bench, name="bench")

# typer brings its own click or uses the installed one, depending on its version
USAGE_ERRORS: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

ADDRESS = "127.0.0.1:7100"
Model = Annotated[Path, typer.Argument(help="Hugging Face folder, .gguf or llama2.c .bin")]
ServerAddress = Annotated[str, typer.Option("--server", help="host:port")]
Fingerprint = Annotated[str | None, typer.Option(help="SHA-256 of the server's certificate; needed once")]
CaFile = Annotated[Path | None, typer.Option(help="trust certificates signed by these (PEM) instead of a fingerprint")]
TokenFile = Annotated[Path | None, typer.Option(help="file whose first line is the access token")]
DataDir = Annotated[Path | None, typer.Option(help="where keys and material are kept")]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="numeric plan; default: beside the model, or shipped")]
BatchTokens = Annotated[int | None, typer.Option(help="buy material for at least so many tokens when short")]
Resync = Annotated[bool, typer.Option("--resync", help="after a crash: drop material that only one party still has")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Costs = Annotated[bool, typer.Option("--costs", help="show seconds, bytes, round trips and material")]
Protocol = Annotated[str, typer.Option(help="preprocessed, encrypted-cache or recompute")]
Temperature = Annotated[float, typer.Option(help="0: greedy")]
TopK = Annotated[int | None, typer.Option(help="sample among the best K tokens")]
TopP = Annotated[float, typer.Option(help="sample among the best tokens of this total probability")]
SampleSeed = Annotated[int | None, typer.Option("--seed", help="same seed, same choices")]


@app.command()
def serve(
    model: Model,
    listen: Annotated[str, typer.Option(help="host:port; port 0 picks a free one")] = ADDRESS,
    plan: PlanFile = None,
    token_file: TokenFile = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM; default: self-signed")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM key of the certificate")] = None,
    max_clients: Annotated[int, typer.Option(min=1)] = 8,
    data_dir: DataDir = None,
    cache_dir: Annotated[Path | None, typer.Option(help="keep encrypted caches that clients save here")] = None,
) -> None:
    """Serve a model until Ctrl-C. Clients choose the protocol."""
    from cryptogen.session import Server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    server = Server(
        model, plan, data_dir=data_dir, token=_token(token_file), certificate=certificate, key=key,
        max_clients=max_clients, cache_dir=cache_dir,
    )  # fmt: skip
    server.serve(listen, lambda address, pin: print(f"listening on {address} fingerprint {pin}", flush=True))


@app.command()
def prepare(
    server: ServerAddress,
    tokens: Annotated[int, typer.Option(min=1, help="tokens to buy material for")] = 512,
    context: Annotated[int | None, typer.Option(min=1, help="rows of the sessions it is for [TOKENS]")] = None,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """Buy material ahead of time: it needs no prompt."""
    with _client(server, fingerprint, ca_file, token_file, data_dir, None, resync, protocol) as client:
        client.prepare(tokens, context)
        _report(client, as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="the text to continue")],
    server: ServerAddress,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: SampleSeed = None,
    batch_tokens: BatchTokens = None,
    costs: Costs = False,
    as_json: Json = False,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
) -> None:
    """Continue a text privately; the answer streams to stdout."""
    if not prompt:
        raise InputError("the prompt is empty: at least 1 token expected")
    from cryptogen.console import costs_json

    with _client(server, fingerprint, ca_file, token_file, data_dir, batch_tokens, resync, protocol) as client:
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        answer = []
        for token in client.generate(prompt, max_new_tokens=max_new_tokens, **sampling):  # type: ignore[arg-type]
            answer.append(token)
            if not as_json:
                print(token.text, end="", flush=True)
        if as_json:
            text = "".join(t.text for t in answer)
            print(json.dumps({"text": text, "tokens": [t.id for t in answer], "costs": costs_json(client.costs)}))
        else:
            print()
            if costs:
                _report(client, False)


@app.command()
def chat(
    server: ServerAddress,
    system: Annotated[str | None, typer.Option(help="system message; default: the model's")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="per answer")] = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: SampleSeed = None,
    batch_tokens: BatchTokens = None,
    costs: Costs = False,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
) -> None:
    """Talk with an instruction-tuned model, a line at a time; end with Ctrl-D. The cache lives through all turns."""
    from cryptogen.session.chat import Conversation

    with _client(server, fingerprint, ca_file, token_file, data_dir, batch_tokens, resync, protocol) as client:
        talk = Conversation(client, system)
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        while (line := _line()) is not None:
            if not line.strip():
                continue
            for token in talk.say(line, max_new_tokens=max_new_tokens, **sampling):
                print(token.text, end="", flush=True)
            print()
        if costs:
            _report(client, False)


@app.command()
def inspect(model: Model, plan: PlanFile = None, protocol: Protocol = "preprocessed", as_json: Json = False) -> None:
    """Show a model's plan, its cost per token, the security parameters and what leaks; how it lies in ciphertexts."""
    check_protocol(protocol)
    from cryptogen.bench.inspect import as_text, facts
    from cryptogen.session.plans import find_plan
    from cryptogen.weights import load

    found = find_plan(load(model), plan)
    print(json.dumps(facts(found, protocol)) if as_json else as_text(found, protocol))


@app.command()
def calibrate(
    model: Model,
    text: Annotated[Path, typer.Option(help="public text like what the model will see")],
    windows: Annotated[str, typer.Option(help="which windows of the text, from 0, e.g. 8-11 or 0,3")] = "8-11",
    size: Annotated[int, typer.Option(min=2, help="tokens per window")] = 512,
    out: Annotated[Path | None, typer.Option(help="default: MODEL.plan.json")] = None,
) -> None:
    """Make a model's numeric plan from public text. The plan is public: do not use confidential text."""
    from cryptogen.console import Bars
    from cryptogen.numerics.calibrate import calibrate_model
    from cryptogen.session.plans import beside

    _existing(text, "text")
    chosen, bars = _numbers(windows), Bars()
    done = [0]

    def step(_: int) -> None:
        done[0] = min(done[0] + 1, len(chosen))
        bars("windows", done[0], len(chosen))

    found = calibrate_model(model, text, chosen, size, step)
    bars.close()
    path = out or beside(model)
    found.save(path)
    print(f"{path}: plan {found.digest()[:16]}…, {len(chosen)} windows of {size} tokens")


@app.command("eval")
def evaluate(
    text: Annotated[Path, typer.Argument(help="UTF-8 text")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder, .gguf or llama2.c .bin")],
    backend: Annotated[str, typer.Option(help="float, fixed or private")] = "fixed",
    windows: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[int, typer.Option(min=2, help="tokens per window")] = 512,
    plan: PlanFile = None,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """Perplexity of a text, and how often the backend prefers the float model's token."""
    from cryptogen.bench.quality import evaluate as run
    from cryptogen.console import Bars

    _existing(text, "text")
    bars = Bars()
    result = run(model, text, backend, windows, size, plan, bars, protocol)
    bars.close()
    _print(result, as_json)


@bench.command("decode")
def bench_decode(
    shape: Annotated[str, typer.Option(help="gpt2, smollm2 (random weights), or a model's path")] = "gpt2",
    context: Annotated[int, typer.Option(min=1)] = 128,
    tokens: Annotated[int, typer.Option(min=1)] = 16,
    batch_tokens: BatchTokens = None,
    blocks: Annotated[int, typer.Option(min=0, help="measure 1 and K blocks and scale up; 0: all blocks")] = 4,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """Cost of one decoded token, two processes over TLS on this host."""
    from cryptogen.bench.decode import Task, decode
    from cryptogen.bench.shapes import SHAPES
    from cryptogen.console import Bars

    if shape not in SHAPES:
        _existing(Path(shape), f"model, or one of the shapes {', '.join(SHAPES)}")
        blocks = 0
    bars = Bars()
    result = decode(Task(shape, context, tokens, batch_tokens, blocks or None, protocol), bars)
    bars.close()
    _print(result, as_json)


@bench.command("paper")
def bench_paper(
    shape: Annotated[str, typer.Option(help="gpt2, smollm2 or tiny: random weights")] = "gpt2",
    lengths: Annotated[str, typer.Option(help="tokens before the measured one")] = "64,128,256,512",
    protocols: Annotated[str, typer.Option(help="some of the three, separated by commas")] = ",".join(PROTOCOLS),
    tokens: Annotated[int, typer.Option(min=1, max=16, help="tokens measured per length where there is a cache")] = 2,
    blocks: Annotated[
        int, typer.Option(min=0, help="measure 1 and K blocks and scale up; 0: all, `recompute` beyond 128 from 2")
    ] = 0,
    add_to: Annotated[Path | None, typer.Option(help="add the runs to this file, e.g. benches/paper-gpt2.json")] = None,
    as_json: Json = False,
) -> None:
    """The paper's comparison: three protocols, seconds, bytes, memory and operations of one token after L others."""
    from cryptogen.bench import paper

    known = [check_protocol(name.strip()) for name in protocols.split(",")]
    task = paper.Paper(shape, tuple(_numbers(lengths, "lengths")), tuple(known), tokens, blocks or None)
    result = paper.compare(task, lambda line: print(line, file=sys.stderr, flush=True))
    if add_to is not None:
        result = paper.add_to(add_to, result)
    print(json.dumps(result) if as_json else paper.summary(result))


@app.command()
def demo(
    prompt: Annotated[str, typer.Option()] = "The capital of France is",
    tokens: Annotated[int, typer.Option(min=1)] = 16,
    model: Annotated[Path | None, typer.Option(help="default: SmolLM2-135M-Instruct, fetched if need be")] = None,
    protocol: Protocol = "preprocessed",
) -> None:
    """Two processes, a private answer, its cost, and a check against the clear model."""
    from cryptogen.bench.demo import demo as run

    print(run(prompt, tokens, model, protocol))


@contextmanager
def _client(
    server: str,
    fingerprint: str | None,
    ca_file: Path | None,
    token_file: Path | None,
    data_dir: Path | None,
    batch_tokens: int | None,
    resync: bool,
    protocol: str,
) -> Iterator[Client]:
    from cryptogen.console import Bars
    from cryptogen.session import Client

    bars = Bars()
    try:
        with Client(
            server, fingerprint=fingerprint, ca_file=ca_file, token=_token(token_file), data_dir=data_dir,
            batch_tokens=batch_tokens, resync=resync, protocol=protocol, progress=bars,
        ) as client:  # fmt: skip
            yield client
    finally:
        bars.close()


def _report(client: Client, as_json: bool) -> None:
    from cryptogen.console import costs_json, show_costs

    if as_json:
        print(json.dumps(costs_json(client.costs)))
    else:
        show_costs(client.costs)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    _existing(path, "token")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: a token on the first line expected, none found")
    return lines[0].strip()


def _existing(path: Path, what: str) -> None:
    if not path.exists():
        raise MissingFile(path, what)


def _numbers(text: str, what: str = "windows") -> list[int]:
    """`"8-11"` or `"0,3"`."""
    try:
        parts = [part.split("-") for part in text.split(",")]
        found = [i for part in parts for i in range(int(part[0]), int(part[-1]) + 1)]
    except ValueError:
        found = []
    if not found or len(found) > 4096:
        raise InputError(f"{what} {text[:80]!r}, expected numbers such as 8-11 or 0,3")
    return found


def _line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _print(result: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(result) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))


def main() -> None:
    """Runs the command; every expected failure is one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except USAGE_ERRORS as error:
        if text := error.format_message():  # none when only the help was asked for
            print(f"error: {' '.join(text.split())}", file=sys.stderr)
        code = 2
    except (CryptogenError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of clients that are still served must not delay the end; the stores are safe at any moment.
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
