"""The publication that a process serves, under a lease on what it has read of the catalog.

Invariants:
- A request is served on what was read of the catalog at most
  :data:`~antiphon.catalog.features.publications.LONGEST_LEASE` before it came, also when the process was stopped
  meanwhile; once a later publication is announced, on what was read after it came. So no process serves a publication
  after another began with the next (ADR 0135). Only while the catalog is away is it older, and that is said.
- What is served never goes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from antiphon.catalog.features.publications import LONGEST_LEASE, Publication, Publications
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope

_ABANDONED = 2.0
"""Seconds after which a publication that is still announced counts as left by a publisher that is gone."""


class PublicationLease:
    """The served publication of one scope. Safe to share between threads.

    Args:
        seconds: for how long the publications are not read again while none is announced.
        moved: called with the publication before and the one that is served from now on.
    """

    def __init__(
        self,
        scope: Scope,
        publications: Publications,
        clock: Clock,
        *,
        seconds: float,
        moved: Callable[[Publication | None, Publication], None],
    ) -> None:
        if not 0 <= seconds <= LONGEST_LEASE:
            raise InvalidInputError(
                f"The lease on a publication is at most {LONGEST_LEASE} s, not {seconds}.", where="lease"
            )
        self._scope = scope
        self._publications = publications
        self._clock = clock
        self._seconds = seconds
        self._moved = moved
        self._lock = threading.Lock()
        self._served: Publication | None = None
        self._until = self._read_at = float("-inf")
        self._known: dict[int, float] = {}
        self.away = False
        """True if the catalog did not answer when it was asked last."""

    def current(self) -> Publication | None:
        """The publication to serve now; ``None`` before the first. Raises what the catalog raises when it was never
        read."""
        came_at = self._clock.monotonic()
        if came_at < self._until:
            return self._served
        with self._lock:
            if self._read_at <= came_at:  # Else another thread has begun to read since.
                self._read()
            return self._served

    def end(self) -> None:
        """Have the catalog read again before anything is served."""
        with self._lock:
            self._until = float("-inf")

    def _read(self) -> None:
        self._read_at = read_at = self._clock.monotonic()
        try:
            found = self._publications.online(self._scope)
        except AntiphonError:
            if self._served is None:
                raise
            self.away = True
            self._until = self._clock.monotonic() + self._seconds
            return
        self.away = False
        if found.served is not None and (self._served is None or found.served.number > self._served.number):
            self._moved(self._served, found.served)
            self._served = found.served
        # Before the first publication everyone asks, so that none says that there is none when another serves it.
        leased = self._served is not None and not found.announced
        self._until = read_at + self._seconds if leased else float("-inf")
        self._take_over(found.announced, read_at)

    def _take_over(self, announced: Iterable[Publication], read_at: float) -> None:
        """Have those served that their publisher has left. They were known here for longer than the time of notice
        when they were read now."""
        now = self._clock.monotonic()
        self._known = {one.number: self._known.get(one.number, now) for one in announced}
        left = [one for one in announced if read_at - self._known[one.number] > _ABANDONED]
        if left:
            with suppress(AntiphonError):  # The catalog may take no writes now; the next request tries again.
                self._publications.serve_known(left[-1])
