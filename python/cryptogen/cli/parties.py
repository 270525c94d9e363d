"""Commands of the two parties: serve, prepare, generate, chat, and a demonstration of both."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cryptogen.defaults import ADDRESS
from cryptogen.errors import InputError
from cryptogen.paths import read_text

from .app import app
from .options import (
    AccessTokenFile,
    BatchTokens,
    CaFile,
    Costs,
    DataDir,
    DraftModel,
    DraftTokens,
    Fingerprint,
    Json,
    LinearTokens,
    Model,
    OnRange,
    PlanFile,
    Protocol,
    Resync,
    SampleSeed,
    ServerAddress,
    Stop,
    Temperature,
    TopK,
    TopP,
    access_token_in,
    checked_stops,
    draft_of,
    utf8,
)  # fmt: skip

if TYPE_CHECKING:
    from cryptogen.session import Client, Token


@app.command()
def serve(
    model: Model,
    listen: Annotated[str, typer.Option(help="host:port; port 0 picks a free one")] = ADDRESS,
    plan: PlanFile = None,
    access_token_file: AccessTokenFile = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM; default: self-signed")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM key of the certificate")] = None,
    max_clients: Annotated[int, typer.Option(min=1)] = 8,
    data_dir: DataDir = None,
    cache_dir: Annotated[Path | None, typer.Option(help="keep encrypted caches that clients save here")] = None,
    weights_cache: Annotated[
        Path | None, typer.Option(help="keep weights encoded for encrypted-cache and recompute here (GBs, secret)")
    ] = None,
    system_prompt: Annotated[
        Path | None, typer.Option(help="file: a system message before every text, which clients do not see")
    ] = None,
) -> None:
    """Serve a model until Ctrl-C. Clients choose the protocol."""
    from cryptogen.session import Server

    signal.signal(signal.SIGTERM, _ended)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    server = Server(
        model, plan, data_dir=data_dir, access_token=access_token_in(access_token_file),
        certificate=certificate, key=key, max_clients=max_clients, cache_dir=cache_dir, weights_cache=weights_cache,
        system_prompt=None if system_prompt is None else read_text(system_prompt, "system prompt"),
    )  # fmt: skip
    server.serve(listen, lambda address, pin: print(f"listening on {address} fingerprint {pin}", flush=True))


@app.command()
def prepare(
    server: ServerAddress,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="tokens to buy material for, each of them sampled [512, or a prompt]")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="rows of the sessions it is for [TOKENS]; without --tokens: of a prompt to buy for"),
    ] = None,
    linear_tokens: LinearTokens = None,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    access_token_file: AccessTokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """Buy material ahead of time: it needs no prompt."""
    with _client(
        server, fingerprint, ca_file, access_token_file, data_dir, None, linear_tokens, resync, protocol
    ) as client:
        if context is not None and context > (room := client.config.context - client.secret_rows):
            print(
                f"warning: --context {context}: the model has room for {room} rows, it is bought for these",
                file=sys.stderr,
            )
        client.prepare(512 if tokens is None and context is None else tokens, context)
        _report(client, as_json)


@app.command()
def generate(
    server: ServerAddress,
    prompt: Annotated[
        str | None, typer.Argument(help="the text to continue, which `ps` and the shell's history show; -: stdin")
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="file with the text to continue; -: stdin")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: SampleSeed = None,
    stop: Stop = None,
    on_range: OnRange = "warn",
    draft: DraftModel = None,
    draft_tokens: DraftTokens = 8,
    batch_tokens: BatchTokens = None,
    linear_tokens: LinearTokens = None,
    costs: Costs = False,
    as_json: Json = False,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    access_token_file: AccessTokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
) -> None:
    """Continue a text privately; the answer streams to stdout."""
    prompt = _prompt(prompt, prompt_file)
    stops = checked_stops(stop)
    from cryptogen.console import costs_json, draft_json, show_draft
    from cryptogen.session.client import checked_options

    proposing = draft_of(draft, draft_tokens)
    checked_options(protocol, max_new_tokens, temperature, top_k, top_p, seed, proposing, on_range)
    with _client(
        server, fingerprint, ca_file, access_token_file, data_dir, batch_tokens, linear_tokens, resync, protocol
    ) as client:
        answer: list[Token] = []
        complete = False
        try:
            tokens = client.generate(
                prompt, max_new_tokens=max_new_tokens, draft=proposing, temperature=temperature, top_k=top_k,
                top_p=top_p, seed=seed, on_range=on_range, stop_strings=stops,
            )  # fmt: skip
            _show(tokens, answer, silent=as_json)
            complete = True
        finally:
            if as_json:  # also after an error or Ctrl-C: there may be an answer so far, and there are costs
                found = {
                    "text": "".join(t.text for t in answer),
                    "tokens": [t.id for t in answer],
                    "range_events": [t.range_events for t in answer],
                    "complete": complete,
                    "costs": costs_json(client.costs),
                }
                print(json.dumps(found | ({"draft": draft_json(proposing.stats)} if proposing else {})))
        if not as_json:
            if proposing:
                show_draft(proposing.stats)
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
    stop: Stop = None,
    on_range: OnRange = "warn",
    draft: DraftModel = None,
    draft_tokens: DraftTokens = 8,
    batch_tokens: BatchTokens = None,
    linear_tokens: LinearTokens = None,
    costs: Costs = False,
    resync: Resync = False,
    fingerprint: Fingerprint = None,
    ca_file: CaFile = None,
    access_token_file: AccessTokenFile = None,
    data_dir: DataDir = None,
    protocol: Protocol = "preprocessed",
) -> None:
    """Talk with an instruction-tuned model, a line at a time; end with Ctrl-D. The cache lives
    through all turns."""
    from cryptogen.console import show_draft
    from cryptogen.session.chat import Conversation
    from cryptogen.session.client import checked_options

    proposing = draft_of(draft, draft_tokens)
    checked_options(protocol, max_new_tokens, temperature, top_k, top_p, seed, proposing, on_range)
    utf8(system or "", "system message")
    stops = checked_stops(stop)
    with _client(
        server, fingerprint, ca_file, access_token_file, data_dir, batch_tokens, linear_tokens, resync, protocol
    ) as client:
        talk = Conversation(client, system)
        options = {
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "on_range": on_range,
            "stop_strings": stops,
        }  # fmt: skip
        for line in _lines():
            _show(talk.say(line, max_new_tokens=max_new_tokens, draft=proposing, **options), [])
        if proposing:
            show_draft(proposing.stats)
        if costs:
            _report(client, False)


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


@app.command()
def clean(
    data_dir: DataDir = None,
    remove: Annotated[bool, typer.Option("--remove", help="delete what is listed")] = False,
    as_json: Json = False,
) -> None:
    """List what earlier versions have left in the data folder and nothing uses any more; --remove
    deletes it."""
    from cryptogen.session.leftovers import leftovers

    found = leftovers(data_dir)
    for leftover in found if remove else ():
        leftover.remove()
    if as_json:
        print(json.dumps([{"path": str(x.path), "what": x.what, "bytes": x.size, "removed": remove} for x in found]))
        return
    for leftover in found:
        print(f"{leftover.path}: {leftover.what}, {leftover.size / 1e6:.1f} MB{', removed' if remove else ''}")
    if not found:
        print("nothing is left of earlier versions")
    elif not remove:
        print("delete them with --remove")


def _ended(number: int, _: FrameType | None) -> None:
    """Process 1 of a container gets no signal that it does not ask for. Clients that are being
    served do not delay the end: the stores are safe at any moment."""
    logging.getLogger("cryptogen.server").info("ended by signal %d", number)
    sys.stdout.flush()
    os._exit(128 + number)


def _prompt(given: str | None, file: Path | None) -> str:
    """The prompt of the command line, of a file or of stdin; of these one line break at the end is
    not part of it. `InputError`."""
    if (given is None) == (file is None):
        raise InputError("one prompt expected: as an argument (-: from stdin) or as --prompt-file")
    if file is None and given != "-":
        text = given or ""
        utf8(text, "prompt")
    else:
        text = read_text("-" if file is None else file, "prompt", stdin=True)
        text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise InputError("the prompt is empty: at least 1 token expected")
    return text


@contextmanager
def _client(
    server: str,
    fingerprint: str | None,
    ca_file: Path | None,
    access_token_file: Path | None,
    data_dir: Path | None,
    batch_tokens: int | None,
    linear_tokens: int | None,
    resync: bool,
    protocol: str,
) -> Iterator[Client]:
    from cryptogen.console import Bars
    from cryptogen.session import Client

    bars = Bars()
    try:
        with Client(
            server, fingerprint=fingerprint, ca_file=ca_file, access_token=access_token_in(access_token_file),
            data_dir=data_dir, batch_tokens=batch_tokens, linear_tokens=linear_tokens, resync=resync,
            protocol=protocol, progress=bars,
        ) as client:  # fmt: skip
            yield client
    finally:
        bars.close()


def _show(tokens: Iterable[Token], answer: list[Token], silent: bool = False) -> None:
    """Prints tokens (unless `silent`) and warnings as they come, and adds them to `answer`; an
    error ends the line."""
    from cryptogen.console import RangeWarnings

    warnings = RangeWarnings()
    try:
        for token in tokens:
            answer.append(token)
            if not silent:
                print(token.text, end="", flush=True)
            warnings.add(token.range_events)
    finally:
        if answer and not silent:
            print(flush=True)
        warnings.close()


def _report(client: Client, as_json: bool) -> None:
    from cryptogen.console import costs_json, show_costs

    if as_json:
        print(json.dumps(costs_json(client.costs)))
    else:
        show_costs(client.costs)


def _lines() -> Iterator[str]:
    """Lines from stdin until its end. One that is not UTF-8 is not sent, and the chat goes on."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # else the lines behind it would be lost with it
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
            line.encode()
        except EOFError:
            return
        except UnicodeEncodeError as error:
            print(f"error: UTF-8 text expected at character {error.start + 1}; not sent", file=sys.stderr)
            continue
        if line.strip():
            yield line
