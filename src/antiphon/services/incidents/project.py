"""The incidents of one tenant, as commands, HTTP and pages read and move them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from antiphon.catalog.incidents import Incident, IncidentState
from antiphon.catalog.playbooks import PlaybookRun
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.reasons import require_text
from antiphon.core.scope import Scope
from antiphon.operations.incidents import course
from antiphon.operations.incidents.post_mortem import post_mortem
from antiphon.services.incidents.readable import IncidentReader
from antiphon.services.project.store import Store


class ProjectIncidents:
    """The incidents of a scope. Each move is recorded in its timeline, and in the audit log in one transaction.

    Args:
        reader: the one whom they are shown to; without one all of them are shown as they are.
    """

    def __init__(self, store: Store, scope: Scope, reader: IncidentReader | None = None) -> None:
        self._store = store
        self._scope = scope
        self._reader = reader

    def of_reader(self, may_read: Callable[[str], bool]) -> ProjectIncidents:
        """The same for somebody who may read these applications alone: others are not named, and incidents that are
        about others alone are not there."""
        applications = self._store.releases.applications(self._scope)
        return ProjectIncidents(self._store, self._scope, IncidentReader(may_read, applications))

    def list(self, *, state: IncidentState | None = None, all: bool = True, limit: int = 50) -> tuple[Incident, ...]:
        """Incidents, the latest first; without ``all`` those alone that are not resolved."""
        if not all and state is None:
            return self._shown(reversed(self._store.incidents.active(self._scope)))[:limit]
        most = limit
        while True:  # What is hidden makes no page shorter.
            found = self._store.incidents.list(self._scope, state=state, limit=most)
            shown = self._shown(found)
            if len(shown) >= limit or len(found) < most:
                return shown[:limit]
            most *= 2

    def get(self, incident: str) -> Incident:
        """One incident.

        Raises:
            NotFoundError: there is none of this id for the reader.
        """
        return self._require_shown(self._store.incidents.get(self._scope, incident))

    def require(self, incident: str) -> ProjectIncidents:
        """These incidents, once the reader is known to may read one; raises as :meth:`get`."""
        self.get(incident)
        return self

    def said(self, text: str) -> str:
        """A text about an incident, as the reader may read it."""
        return text if self._reader is None else self._reader.said(text)

    def acted(self, runs: Iterable[PlaybookRun]) -> tuple[PlaybookRun, ...]:
        """Runs of playbooks for incidents that the reader may read, as they may read them."""
        if self._reader is None:
            return tuple(runs)
        found: dict[str, bool] = {}
        shown = []
        for run in runs:
            if run.incident not in found:
                try:
                    found[run.incident] = bool(self._shown([self._store.incidents.get(self._scope, run.incident)]))
                except NotFoundError:  # Kept no longer.
                    found[run.incident] = True
            if found[run.incident]:
                shown.append(self._reader.acted(run))
        return tuple(shown)

    def report(self, incident: str) -> str:
        """The draft of a post-mortem, as Markdown; raises as :meth:`get`."""
        return post_mortem(self.get(incident))

    def acknowledge(self, incident: str, principal: str) -> Incident:
        """Take an incident; raises ``ConflictError`` for one that is resolved, and as :meth:`get`."""
        return self._move(incident, principal, lambda one, now: course.acknowledge(one, principal, now))

    def assign(self, incident: str, owner: str, principal: str) -> Incident:
        """Give it to an owner."""
        require_text(owner, "owner")
        return self._move(incident, principal, lambda one, now: course.assign(one, owner, principal, now))

    def note(self, incident: str, text: str, principal: str) -> Incident:
        """Add a note."""
        require_text(text, "text")
        return self._move(incident, principal, lambda one, now: course.note(one, text, principal, now))

    def silence(self, incident: str, span: str, reason: str, principal: str) -> Incident:
        """Say nothing of it for a span such as ``2h``."""
        require_text(reason)
        length = parse_duration(span)
        if not 60 <= length.total_seconds() <= 7 * 86_400:
            raise InvalidInputError(f"{span} is no span of a silence.", where="for", next_step="Choose 1m up to 7d.")
        return self._move(
            incident, principal, lambda one, now: course.silence(one, now + length, reason, principal, now)
        )

    def resolve(self, incident: str, reason: str, principal: str) -> Incident:
        """End it."""
        require_text(reason)
        return self._move(incident, principal, lambda one, now: course.resolve(one, reason, principal, now))

    def _move(self, incident: str, principal: str, change: Callable[[Incident, datetime], Incident]) -> Incident:
        store = self._store
        with store.database.transaction() as connection:
            now = store.database.clock.now()
            found = store.incidents.get(self._scope, incident, within=connection)
            self._require_shown(found)
            moved = change(found, now)
            store.incidents.put(self._scope, moved, within=connection)
            act = moved.timeline[-1]
            store.audit.append(
                self._scope, principal, f"incident.{act.kind}", f"incident/{incident}", {"reason": act.text},
                within=connection,
            )  # fmt: skip
        return self._require_shown(moved)

    def _shown(self, found: Iterable[Incident]) -> tuple[Incident, ...]:
        if self._reader is None:
            return tuple(found)
        return tuple(shown for one in found if (shown := self._reader.shown(one)) is not None)

    def _require_shown(self, found: Incident) -> Incident:
        for shown in self._shown([found]):
            return shown
        raise NotFoundError(
            f"There is no incident {found.id!r}.", where=found.id,
            next_step="`antiphon incidents list --all` shows them.",
        )  # fmt: skip
