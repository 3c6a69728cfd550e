"""Applications that answer from store alone for a time, as people and playbooks order it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from antiphon.catalog.serving.precomputed_modes import PrecomputedMode, PrecomputedModes
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.core.leases import Leases
from antiphon.core.reasons import require_text
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.services.project.store import Store

LONGEST = timedelta(days=7)
"""The mode lasts so long at most: one that is forgotten ends."""

LEASE_SECONDS, _BOUND_SECONDS = 1.0, 30.0
_MOST_REMEMBERED = 1_000


class ProjectPrecomputedModes:
    """Applications of a scope that answer from store alone. Each change is on record in its own transaction."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._modes = PrecomputedModes(store.database)

    def list(self) -> tuple[PrecomputedMode, ...]:
        """Those that do now, by name."""
        return self._modes.list(self._scope)

    def began(self, mode: PrecomputedMode) -> datetime | None:
        """The moment at which a mode began, by the audit log."""
        return self._store.audit.last_at(self._scope, "precomputed.begin", mode.application)

    def require_free(
        self, application: str, principal: str, reason: str, *, within: Connection | None = None
    ) -> PrecomputedMode | None:
        """The mode that this principal began for this reason, if it lasts.

        Raises:
            NotFoundError: the application has no live release. ConflictError: somebody else began it, or for another
                reason.
        """
        live = self._store.releases.applications(self._scope, within=within)
        if application not in live:
            raise NotFoundError(
                f"No release of {application!r} is live.",
                where=application,
                next_step=nearest(application, live, "`antiphon releases list` shows them."),
            )
        known = self._modes.find(self._scope, application, within=within)
        if known is not None and (known.principal, known.reason) != (principal, reason):
            raise ConflictError(
                f"{known.principal} has {application} answer from store alone: {known.reason}",
                where=application,
                next_step=f"`antiphon precomputed end {application} --reason TEXT` ends that.",
            )
        return known

    def begin(self, principal: str, application: str, reason: str, duration: str) -> PrecomputedMode:
        """Have an application answer from store alone for a time; raises as :meth:`require_free`, and
        ``InvalidInputError`` for no reason, no duration, or one that is too long."""
        store = self._store
        require_text(reason)
        if (length := parse_duration(duration)) > LONGEST:
            raise InvalidInputError(
                f"An application answers from store alone for {LONGEST.days} days at most.",
                where="duration",
                next_step="Begin it again after them.",
            )
        with store.database.transaction() as connection:
            known = self.require_free(application, principal, reason, within=connection)
            if known is not None:
                return known
            mode = PrecomputedMode(application, principal, reason, store.database.clock.now() + length)
            self._modes.put(self._scope, mode, within=connection)
            detail = {"reason": reason, "until": mode.until.isoformat()}
            store.audit.append(self._scope, principal, "precomputed.begin", application, detail, within=connection)
        return mode

    def end(
        self, principal: str, application: str, reason: str, *, of: tuple[str, str] | None = None
    ) -> PrecomputedMode | None:
        """Have an application answer as ever; ``None`` where it does.

        Args:
            of: end the mode of this principal for this reason alone.

        Raises:
            InvalidInputError: no reason.
        """
        store = self._store
        require_text(reason)
        with store.database.transaction() as connection:
            known = self._modes.find(self._scope, application, within=connection)
            if known is None or (of is not None and of != (known.principal, known.reason)):
                return None
            self._modes.end(self._scope, known, within=connection)
            store.audit.append(
                self._scope, principal, "precomputed.end", application, {"reason": reason}, within=connection
            )
        return known


def precomputed_modes(store: Store) -> Callable[[Scope, str], PrecomputedMode | None]:
    """The mode of an application as a process that answers knows it: read once a second at most. While the catalog is
    away it is as it was last, for half a minute; then none."""
    modes, clock = PrecomputedModes(store.database), store.database.clock
    leases = Leases[tuple[Scope, str], tuple[PrecomputedMode, ...]](
        clock, seconds=LEASE_SECONDS, bound=_BOUND_SECONDS, most=_MOST_REMEMBERED, renewer=store.renewer
    )

    def read(scope: Scope, application: str) -> tuple[PrecomputedMode, ...]:
        found = modes.find(scope, application)
        return () if found is None else (found,)

    def mode(scope: Scope, application: str) -> PrecomputedMode | None:
        try:
            found = leases.look((scope, application), lambda: read(scope, application)) or ()
        except UnavailableError:
            return None
        return next((one for one in found if one.until > clock.now()), None)

    return mode
