"""`python -m cryptogen.bench.server SHAPE BLOCKS DATA_DIR`: serves random weights on a free port of this host."""

from __future__ import annotations

import sys

from cryptogen.session import Server

from .shapes import quick_plan, random_checkpoint, shape


def main() -> None:
    name, blocks, data_dir = sys.argv[1:]
    checkpoint = random_checkpoint(shape(name, int(blocks)))
    server = Server(checkpoint, quick_plan(checkpoint), data_dir=data_dir)
    del checkpoint  # the server keeps integers only
    server.serve("127.0.0.1:0", lambda address, pin: print(f"listening on {address} fingerprint {pin}", flush=True))


if __name__ == "__main__":
    main()
