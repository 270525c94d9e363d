"""`python -m cryptogen.bench.server SHAPE BLOCKS DATA_DIR [HOST:PORT]`: serves random weights."""

from __future__ import annotations

import sys

from cryptogen.session import Server

from .shapes import quick_plan, random_checkpoint, shape


def main() -> None:
    name, blocks, data_dir, *where = sys.argv[1:]
    listen = where[0] if where else "127.0.0.1:0"
    checkpoint = random_checkpoint(shape(name, int(blocks)))
    server = Server(checkpoint, quick_plan(checkpoint), data_dir=data_dir)
    server.serve(listen, lambda address, pin: print(f"listening on {address} fingerprint {pin}", flush=True))


if __name__ == "__main__":
    main()
