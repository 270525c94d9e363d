"""The `cryptogen` command, and `python -m cryptogen`."""

from __future__ import annotations

import os


def main() -> None:
    """Runs the command. Its imports take a moment, in which Ctrl-C must end it as quietly as
    later."""
    try:
        from .cli import main as command

        command()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
