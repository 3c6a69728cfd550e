"""Every open connection of the gateway, bounded together: by number, by peer address, and by bytes read ahead.

Invariant: a connection whose request is being answered is never dropped for a new one. When there are as many
connections as the process has descriptors for, the ones that are dropped are, in this order, those without a complete
head (a TLS handshake counts as one), those that are idle between requests, those whose body is still arriving, and
those whose client does not read; of each kind the oldest first. So half-open connections cannot keep a complete request
out, however many there are.
"""

from __future__ import annotations

import enum
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

MOST_BYTES = 32 << 20
"""Of all connections together: incomplete heads, and what was read behind a request that is still being answered."""

LAST_REQUEST_SECONDS, LAST_REQUEST_SECONDS_AMONG_OTHERS = 1.0, 6.0
"""Time for which a server that ends takes one more request of a connection: its client may have sent it already. Where
other gateways take new connections meanwhile, it is longer than the 5 s after which clients of OpenAI's API close a
connection that they do not use."""

HALF_OPEN_SECONDS = 3.0
"""A client that means it has sent its request's head long before."""

_TARGET_DESCRIPTORS = 65_536
_SPARE_SHARE = 8
_LEAST_SPARE = 32
_LEAST = 16


class Stage(enum.IntEnum):
    """Progress of a connection's latest request; those with smaller numbers are dropped first."""

    HEAD = 0
    IDLE = 1
    BODY = 2
    STALLED = 3
    ANSWERING = 4


@dataclass(eq=False, slots=True)
class ConnectionEntry:
    """One connection. ``drop`` ends it at once; ``bytes`` are held of it and count towards the common bound; ``since``
    when, in monotonic seconds, it has been at its stage."""

    peer: str
    drop: Callable[[], None]
    stage: Stage
    bytes: int = 0
    since: float = 0.0


class Connections:
    """The open connections of one server; belongs to its event loop.

    Args:
        most: connections at once.
        most_per_peer: of one address without a complete head; half of ``most`` by default.
        most_bytes: see :data:`MOST_BYTES`.
    """

    def __init__(self, most: int, *, most_per_peer: int | None = None, most_bytes: int = MOST_BYTES) -> None:
        self.most = most
        self._most_per_peer = max(most // 2, 1) if most_per_peer is None else most_per_peer
        self._most_bytes = most_bytes
        self.last_request_seconds = LAST_REQUEST_SECONDS
        self._count = self._bytes = 0
        self._by_stage: tuple[OrderedDict[ConnectionEntry, None], ...] = tuple(OrderedDict() for _ in Stage)
        self._heads_by_peer: dict[str, OrderedDict[ConnectionEntry, None]] = {}

    def among(self, gateways: int) -> None:
        """There are so many gateways now, this one included."""
        self.last_request_seconds = LAST_REQUEST_SECONDS if gateways < 2 else LAST_REQUEST_SECONDS_AMONG_OTHERS

    @property
    def half_open(self) -> int:
        """Connections that have sent no complete head for :data:`HALF_OPEN_SECONDS`."""
        before = time.monotonic() - HALF_OPEN_SECONDS
        return sum(1 for _ in takewhile(lambda one: one.since < before, self._by_stage[Stage.HEAD]))

    def open(self, peer: str, drop: Callable[[], None]) -> ConnectionEntry:
        """Count a new connection, and drop what has to go for it."""
        entry = ConnectionEntry(peer, drop, Stage.HEAD)
        self._count += 1
        self._enter(entry, Stage.HEAD)
        if len(self._heads_by_peer[peer]) > self._most_per_peer:
            self._drop(next(iter(self._heads_by_peer[peer])))
        if self._count > self.most:
            self._drop_oldest(entry)
        return entry

    def move(self, entry: ConnectionEntry, stage: Stage) -> None:
        """The connection has come to another stage."""
        if entry.stage != stage and entry in self._by_stage[entry.stage]:
            self._leave(entry)
            self._enter(entry, stage)

    def hold(self, entry: ConnectionEntry, count: int) -> None:
        """So many bytes are held of the connection now; too many of all together end the one that holds most ahead."""
        if entry not in self._by_stage[entry.stage]:
            return
        self._bytes += count - entry.bytes
        entry.bytes = count
        if self._bytes > self._most_bytes and count:
            self._drop(max((each for stage in self._by_stage for each in stage), key=lambda each: each.bytes))

    def close(self, entry: ConnectionEntry) -> None:
        """The connection has ended; one that was dropped is gone already."""
        if entry in self._by_stage[entry.stage]:
            self._leave(entry)
            self._bytes -= entry.bytes
            entry.bytes = 0
            self._count -= 1

    def _drop_oldest(self, newest: ConnectionEntry) -> None:
        for stage in (Stage.HEAD, Stage.IDLE, Stage.BODY, Stage.STALLED):
            oldest = next(iter(self._by_stage[stage]), None)
            if oldest is not None and oldest is not newest:
                self._drop(oldest)
                return
        self._drop(newest)

    def _drop(self, entry: ConnectionEntry) -> None:
        self.close(entry)
        entry.drop()

    def _enter(self, entry: ConnectionEntry, stage: Stage) -> None:
        entry.stage, entry.since = stage, time.monotonic()
        self._by_stage[stage][entry] = None
        if stage is Stage.HEAD:
            self._heads_by_peer.setdefault(entry.peer, OrderedDict())[entry] = None

    def _leave(self, entry: ConnectionEntry) -> None:
        del self._by_stage[entry.stage][entry]
        if entry.stage is Stage.HEAD:
            of_peer = self._heads_by_peer[entry.peer]
            del of_peer[entry]
            if not of_peer:
                del self._heads_by_peer[entry.peer]


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one (65,536 at most), and return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    target = _TARGET_DESCRIPTORS if hard == infinite else min(hard, _TARGET_DESCRIPTORS)
    if soft != infinite and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return target if soft == infinite else soft


def affordable_connections(most: int, descriptors: int) -> int:
    """The number of connections that there can be, at most ``most``: as many as ``descriptors`` leave beside those in
    use and a reserve for files."""
    reserve = max(descriptors // _SPARE_SHARE, _LEAST_SPARE)
    return max(min(most, descriptors - len(os.listdir("/dev/fd")) - reserve), _LEAST)
