"""The publication that a process serves, under a lease on what it has read of the catalog.

Invariants:
- All processes of a catalog begin to serve a publication at one moment of the catalog's clock. A process knows that
  clock to within the time that it took to be told it: it serves the publication before until the moment may have come,
  the publication once it must have come, and in between, a fraction of a millisecond, lets requests wait.
- A request is served on what was read of the catalog at most
  :data:`~antiphon.catalog.features.publications.LONGEST_LEASE` before it came, also when the process was stopped
  meanwhile. Only while the catalog is away that is older, and said; what was announced before is begun in time.
- What it serves never goes back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from antiphon.catalog.features.publications import LONGEST_LEASE, Publication, Publications
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope

_DRIFT = 1e-3
"""Seconds by which two clocks that are set by a time server may come apart in a second, and more."""


class Switch(NamedTuple):
    """A publication that is announced, and the seconds of the monotonic clock between which it begins to be served."""

    publication: Publication
    earliest: float
    latest: float


class PublicationLease:
    """The served publication of one scope. Safe to share between threads.

    Args:
        seconds: for how long the publications are not read again.
        moved: called with the publication before and the one that is served from now on.
        wait: lets seconds pass.
    """

    def __init__(
        self,
        scope: Scope,
        publications: Publications,
        clock: Clock,
        *,
        seconds: float,
        moved: Callable[[Publication | None, Publication], None],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        longest = LONGEST_LEASE.total_seconds()
        if not 0 <= seconds <= longest:
            raise InvalidInputError(f"The lease on a publication is at most {longest} s, not {seconds}.", where="lease")
        self._scope = scope
        self._publications = publications
        self._clock = clock
        self._seconds = seconds
        self._moved = moved
        self._wait = wait
        self._lock = threading.Lock()
        self._served: Publication | None = None
        self._switches: tuple[Switch, ...] = ()
        self._until = self._read_again_at = float("-inf")
        self.away = False
        """Whether the catalog did not answer when it was asked last."""

    def current(self) -> Publication | None:
        """The publication to serve now; ``None`` before the first. Raises what the catalog raises when it was never
        read."""
        if self._clock.monotonic() < self._until:
            return self._served
        with self._lock:
            return self._look()

    def announced(self) -> tuple[Publication, ...]:
        """The publications that were announced when the catalog was read last."""
        return tuple(switch.publication for switch in self._switches)

    def end(self) -> None:
        """Have the catalog read again before anything is served."""
        with self._lock:
            self._until = self._read_again_at = float("-inf")

    def _look(self) -> Publication | None:
        if self._clock.monotonic() >= self._read_again_at:
            self._read()
        while in_doubt := self._move(self._clock.monotonic()):
            self._wait(max(one.latest for one in in_doubt) - self._clock.monotonic())
        # Before the first publication everyone asks, so that none is told that there is none when another serves it.
        ends = (self._read_again_at, *(one.earliest for one in self._switches))
        self._until = min(ends) if self._served is not None else float("-inf")
        return self._served

    def _move(self, now: float) -> list[Switch]:
        """Serve what has begun; the switches of which it is in doubt whether they have."""
        begun = [one for one in self._switches if one.latest <= now]
        if begun:
            number = begun[-1].publication.number
            self._switches = tuple(one for one in self._switches if one.publication.number > number)
            self._serve(begun[-1].publication)
        return [one for one in self._switches if one.earliest <= now]

    def _serve(self, publication: Publication) -> None:
        before = self._served
        if before is None or publication.number > before.number:
            self._moved(before, publication)
            self._served = publication

    def _read(self) -> None:
        try:
            found = self._publications.schedule(self._scope)
        except AntiphonError:
            if self._served is None:
                raise
            self.away = True
            self._read_again_at = self._clock.monotonic() + self._seconds
            return
        self.away = False
        self._read_again_at = found.read_at + self._seconds
        switches = []
        for one in found.announced:
            ahead = (one.served_from - found.now).total_seconds()
            switches.append(Switch(one, found.asked_at + ahead * (1 - _DRIFT), found.told_at + ahead * (1 + _DRIFT)))
        self._switches = tuple(switches)
        if found.served is not None:
            self._serve(found.served)
