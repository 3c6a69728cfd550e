"""The doorbell: tells those who wait for work, in every process, that something was committed.

Invariants:
- A ring is a hint, never the truth: one may be lost, come twice or come for nothing. Who waits looks into the catalog
  after each ring, and now and then without one.
- A ring comes after the commit, so that the look which follows sees what was committed. One that comes during a look
  makes the next wait return at once.
- Ringing neither delays a commit nor lets one fail.
- At rest, when nothing has rung for :data:`REST_AFTER`, looks may come less often (:meth:`Wakeup.rested`); the first
  ring of any name then wakes every listener, so that nobody goes on resting beside one who works.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from sqlalchemy.engine import Connection

from antiphon.core.pauses import ended_together

Topic = Literal[
    "runs",
    "cancellations",
    "events",
    "features",
    "releases",
    "training",
    "notifications",
    "measurements",
    "moves",
    "leases",
]
"""Subject of a ring: runs that may be claimed, requests to cancel one, events in the catalog's log, applied
definitions with their publications, releases with their rollouts, trainings that begin or are to pause, notifications
that are to be sent, requests and runs in the history of a tenant, orders of live moves, leases of processes that are
taken or given back."""

REST_AFTER = 60.0
"""Seconds without a ring after which those who look now and then may rest."""

REST_FACTOR, REST_LONGEST = 6, 30.0
"""At rest a pause between two looks is so many times as long, and so many seconds at most if it was shorter."""

REST_SECONDS = 0.02
"""A look for nothing is followed by the next no sooner than this, however often it rings."""

_log = logging.getLogger(__name__)


class NotificationChannel(Protocol):
    """Carries rings to the other processes of a catalog: ``PipeChannel`` or ``NotifyChannel``."""

    def notify(self, connection: Connection, names: Collection[str]) -> None:
        """Have these rung when the transaction commits, where the database does that."""
        ...

    def committed(self, names: Collection[str]) -> None:
        """Ring these after the commit, where the database does not; never waits and never raises."""
        ...

    def open(self, deliver: Callable[[Collection[str] | None], None]) -> None:
        """Hear other processes from now on: ``deliver`` is called in a thread, with ``None`` when any name may have
        been rung."""
        ...

    def close(self) -> None:
        """Hear no more."""
        ...


class Doorbell:
    """The listeners of this process. Other processes are heard from the first listener on.

    Args:
        monotonic: seconds that only grow, as of the catalog's clock.
    """

    def __init__(self, channel: NotificationChannel, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.channel = channel
        self._monotonic = monotonic
        self._rung_at = monotonic()
        self._lock = threading.Lock()
        self._listeners: dict[object, tuple[frozenset[str], Callable[[], object]]] = {}
        self._open = False

    def listen(self, wake: Callable[[], object], names: Iterable[str]) -> Callable[[], None]:
        """Have ``wake`` called, in any thread, after each ring of one of these names; it must not wait. Returns what
        ends it."""
        key = object()
        with self._lock:
            self._listeners[key] = (frozenset(names), wake)
            if not self._open:
                self._open = True
                self.channel.open(self.deliver)

        def end() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return end

    def wakeup(self, environment: str, *topics: Topic) -> Wakeup:
        """A wait of asyncio for rings about an environment."""
        return Wakeup(self, [ring_name(topic, environment) for topic in topics])

    def committed(self, names: Collection[str]) -> None:
        """Ring after a commit of this process, here and elsewhere."""
        self.channel.committed(names)
        self.deliver(names)

    @property
    def is_at_rest(self) -> bool:
        """True when nothing has rung for :data:`REST_AFTER`."""
        return self._monotonic() - self._rung_at >= REST_AFTER

    def end_rest(self) -> None:
        """Say that this process has work; nobody rests beside it."""
        self.deliver(frozenset())

    def deliver(self, names: Collection[str] | None) -> None:
        """Wake the listeners of these names here; ``None``, and what ends a rest, wakes all."""
        with self._lock:
            if self.is_at_rest:
                names = None
            self._rung_at = self._monotonic()
            woken = [wake for known, wake in self._listeners.values() if names is None or not known.isdisjoint(names)]
        for wake in woken:
            try:
                wake()
            except Exception:  # The others are to be woken.
                _log.exception("A listener of the doorbell failed")

    def close(self) -> None:
        """Stop hearing other processes; the next listener begins anew."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self.channel.close()


class Wakeup:
    """Waits for rings in one task of asyncio, between ``with`` and its end; without a doorbell it waits for time alone.

    A ring between two waits is not lost: the second returns at once.
    """

    def __init__(self, doorbell: Doorbell | None = None, names: Collection[str] = ()) -> None:
        self._doorbell = doorbell
        self._names = names
        self._event = asyncio.Event()
        self._end: Callable[[], None] | None = None
        self._woken_at = float("-inf")

    def __enter__(self) -> Self:
        self._event = asyncio.Event()
        if self._doorbell is not None:
            loop, event = asyncio.get_running_loop(), self._event

            def wake() -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

            self._end = self._doorbell.listen(wake, self._names)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end is not None:
            self._end()

    def rested(self, seconds: float) -> float:
        """A pause between two looks, longer at rest. For looks that a ring makes in time otherwise, and for those at
        what only changes while something rings; never for a moment at which something is due. One of less than a second
        stays: it waits for what rings nowhere, such as events on another server."""
        if seconds < 1.0 or self._doorbell is None or not self._doorbell.is_at_rest:
            return seconds
        return max(seconds, min(REST_FACTOR * seconds, REST_LONGEST))

    def wake(self) -> None:
        """Ring here alone; called in the event loop."""
        self._event.set()

    async def wait(self, seconds: float, *others: asyncio.Future[Any], found: bool = True) -> None:
        """Return after a ring, when one of ``others`` is done, or after so many seconds (see ``core.pauses``).

        Args:
            found: whether the look before found something; after one for nothing the next ring waits until
                :data:`REST_SECONDS` are over since the last.
        """
        loop = asyncio.get_running_loop()
        rung = asyncio.ensure_future(self._event.wait())
        try:
            pause = ended_together(seconds, loop.time())
            await asyncio.wait({rung, *others}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            rest = self._woken_at + REST_SECONDS - loop.time()
            if rung.done() and not found and rest > 0:
                if others:
                    await asyncio.wait(others, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(rest)
            if rung.done():
                self._woken_at = loop.time()
                self._event.clear()
        finally:
            rung.cancel()

    async def wait_until(self, stop: asyncio.Event, seconds: float, *, found: bool = True) -> None:
        """Like :meth:`wait`, and returns as soon as ``stop`` is set."""
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        try:
            await self.wait(seconds, stopping, found=found)
        finally:
            stopping.cancel()


def ring_name(topic: Topic, environment: str) -> str:
    """The name that travels: a worker of one environment is not woken for another."""
    return f"{topic}:{environment}"
