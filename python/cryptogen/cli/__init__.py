"""The `cryptogen` command. Answers go to stdout, the rest to stderr; an error is one line and an
exit code ≠ 0."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from cryptogen.errors import CryptogenError, PlanUnfaithful

from .app import app

from . import parties, models, bench  # isort: skip  # noqa: F401  (they add the commands, in this order)

# typer brings its own click or uses the installed one, depending on its version
USAGE_ERRORS: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


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
    except PlanUnfaithful as error:  # a line for each kind of text
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except (CryptogenError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of clients that are still served must not delay the end; the stores are safe at any
    # moment.
    os._exit(code if isinstance(code, int) else 0)
