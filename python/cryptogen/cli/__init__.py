"""The `cryptogen` command. Answers go to stdout, the rest to stderr; an error is one line and an
exit code ≠ 0."""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

import typer

from cryptogen.errors import CryptogenError, InternalError, PlanUnfaithful

from .app import app

from . import parties, models, bench  # isort: skip  # noqa: F401  (they add the commands, in this order)

# typer brings its own click or uses the installed one, depending on its version
USAGE_ERRORS: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Runs the command; every failure is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):  # one that takes only ASCII gets escapes, not an error in mid-answer
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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
    except Exception as error:
        if os.environ.get("CRYPTOGEN_TRACEBACK"):
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {os.path.basename(last.filename)}:{last.lineno}"  # its text may be secret
        print(f"error: {InternalError(f'{where} (CRYPTOGEN_TRACEBACK=1 shows all)')}", file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    # Threads of clients that are still served must not delay the end; the stores are safe at any
    # moment.
    os._exit(code if isinstance(code, int) else 0)
