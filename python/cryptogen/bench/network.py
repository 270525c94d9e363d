"""A slower network between two processes of this host: `tc netem` between network namespaces, or a
proxy (`proxy.py`).

The namespace has no name: it is that of a process which ends when this one does, however it ends,
so nothing is left behind; `setpriv --pdeathsig` does the same for the server in it. Where that is
impossible (no root, no netem in the kernel, no iproute2) a proxy delays the same bytes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cryptogen.errors import InputError
from cryptogen.processes import Listener

NETEM, PROXY = "netem", "proxy"


@dataclass(frozen=True)
class Network:
    """`bits_per_second` each way; `round_trip` in seconds, half of it each way."""

    name: str
    bits_per_second: float
    round_trip: float


NETWORKS = {n.name: n for n in (Network("lan", 1e9, 0.5e-3), Network("wan", 100e6, 80e-3))}


def network(name: str) -> Network:
    """A known network; raises `InputError` otherwise."""
    if name not in NETWORKS:
        raise InputError(f"network {name!r}, expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


class Impossible(Exception):
    """netem cannot be used here, and why."""


class Emulated:
    """Where the server must run and listen, and where the client finds it then.

    `prefix`: words before the server's command; `listen`: host:port with port 0; `by`: netem,
    proxy, or None without emulation.
    """

    def __init__(self, link: Network | None, prefix: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        self.prefix, self.listen = tuple(prefix), f"{host}:0"
        self.by = None if link is None else NETEM if prefix else PROXY
        self._link = link

    @contextmanager
    def reach(self, address: str) -> Iterator[str]:
        """The address that leads to a server at `address`."""
        if self.by != PROXY or self._link is None:
            yield address
            return
        with Listener("cryptogen.bench.proxy", [self._link.name, address]) as proxy:
            yield proxy.address


@contextmanager
def emulate(link: Network | None, note: Callable[[str], None] = lambda line: None) -> Iterator[Emulated]:
    """`link` between this process and the server, or the plain loopback. `note` is told why netem
    is not used."""
    if link is None:
        yield Emulated(None)
        return
    try:
        holder = _Namespace(link)
    except Impossible as reason:
        note(f"no netem ({reason}): a proxy delays the same bytes")
        yield Emulated(link)
        return
    try:
        yield Emulated(link, holder.prefix, holder.server)
    finally:
        holder.close()


class _Namespace:
    """A network namespace joined to ours by a veth pair, both ends delayed and limited in rate.
    Needs root.

    Two addresses of 198.18.0.0/15, which RFC 2544 sets aside for measurements.
    """

    def __init__(self, link: Network) -> None:
        number = 4 * (os.getpid() % (1 << 15))
        us, self.server = (f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255 | end}" for end in (1, 2))
        self._ours, theirs = (f"cg{os.getpid()}{end}" for end in "ab")
        try:
            # Lives until its input ends: when `close` is called, or when this process is gone.
            self._holder = subprocess.Popen(
                ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise Impossible(str(error)) from None
        enter = ("nsenter", "--target", str(self._holder.pid), "--net")
        self.prefix = enter
        try:
            self._wait()
            _do("ip", "link", "add", self._ours, "type", "veth", "peer", "name", theirs, "netns", str(self._holder.pid))
            _do(*enter, "ip", "link", "set", "lo", "up")
            for where, name, address in (((), self._ours, us), (enter, theirs, self.server)):
                _do(*where, "ip", "address", "add", f"{address}/30", "dev", name)
                _do(*where, "ip", "link", "set", name, "up")
                _do(*where, "tc", "qdisc", "add", "dev", name, "root", *_shape(link))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the namespace. The kernel removes the veth pair with it, but only some time
        later."""
        subprocess.run(["ip", "link", "delete", self._ours], capture_output=True, check=False)
        self._holder.kill()
        self._holder.communicate()

    def _wait(self) -> None:
        """Until the holder is in its namespace: `cat` answers only then."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        try:
            self._holder.stdin.write(b"\n")
            self._holder.stdin.flush()
        except BrokenPipeError:
            pass
        if self._holder.stdout.read(1) != b"\n":
            raise Impossible(_last_line(self._holder.communicate()[1]) or "unshare failed")


def _shape(link: Network) -> tuple[str, ...]:
    """The arguments of netem; its queue must hold what TCP has in flight (packets), or it drops."""
    delay, rate = f"{link.round_trip / 2 * 1e6:.0f}us", f"{link.bits_per_second:.0f}bit"
    return ("netem", "delay", delay, "rate", rate, "limit", "100000")


def _do(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise Impossible(str(error)) from None
    if done.returncode != 0:
        raise Impossible(f"{' '.join(command[:7])}: {_last_line(done.stderr)}")


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or [""])[-1]
