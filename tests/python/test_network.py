"""`bench decode --network`: the proxy's delay, rate and ends; the namespace and what is left of
it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from socket import create_connection

import pytest

from cryptogen.bench import network as net
from cryptogen.bench import proxy
from cryptogen.bench.decode import Task, decode
from cryptogen.errors import ConnectionFailed, InputError
from cryptogen.processes import Listener

LINK = net.Network("test", 80e6, 0.1)  # 10 MB/s, 50 ms each way
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def through(client: Talk, server: Talk, link: net.Network = LINK) -> None:
    """Both ends of one connection through the proxy, each to its end."""

    async def run() -> None:
        served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await server(reader, writer)
                served.set_result(None)
            except BaseException as error:
                served.set_exception(error)
            finally:
                writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as target:
            host, port = target.sockets[0].getsockname()
            async with await proxy.listen(link, f"{host}:{port}") as middle:
                reader, writer = await asyncio.open_connection(*middle.sockets[0].getsockname())
                async with asyncio.timeout(60):
                    await client(reader, writer)
                    writer.close()
                    await served

    with asyncio.Runner(loop_factory=proxy.loop) as runner:
        runner.run(run())


def test_no_byte_is_early() -> None:
    times: list[float] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            times.append(time.monotonic())
            writer.write(b"?")
            assert await reader.readexactly(1) == b"!"
        times.append(time.monotonic())

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            assert await reader.readexactly(1) == b"?"
            times.append(time.monotonic())
            writer.write(b"!")
        await writer.drain()

    through(client, server)
    one_way = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert len(one_way) == 6 and all(0.05 <= t < 1 for t in one_way), one_way


def test_contents_and_rate_both_ways() -> None:
    sent = os.urandom(1_000_000), os.urandom(700_001)
    got, taken = {}, {}

    def end(i: int) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            begun = time.monotonic()
            writer.write(sent[i])
            writer.write_eof()  # the other direction must go on
            got[i] = await reader.read(-1)
            taken[i] = time.monotonic() - begun

        return talk

    through(end(0), end(1))
    assert got == {0: sent[1], 1: sent[0]}
    # At 10 MB/s behind 50 ms; both at once are not slower than the larger one alone would be, but
    # for this machine.
    assert taken[1] >= 0.15 - 1e-3 and taken[0] >= 0.12 - 1e-3, taken
    assert max(taken.values()) < 2, taken


def test_a_slow_reader_loses_nothing() -> None:
    sent = os.urandom(8_000_000)
    fast = net.Network("fast", 1e10, 0.0)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        assert await reader.readexactly(1) == b"."

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = []
        for size in [1000] * 100 + [len(sent) - 100_000]:
            await asyncio.sleep(0.001)
            parts.append(await reader.readexactly(size))
        assert b"".join(parts) == sent
        writer.write(b".")
        await writer.drain()

    through(client, server, fast)


@pytest.mark.parametrize("abrupt", [False, True])
def test_closing_one_side_closes_the_other(abrupt: bool) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"y"
        writer.transport.abort() if abrupt else writer.close()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(1) == b"x"
        writer.write(b"y")
        try:
            assert await reader.read() == b""
        except ConnectionError:
            assert abrupt

    through(client, server)


def test_nobody_listens_behind_the_proxy() -> None:
    with Listener("cryptogen.bench.proxy", ["lan", "127.0.0.1:1"]) as between:
        host, port = between.address.split(":")
        with create_connection((host, int(port)), timeout=30) as s:
            assert s.recv(1) == b""


def test_bad_values() -> None:
    with pytest.raises(InputError, match="network 'moon', expected one of lan, wan"):
        decode(Task("tiny", 8, 2, network="moon"))
    with pytest.raises(ConnectionFailed, match="moon"), Listener("cryptogen.bench.proxy", ["moon", "127.0.0.1:1"]):
        pass


def links(pid: int) -> list[str]:
    return [name for name in os.listdir("/sys/class/net") if name.startswith(f"cg{pid}")]


HOLD = """
import sys, time
from cryptogen.bench import network as net
{change}
with net.emulate(net.network("lan"), lambda why: sys.exit(why)):
    print("ready", flush=True)
    time.sleep(600)
"""
PLAIN = 'net._shape = lambda link: ("pfifo",)'  # a queue that every kernel has: the namespace alone


@pytest.fixture
def plain_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_shape", lambda link: ("pfifo",))
    need_namespaces()


def need_namespaces() -> None:
    try:
        space = net._Namespace(net.network("lan"))
    except net.Impossible as why:
        pytest.skip(f"no network namespaces here: {why}")
    space.close()


def test_namespace_is_one_and_leaves_nothing(plain_queue: None) -> None:
    with net.emulate(net.network("lan")) as there:
        assert there.by == net.NETEM and links(os.getpid())
        inside = subprocess.run([*there.prefix, "ls", "/sys/class/net"], capture_output=True, text=True, check=True)
        assert inside.returncode == 0
        server = [*there.prefix, sys.executable, "-c", "import os; print(os.readlink('/proc/self/ns/net'))"]
        other = subprocess.run(server, capture_output=True, text=True, check=True).stdout.strip()
        assert other != os.readlink("/proc/self/ns/net")
    assert links(os.getpid()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(how: signal.Signals, plain_queue: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(change=PLAIN)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert links(process.pid)
        process.send_signal(how)
        assert process.wait(30) != 0
        until = time.monotonic() + 30  # the kernel removes a namespace in its own time
        while links(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert links(process.pid) == []
    finally:
        process.kill()
        process.wait()


def test_a_failing_namespace_leaves_nothing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_shape", lambda link: ("no-such-queue",))
    notes: list[str] = []
    with net.emulate(net.network("wan"), notes.append) as there:
        assert there.by == net.PROXY and there.prefix == ()
        assert links(os.getpid()) == []
    assert len(notes) == 1 and notes[0].startswith("no netem (")


def test_decode_in_a_namespace(plain_queue: None) -> None:
    figures = decode(Task("tiny", 4, 1, network="lan"))
    assert (figures["network"], figures["network_by"]) == ("lan", "netem")
    assert figures["round_trips_per_token"] == pytest.approx(27, abs=1)


def test_decode_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_shape", lambda link: ("no-such-queue",))
    figures = decode(Task("tiny", 4, 1, network="lan"))
    assert (figures["network"], figures["network_by"]) == ("lan", "proxy")
    assert figures["round_trips_per_token"] == pytest.approx(27, abs=1)


@pytest.mark.long
@pytest.mark.parametrize("by", ["netem", "proxy"])
def test_every_round_trip_of_a_token_takes_80_ms(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "proxy":
        monkeypatch.setattr(net, "_shape", lambda link: ("no-such-queue",))
    else:
        try:
            net._Namespace(net.network("wan")).close()
        except net.Impossible as why:
            pytest.skip(f"no netem here: {why}")
    figures = decode(Task("tiny", 8, 2, network="wan"))
    assert (figures["network"], figures["network_by"]) == ("wan", by)
    # The first may be under way when the clock starts.
    assert figures["online_seconds_per_token"] >= 0.08 * (figures["round_trips_per_token"] - 1)
