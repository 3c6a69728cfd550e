"""Hosts with networks of their own on one machine: network namespaces, joined by pairs of virtual interfaces.

One namespace for each host, one for the servers that they share, and links like these, each with addresses of its own:

    clients (this namespace) ──── host a ──── servers
                        └──────── host b ──────┘  │
                        └─────────────────────────┘

A link is cut at its servers' end, so that a host notices nothing but silence: no reset, no end of a connection. Needs
root and iproute2. Names hold the pid of who made them; those of one that was killed are removed by the next one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

PREFIX = "antiphon"
_BLOCK = os.getpid() % 256
SERVERS = f"198.19.{_BLOCK}.1"
"""Address of the servers, the same from everywhere, of the range that RFC 2544 leaves to tests."""

_CLIENTS, _HOSTS, _UPLINKS = 1, 2, 8
"""Numbers of the links: of clients and servers, and the first ones of clients and a host, and of a host and servers."""


class Network:
    """The namespaces of hosts, by their place."""

    def __init__(self, hosts: int) -> None:
        self._names = [f"{PREFIX}-{os.getpid()}-{place}" for place in ("servers", *range(hosts))]
        self._hosts = hosts

    def under(self, host: int) -> tuple[str, ...]:
        """A command that runs another one on a host; on the servers' with -1."""
        return ("ip", "netns", "exec", self._names[host + 1])

    def address(self, host: int) -> str:
        """The address of a host for clients."""
        return _address(_HOSTS + host, 2)

    def make(self) -> None:
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._names[0], "addr", "add", f"{SERVERS}/32", "dev", "lo")
        self._link(None, self._names[0], _CLIENTS)
        _ip("route", "add", SERVERS, "via", _address(_CLIENTS, 2))
        for host in range(self._hosts):
            self._link(None, self._names[host + 1], _HOSTS + host)
            self._link(self._names[host + 1], self._names[0], _UPLINKS + host)
            _ip("-n", self._names[host + 1], "route", "add", SERVERS, "via", _address(_UPLINKS + host, 2))

    def cut(self, host: int) -> None:
        """Lose everything between a host and the servers."""
        _ip("-n", self._names[0], "link", "set", _interface(_UPLINKS + host, 2), "down")

    def cut_clients(self, host: int) -> None:
        """Lose everything between a host and the clients."""
        _ip("link", "set", _interface(_HOSTS + host, 1), "down")

    def delay(self, host: int, milliseconds: int) -> None:
        """Delay what the servers send to a host; 0 delays nothing any more."""
        change = ("replace", "dev", _interface(_UPLINKS + host, 2), "root", "netem", "delay", f"{milliseconds}ms")
        command = change if milliseconds else ("del", "dev", _interface(_UPLINKS + host, 2), "root")
        _run("tc", "-n", self._names[0], "qdisc", *command)

    def mend(self, host: int) -> None:
        """Lose and delay nothing any more."""
        _ip("-n", self._names[0], "link", "set", _interface(_UPLINKS + host, 2), "up")
        _ip("link", "set", _interface(_HOSTS + host, 1), "up")

    def remove(self) -> None:
        # The kernel takes the interfaces of a namespace away in its own time: a network made next needs their names.
        for link in (_CLIENTS, *range(_HOSTS, _HOSTS + self._hosts)):
            _run("ip", "link", "del", _interface(link, 1), check=False)
        for name in self._names:
            _run("ip", "netns", "del", name, check=False)

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


@cache
def delays() -> bool:
    """Whether the kernel can delay packets (netem)."""
    trial = _interface(15, 1)
    _run("ip", "link", "add", trial, "type", "veth", "peer", "name", _interface(15, 2), check=False)
    found = _run("tc", "qdisc", "add", "dev", trial, "root", "netem", "delay", "1ms", check=False)
    _run("ip", "link", "del", trial, check=False)
    return found.returncode == 0


def _remove_left_over() -> None:
    for line in _run("ip", "netns", "list").stdout.splitlines():
        name = line.split()[0]
        kind, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if kind == PREFIX and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _run("ip", "netns", "del", name, check=False)


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
