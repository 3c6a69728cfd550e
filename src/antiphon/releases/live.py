"""The live pointer as a gateway reads it: from memory, renewed from the catalog by a lease.

Invariant: after a release was activated or rolled back, every process that reaches the catalog answers with it
within :data:`LEASE_SECONDS`. One that does not reach it keeps answering with the release it knows, which is
immutable, for at most ``bound`` seconds.
"""

from __future__ import annotations

import threading
from typing import Protocol

import msgspec

from antiphon.catalog.releases import Release
from antiphon.core.clock import Clock
from antiphon.core.errors import Unavailable
from antiphon.core.scope import Scope

LEASE_SECONDS = 0.25
BOUND_SECONDS = 30.0
_MOST_REMEMBERED = 1_000


class ReleaseReader(Protocol):
    """The catalog's releases (``catalog.releases.Releases``)."""

    def live(self, scope: Scope, application: str) -> Release | None: ...

    def get(self, scope: Scope, release: str) -> Release: ...


class _Leased(msgspec.Struct, frozen=True):
    release: Release | None
    checked: float


class LiveReleases:
    """Which release answers now. Safe to share between threads.

    Args:
        releases: where the truth is.
        clock: only its monotonic reading is used.
        bound: for how many seconds a known pointer is believed while the catalog is away.
    """

    def __init__(self, releases: ReleaseReader, clock: Clock, *, bound: float = BOUND_SECONDS) -> None:
        self._releases = releases
        self._clock = clock
        self._bound = bound
        self._live: dict[tuple[Scope, str], _Leased] = {}
        self._pinned: dict[tuple[Scope, str], _Leased] = {}
        self._renewing = threading.Lock()

    def live(self, scope: Scope, application: str) -> Release | None:
        """The live release, ``None`` when the application has none.

        Raises:
            Unavailable: the catalog is away and the pointer was not seen within the bound.
        """
        key = (scope, application)
        leased = self._live.get(key)
        if leased is not None and self._age(leased) <= LEASE_SECONDS:
            return leased.release
        with self._renewing:
            # Of many requests that find the lease over at once, one asks the catalog.
            leased = self._live.get(key)
            if leased is not None and self._age(leased) <= LEASE_SECONDS:
                return leased.release
            now = self._clock.monotonic()
            try:
                release = self._releases.live(scope, application)
            except Unavailable:
                if leased is None or self._age(leased) > self._bound:
                    raise
                return leased.release
            _keep(self._live, key, _Leased(release, now))
        return release

    def get(self, scope: Scope, release: str) -> Release:
        """One release by id. Its bundle never changes, so that it is read once; its ``stage`` is as old.

        Raises:
            NotFound: there is none of this id here.
        """
        key = (scope, release)
        pinned = self._pinned.get(key)
        if pinned is not None and pinned.release is not None:
            return pinned.release
        found = self._releases.get(scope, release)
        _keep(self._pinned, key, _Leased(found, self._clock.monotonic()))
        return found

    def forget(self) -> None:
        """Ask the catalog at the next request, for a process that moved the pointer itself."""
        self._live.clear()

    def _age(self, leased: _Leased) -> float:
        return self._clock.monotonic() - leased.checked


def _keep(remembered: dict[tuple[Scope, str], _Leased], key: tuple[Scope, str], leased: _Leased) -> None:
    # Names come from requests: without a bound, unknown ones would fill the memory.
    if len(remembered) >= _MOST_REMEMBERED:
        remembered.clear()
    remembered[key] = leased
