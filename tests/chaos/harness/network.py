"""Hosts with networks of their own on one machine: network namespaces, joined by pairs of virtual interfaces.

One namespace for each host, one for the servers that they share, and links like these, each with addresses of its own:

    clients (this namespace) ──── host a ──── servers
                        └──────── host b ──────┘  │
                        └─────────────────────────┘

Hosts reach each other over the servers' end. A link is cut there, so that a host notices nothing but silence: no reset,
no end of a connection. What a host and the servers send each other is delayed by taking another way, over
``slow_link``. Needs root and iproute2. Names hold the pid of who made them; those of one that was killed are removed by
the next one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from antiphon.core.child_process import start_child

PREFIX = "antiphon"
_BLOCK = os.getpid() % 256
SERVERS = f"198.19.{_BLOCK}.1"
"""Address of the servers, the same from everywhere, of the range that RFC 2544 leaves to tests."""

_CLIENTS, _HOSTS, _UPLINKS, _SLOW_LINKS = 1, 2, 8, 16
"""Numbers of the links: of clients and servers, and the first ones of clients and a host, of a host and servers, and of
the slow ones between these."""


class Network:
    """The namespaces of hosts, by their place."""

    def __init__(self, hosts: int) -> None:
        self._names = [f"{PREFIX}-{os.getpid()}-{place}" for place in ("servers", *range(hosts))]
        self._hosts = hosts
        self._slow_links: dict[int, subprocess.Popen[bytes]] = {}

    def under(self, host: int) -> tuple[str, ...]:
        """A command that runs another one on a host; on the servers' with -1."""
        return ("ip", "netns", "exec", self._names[host + 1])

    def address(self, host: int) -> str:
        """The address of a host for clients."""
        return _address(_HOSTS + host, 2)

    def inner_address(self, host: int) -> str:
        """The address of a host for servers and other hosts."""
        return _address(_UPLINKS + host, 1)

    def make(self) -> None:
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _run("ip", "netns", "exec", name, "sysctl", "-q", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.ip_forward=1")
        _ip("-n", self._names[0], "addr", "add", f"{SERVERS}/32", "dev", "lo")
        self._link(None, self._names[0], _CLIENTS)
        _ip("route", "add", SERVERS, "via", _address(_CLIENTS, 2))
        for host in range(self._hosts):
            self._link(None, self._names[host + 1], _HOSTS + host)
            self._link(self._names[host + 1], self._names[0], _UPLINKS + host)
            self._route(host)

    def cut(self, host: int) -> None:
        """Lose everything between a host and the servers."""
        _ip("-n", self._names[0], "link", "set", _interface(_UPLINKS + host, 2), "down")

    def cut_clients(self, host: int) -> None:
        """Lose everything between a host and the clients, at the host's end: without its own end this namespace would
        send what is meant for the host to the world outside, which may answer."""
        _ip("-n", self._names[host + 1], "link", "set", _interface(_HOSTS + host, 2), "down")

    def delay(self, host: int, milliseconds: int) -> None:
        """Delay what a host and servers or other hosts send each other, each way; 0 delays nothing any more."""
        slow = self._slow_links.get(host)
        if milliseconds:
            slow = slow or self._slow_way(host)
            assert slow.stdin is not None
            slow.stdin.write(f"{milliseconds}\n".encode())
            slow.stdin.flush()
        elif slow is not None:
            self._route(host)
            _ip("-n", self._names[0], "route", "del", f"{self.inner_address(host)}/32")
            _ended(self._slow_links.pop(host))

    def mend(self, host: int) -> None:
        """Lose nothing any more."""
        _ip("-n", self._names[0], "link", "set", _interface(_UPLINKS + host, 2), "up")
        _ip("-n", self._names[host + 1], "link", "set", _interface(_HOSTS + host, 2), "up")

    def remove(self) -> None:
        for process in self._slow_links.values():
            _ended(process)
        self._slow_links.clear()
        # The kernel takes the interfaces of a namespace away in its own time: a network made next needs their names.
        for link in (_CLIENTS, *range(_HOSTS, _HOSTS + self._hosts)):
            _run("ip", "link", "del", _interface(link, 1), check=False)
        for name in self._names:
            _run("ip", "netns", "del", name, check=False)

    def _slow_way(self, host: int) -> subprocess.Popen[bytes]:
        """Make another way between a host and the servers, and have packets take it, of open connections too."""
        ends = _interface(_SLOW_LINKS + host, 1), _interface(_SLOW_LINKS + host, 2)
        process = start_child(
            [sys.executable, "-m", "tests.chaos.harness.slow_link", *ends],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._slow_links[host] = process
        assert process.stdout is not None
        process.stdout.readline()
        for end, name in zip(ends, (self._names[host + 1], self._names[0]), strict=True):
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "link", "set", end, "up")
        self._route(host, "dev", ends[0])
        _ip("-n", self._names[0], "route", "add", f"{self.inner_address(host)}/32", "dev", ends[1])
        return process

    def _route(self, host: int, *way: str) -> None:
        """Have a host reach the servers and the other hosts this way, over the servers' end by default."""
        way = way or ("via", _address(_UPLINKS + host, 2))
        for place in (SERVERS, *(self.inner_address(other) for other in range(self._hosts) if other != host)):
            source = ("src", self.inner_address(host))
            _ip("-n", self._names[host + 1], "route", "replace", f"{place}/32", *way, *source)

    def _link(self, one: str | None, other: str, link: int) -> None:
        first, second = _interface(link, 1), _interface(link, 2)
        _ip("link", "add", first, "type", "veth", "peer", "name", second)
        for end, (name, space) in enumerate(((first, one), (second, other)), start=1):
            if space is not None:
                _ip("link", "set", name, "netns", space)
            place = () if space is None else ("-n", space)
            _ip(*place, "addr", "add", f"{_address(link, end)}/30", "dev", name)
            _ip(*place, "link", "set", name, "up")


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A network with so many hosts, removed at the end.

    Raises:
        RuntimeError: it cannot be made here; see :func:`lacking`.
    """
    if (why := lacking()) is not None:
        raise RuntimeError(why)
    _remove_left_over()
    made = Network(hosts)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@cache
def lacking() -> str | None:
    """What is not there to make networks with; ``None`` when they can be made."""
    if os.geteuid() != 0:
        return "networks of their own need root"
    trial = f"{PREFIX}-{os.getpid()}-trial"
    try:
        made = _run("ip", "netns", "add", trial, check=False)
    except FileNotFoundError:
        return "networks of their own need iproute2"
    if made.returncode != 0:
        return f"the kernel makes no network namespaces here: {made.stderr.strip()}"
    _run("ip", "netns", "del", trial, check=False)
    return None


def _remove_left_over() -> None:
    for line in _run("ip", "netns", "list").stdout.splitlines():
        name = line.split()[0]
        kind, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if kind == PREFIX and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _run("ip", "netns", "del", name, check=False)


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=20)


def _address(link: int, end: int) -> str:
    return f"198.18.{_BLOCK}.{4 * link + end}"


def _interface(link: int, end: int) -> str:
    return f"ap{os.getpid()}x{link}{'ab'[end - 1]}"


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(words, capture_output=True, text=True, timeout=20)
    if check and found.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {found.stderr.strip()}")
    return found
