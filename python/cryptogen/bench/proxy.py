"""`python -m cryptogen.bench.proxy lan|wan HOST:PORT`: a TCP proxy that delays and limits both
directions.

Every byte really passes. A direction is a wire that sends one chunk after the other at its rate and
delivers half a round trip later. Not emulated: TCP's own slow start and the round trip of
connecting.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from asyncio import StreamReader, StreamWriter

from .network import Network, network

CHUNK = 1 << 16
AHEAD = 2e-3  # seconds of sending that may wait in front of the wire, so that a late timer never leaves it idle
IN_FLIGHT = 1024  # chunks on the wire; more make the sender wait


async def carry(reader: StreamReader, writer: StreamWriter, link: Network) -> None:
    """One direction, until the sender ends it; the end travels like a byte."""
    now = asyncio.get_running_loop().time
    wire: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)

    async def deliver() -> None:
        while True:
            due, chunk = await wire.get()
            await asyncio.sleep(due - now())
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    async def accept() -> None:
        free = 0.0
        chunk = b"."
        while chunk:
            chunk = await reader.read(CHUNK)
            free = max(free, now()) + 8 * len(chunk) / link.bits_per_second
            await wire.put((free + link.round_trip / 2, chunk))
            await asyncio.sleep(free - now() - AHEAD)

    async with asyncio.TaskGroup() as both:
        both.create_task(accept())
        both.create_task(deliver())


async def join(reader: StreamReader, writer: StreamWriter, link: Network, host: str, port: int) -> None:
    """One connection. What goes wrong on one side closes the other."""
    writers = [writer]
    try:
        far_reader, far_writer = await asyncio.open_connection(host, port, limit=CHUNK)
        writers.append(far_writer)
        async with asyncio.TaskGroup() as both:
            both.create_task(carry(reader, far_writer, link))
            both.create_task(carry(far_reader, writer, link))
    except* OSError:
        pass  # the other side sees its connection close, as it would without us
    finally:
        for each in writers:
            each.close()


async def listen(link: Network, target: str) -> asyncio.Server:
    """Serves on a free port of this host what `target` (host:port) serves."""
    host, _, port = target.rpartition(":")

    async def one(reader: StreamReader, writer: StreamWriter) -> None:
        await join(reader, writer, link, host, int(port))

    return await asyncio.start_server(one, "127.0.0.1", 0, limit=CHUNK)


async def run(link: Network, target: str) -> None:
    async with await listen(link, target) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on {host}:{port}", flush=True)
        await server.serve_forever()


def loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers have microseconds: `epoll` rounds up to whole milliseconds, twice a LAN's
    round trip."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    name, target = sys.argv[1:]
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run(network(name), target))


if __name__ == "__main__":
    main()
