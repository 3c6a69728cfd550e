"""Values that are believed for the length of a lease and then read again.

Invariants:
- Nothing is believed for longer than a lease after the moment when its reading *began*. Only where the source is away
  is it believed for longer, up to a bound.
- What was forgotten is read anew: a reading that began before does not bring it back, nor does it replace what a later
  one found.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from antiphon.core.clock import Clock
from antiphon.core.errors import UnavailableError

K = TypeVar("K")
V = TypeVar("V")

_AHEAD = 0.7
"""The share of a lease after which a reader has it renewed."""

_log = logging.getLogger(__name__)


class Renewer:
    """A thread that renews leases before they end, so that no reader waits. Until it is started,
    and once it is closed, it renews none: a reader after a lease's end reads."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Renew from now on."""
        self._thread = ThreadPoolExecutor(1, "leases")

    def submit(self, work: Callable[[], None]) -> bool:
        """Do it soon, after what was submitted before; whether it will be done."""
        thread = self._thread
        if thread is None:
            return False
        try:
            thread.submit(work)
        except RuntimeError:  # Closed meanwhile.
            return False
        return True

    def close(self) -> None:
        """End the reading under way and begin none."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(cancel_futures=True)


class Leases(Generic[K, V]):
    """The value read for each key, with its time: the ``most`` keys are bounded. Safe to share between threads.

    Args:
        seconds: how long what was read is believed; ``bound``: for how long while the source is away.
        renewer: reads again before a lease ends, for readings that any thread may do.
    """

    def __init__(
        self, clock: Clock, *, seconds: float, bound: float, most: int, renewer: Renewer | None = None
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._bound = bound
        self._most = most
        self._renewer = renewer
        self._found: dict[K, tuple[V, float]] = {}
        self._readings: dict[K, threading.Lock] = {}
        self._renewing: set[K] = set()
        self._writing = threading.Lock()
        self._forgotten = 0

    def fresh(self, key: K, read: Callable[[], V | None] | None = None) -> V | None:
        """Returns the value read within the lease; never reads. With ``read`` it may be renewed ahead."""
        found = self._found.get(key)
        if found is None:
            return None
        age = self._clock.monotonic() - found[1]
        if age > self._seconds:
            return None
        if read is not None and self._renewer is not None and age > _AHEAD * self._seconds:
            self._renew(key, read, self._renewer)
        return found[0]

    def last(self, key: K) -> V | None:
        """Returns the value read last, however old."""
        found = self._found.get(key)
        return None if found is None else found[0]

    def look(self, key: K, read: Callable[[], V | None]) -> V | None:
        """Returns the value read within the lease, else the one that ``read`` gives; ``None`` is not remembered.

        Raises:
            UnavailableError: the source is away, and nothing was read within the bound.
        """
        fresh = self.fresh(key, read)
        if fresh is not None:
            return fresh
        # Of many who find a lease over at once, one reads.
        with self._readings.setdefault(key, threading.Lock()):
            fresh = self.fresh(key)
            if fresh is not None:
                return fresh
            try:
                return self._read(key, read)
            except UnavailableError:
                found = self._found.get(key)
                if found is None or self._clock.monotonic() - found[1] > self._bound:
                    raise
                return found[0]
            finally:
                self._readings.pop(key, None)

    def forget(self) -> None:
        """Read everything anew."""
        with self._writing:
            self._forgotten += 1
            self._found.clear()

    def _read(self, key: K, read: Callable[[], V | None]) -> V | None:
        # Before the reading: what changes while it runs must not be believed for longer than the lease.
        read_at, forgotten = self._clock.monotonic(), self._forgotten
        value = read()
        with self._writing:
            found = self._found.get(key)
            if value is None:
                self._found.pop(key, None)
            elif forgotten == self._forgotten and (found is None or found[1] <= read_at):
                # Keys may come from requests: without a bound, unknown ones would fill the memory.
                if len(self._found) >= self._most:
                    self._found.clear()
                self._found[key] = (value, read_at)
        return value

    def _renew(self, key: K, read: Callable[[], V | None], renewer: Renewer) -> None:
        def renewed() -> None:
            try:
                self._read(key, read)
            except UnavailableError:
                pass  # The lease holds as long as before. A reader after its end reads, and gets the error.
            except Exception:
                _log.exception("A lease was not renewed")
            finally:
                self._renewing.discard(key)

        if key not in self._renewing:
            self._renewing.add(key)
            if not renewer.submit(renewed):
                self._renewing.discard(key)
