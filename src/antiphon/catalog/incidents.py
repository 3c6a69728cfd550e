"""Incidents: what did not work, by what cause and on which evidence, and what people did about it.

Invariants:
- An incident is read and written in one transaction, so two processes that assess at once open it once.
- A timeline only grows, up to :data:`MOST_ENTRIES`; what is beyond is said by its last entry.
"""

from __future__ import annotations

import builtins
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import delete
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import SealedRows
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import Severity
from antiphon.definitions.playbooks import IncidentClass as IncidentClass

IncidentState = Literal["open", "acknowledged", "mitigated", "resolved", "silenced"]

NO_CAUSE: IncidentClass = "no cause found"

MOST_ENTRIES = 300
KEPT_FOR = timedelta(days=400)
"""For so long an incident that is resolved is kept."""

_table = schema.incidents


class IncidentEvidence(msgspec.Struct, frozen=True):
    """One thing that a claim rests on, and where a person opens it.

    Attributes:
        measure, where: of the history, such as ``antiphon_requests`` and ``application=desk``.
        record: of the catalog, such as ``run/run_…``.
    """

    component: str
    signal: str
    sentence: str
    since: datetime
    measure: str = ""
    where: str = ""
    record: str = ""


class IncidentSymptom(msgspec.Struct, frozen=True):
    """A symptom within an incident; ``until`` is unset while it lasts."""

    signal: str
    component: str
    since: datetime
    evidence: IncidentEvidence
    until: datetime | None = None


class RootCause(msgspec.Struct, frozen=True):
    """One cause of the root set.

    Attributes:
        paths: for each component that it explains, the components from the cause to it.
    """

    component: str
    class_: IncidentClass
    evidence: tuple[IncidentEvidence, ...]
    paths: tuple[tuple[str, ...], ...] = ()


class TimelineEntry(msgspec.Struct, frozen=True):
    """One thing that happened, of the platform or of a ``principal``; a ``cause`` with its component and class."""

    at: datetime
    kind: str
    text: str
    principal: str = ""
    component: str = ""
    class_: IncidentClass | None = None


class Incident(msgspec.Struct, frozen=True):
    """An incident as it stands.

    Attributes:
        considered: causes for which there was evidence that did not suffice, as sentences.
        requests, hit: requests of users while it lasted, and how many of them it hit.
        silenced_until: nothing is said of it until then.
        normal_since: since when no symptom lasts.
    """

    id: str
    state: IncidentState
    severity: Severity
    class_: IncidentClass
    title: str
    opened_at: datetime
    updated_at: datetime
    roots: tuple[RootCause, ...] = ()
    symptoms: tuple[IncidentSymptom, ...] = ()
    considered: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    requests: float = 0.0
    hit: float = 0.0
    owner: str = ""
    silenced_until: datetime | None = None
    normal_since: datetime | None = None
    resolved_at: datetime | None = None
    reopened: int = 0
    timeline: tuple[TimelineEntry, ...] = ()

    @property
    def active(self) -> bool:
        """True until it is resolved."""
        return self.state != "resolved"

    @property
    def lasting(self) -> tuple[IncidentSymptom, ...]:
        """Symptoms that are not over."""
        return tuple(one for one in self.symptoms if one.until is None)

    @property
    def present(self) -> tuple[IncidentSymptom, ...]:
        """Symptoms by which it goes on. The alert of a budget outlasts by far what burnt it, so it counts only while
        something else lasts, where there was nothing else, and if it began afterwards."""
        others = [one for one in self.symptoms if one.signal != "burning"]
        over = [one.until for one in others if one.until is not None]
        if not others or len(over) < len(others):
            return self.lasting
        return tuple(one for one in self.lasting if one.since > max(over))


class Incidents:
    """Repository of the incidents of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = SealedRows(database, "incidents.document", Incident)

    def put(self, scope: Scope, incident: Incident, *, within: Connection) -> None:
        """Write an incident, new or again."""
        cut = incident
        if len(incident.timeline) > MOST_ENTRIES:
            over = len(incident.timeline) - MOST_ENTRIES + 1
            last = TimelineEntry(incident.updated_at, "cut", f"{over} later entries are not kept.")
            cut = msgspec.structs.replace(incident, timeline=(*incident.timeline[: MOST_ENTRIES - 1], last))
        row = self._rows.row(cut, scope, active=cut.active, created_at=cut.opened_at)
        statement = upsert(_table).values(row)
        within.execute(statement.on_conflict_replace("state", "severity", "active", "updated_at", "document"))

    def get(self, scope: Scope, incident: str, *, within: Connection | None = None) -> Incident:
        """One incident.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._rows.require(
            scope, incident, "incident", "`antiphon incidents list --all` shows them.", within=within
        )

    def active(self, scope: Scope, *, within: Connection | None = None) -> builtins.list[Incident]:
        """Incidents that are not resolved, the oldest first."""
        order = (_table.c.opened_at, _table.c.id)
        return self._rows.find(scope, _table.c.active.is_(True), order=order, within=within)

    def list(
        self,
        scope: Scope,
        *,
        state: IncidentState | None = None,
        since: datetime | None = None,
        limit: int = 50,
        within: Connection | None = None,
    ) -> builtins.list[Incident]:
        """Incidents, the latest first; ``since``: those that changed since then."""
        conditions = schema.given(_table, state=state)
        if since is not None:
            conditions.append(_table.c.updated_at >= since)
        order = (_table.c.opened_at.desc(), _table.c.id.desc())
        return self._rows.find(scope, *conditions, order=order, limit=limit, within=within)

    def applications(self, scope: Scope, *, within: Connection | None = None) -> frozenset[str]:
        """Applications that an incident which is not resolved is about."""
        return frozenset(name for one in self.active(scope, within=within) for name in one.applications)

    def prune(self, scope: Scope) -> int:
        """Forget what was resolved long ago; how many."""
        old = self._database.clock.now() - KEPT_FOR
        with self._database.transaction() as connection:
            gone = connection.execute(
                delete(_table).where(schema.owned(_table, scope), _table.c.active.is_(False), _table.c.updated_at < old)
            )
            return int(gone.rowcount)
