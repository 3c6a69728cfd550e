"""The live pointer and the rollout under way as a gateway reads them: from memory, renewed by a lease.

Invariant: after a release was activated or rolled back, or a rollout moved, every process that reaches the catalog
routes by it within :data:`LEASE_SECONDS`. One that does not reach it keeps routing by what it knows, which is
immutable, for at most :data:`BOUND_SECONDS`. The pointer and the rollout are always of one state of the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from antiphon.catalog.releases.releases import Release, Releases, activation_stack
from antiphon.catalog.releases.rollouts import Assignment, RolloutRecord, Rollouts
from antiphon.core.clock import Clock
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.releases.router import assign

LEASE_SECONDS = 0.25
BOUND_SECONDS = 30.0
"""For so long a known pointer is believed while the catalog is away."""
_MOST_REMEMBERED = 1_000


class LeasedState(msgspec.Struct, frozen=True):
    """The live release, and the rollout under way with its candidate."""

    live: Release | None
    rollout: RolloutRecord | None
    candidate: Release | None


class LiveReleases:
    """Releases that answer now, from the catalog under a lease. Safe to share between threads.

    Args:
        releases: where the truth about releases is.
        clock: only its monotonic reading is used.
        rollouts: where the truth about rollouts is; ``None`` where there are none.
        renewer: reads the pointer again before a lease ends.
    """

    def __init__(
        self,
        releases: Releases,
        clock: Clock,
        *,
        rollouts: Rollouts | None = None,
        renewer: Renewer | None = None,
    ) -> None:
        self._releases = releases
        self._rollouts = rollouts
        self._leases: Leases[tuple[Scope, str], LeasedState] = Leases(
            clock, seconds=LEASE_SECONDS, bound=BOUND_SECONDS, most=_MOST_REMEMBERED, renewer=renewer
        )
        self._pinned: dict[tuple[Scope, str], Release] = {}

    def live(self, scope: Scope, application: str) -> Release | None:
        """The live release, ``None`` when the application has none; raises ``UnavailableError`` when the catalog is
        away and the pointer was not seen within the bound."""
        return self._leased(scope, application).live

    def assign(self, scope: Scope, application: str, unit: str, request_id: str) -> Assignment | None:
        """Assigns a release to a request; ``None`` when the application has no live one.

        Args:
            unit: keyed hash of the user; the same one always gets the same arm of a rollout.
            request_id: decides whether the request is mirrored.

        Raises:
            UnavailableError: the catalog is away and the pointer was not seen within the bound.
        """
        leased = self._leased(scope, application)
        if leased.live is None:
            return None
        return assign(leased.live, leased.rollout, leased.candidate, unit, request_id)

    def applications(self, scope: Scope) -> Sequence[str]:
        """Names of the applications that have a live release. Read from the catalog each time."""
        return self._releases.applications(scope)

    def awaited(self, scope: Scope, application: str) -> bool:
        """True for an application that has releases, none of which was live yet. Read from the catalog each time."""
        return self.live(scope, application) is None and bool(self._releases.list(scope, application))

    def previous(self, scope: Scope, application: str) -> Release | None:
        """The release that a rollback would return to; ``None`` without one. Read from the catalog each time."""
        live = activation_stack(self._releases.history(scope, application))
        return self.get(scope, live[-2]) if len(live) > 1 else None

    def get(self, scope: Scope, release: str) -> Release:
        """One release by id; raises ``NotFoundError`` when there is none here. Its bundle never changes, so that it is
        read once; its ``stage`` is as old."""
        key = (scope, release)
        pinned = self._pinned.get(key)
        if pinned is None:
            pinned = self._releases.get(scope, release)
            if len(self._pinned) >= _MOST_REMEMBERED:
                self._pinned.clear()
            self._pinned[key] = pinned
        return pinned

    def staged(self, scope: Scope, release: str) -> Release:
        """One release with its present stage; raises ``NotFoundError``. Read from the catalog each time."""
        return self._releases.get(scope, release)

    def forget(self) -> None:
        """Ask the catalog at the next request, for a process that moved the pointer itself."""
        self._leases.forget()

    def _leased(self, scope: Scope, application: str) -> LeasedState:
        leased = self._leases.look((scope, application), partial(self._read, scope, application))
        assert leased is not None
        return leased

    def _read(self, scope: Scope, application: str) -> LeasedState:
        if self._rollouts is None:
            return LeasedState(self._releases.live(scope, application), None, None)
        state = self._rollouts.routing_state(scope, application)
        # A bundle is decoded once: a renewal reads ids, and the releases behind them never change.
        live = None if state.live is None else self.get(scope, state.live)
        candidate = None if state.rollout is None else self.get(scope, state.rollout.candidate)
        return LeasedState(live, state.rollout, candidate)
