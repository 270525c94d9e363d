"""The command and its groups; the other modules add to them."""

from __future__ import annotations

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Private text generation: the model stays with the server, the text with the client.",
)  # fmt: skip
bench = typer.Typer(no_args_is_help=True, help="Measurements on this host.")
app.add_typer(bench, name="bench")
