"""`python -m cryptogen` is the `cryptogen` command."""

from .cli import main

main()
