"""Runs of playbooks: which playbook met which incident, who let it act, and what it did; and permissions to act alone.

Invariants:
- A playbook has one run for an incident: the run's id is made of both.
- A state is left by whoever reads and writes it in one transaction, so that two people who decide at once decide once.
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
from antiphon.definitions.playbooks import PlaybookAction, PlaybookEnd, PlaybookStep

PlaybookRunState = Literal[
    "suggested", "waiting", "ordered", "done", "stopped", "failed", "ending", "ended", "rejected", "expired"
]
"""``suggested``: a person may begin it. ``waiting``: for an approval. ``ordered``: its steps are taken. ``done``: they
are, and some are undone once the incident is resolved. ``stopped``: nothing was left to be done. ``failed``: a step
failed, and what could be undone is. ``ending``: what is undone at the end is being undone. ``ended``: it is over.
``expired``: the incident was resolved before anybody decided."""

OPEN: tuple[PlaybookRunState, ...] = ("suggested", "waiting", "ordered", "done", "ending")
"""States that are left without a person, or by one."""

ACTED: tuple[PlaybookRunState, ...] = ("ordered", "done", "stopped", "failed", "ending", "ended")

KEPT_FOR = timedelta(days=400)

_runs, _permissions = schema.playbook_runs, schema.playbook_permissions


class PlannedStep(msgspec.Struct, frozen=True):
    """A step about one target: a component, a run, or none."""

    number: int
    step: PlaybookStep
    target: str = ""

    @property
    def label(self) -> str:
        """Its name within the run."""
        return f"{self.number} {self.step.action} {self.target}".strip()


class StepOutcome(msgspec.Struct, frozen=True):
    """A step that was taken, or undone (``undo``)."""

    number: int
    action: PlaybookAction
    target: str
    at: datetime
    sentence: str
    undo: bool = False


class PlaybookRun(msgspec.Struct, frozen=True):
    """A playbook's run for one incident.

    Attributes:
        plan: the steps with their targets, as they were when the playbook met the incident.
        cause: the sentence that says why it fits.
        decided_by: who let it act or rejected it: a person, or the playbook itself; ``reason`` is theirs.
        run: of its steps; ``ending_run`` of what is undone at the end.
        problem: why it stopped or failed.
    """

    id: str
    playbook: str
    incident: str
    state: PlaybookRunState
    plan: tuple[PlannedStep, ...]
    cause: str
    created_at: datetime
    updated_at: datetime
    decided_by: str = ""
    reason: str = ""
    run: str | None = None
    ending_run: str | None = None
    outcomes: tuple[StepOutcome, ...] = ()
    problem: str = ""

    @property
    def active(self) -> bool:
        """True while its state will change, or a person may decide."""
        if self.state == "done":
            return any(one.step.undone == "at_end" for one in self.plan)
        return self.state in OPEN

    @property
    def end(self) -> PlaybookEnd | None:
        """The end of its steps; ``None`` while they go on, and where they never began."""
        if self.state == "failed":
            return "failed"
        return "mended" if self.state in ("done", "stopped", "ending", "ended") else None

    @property
    def targets(self) -> frozenset[str]:
        """Components and runs that its steps are about."""
        return frozenset(one.target for one in self.plan)


class PlaybookPermission(msgspec.Struct, frozen=True):
    """An administrator's word that a playbook may act alone, or must not (``alone`` false), whatever its backtest."""

    playbook: str
    alone: bool
    principal: str
    reason: str
    at: datetime


def run_id(incident: str, playbook: str) -> str:
    """The id of a playbook's run for an incident."""
    return f"{incident}.{playbook}"


def incident_of(run: str) -> str:
    """The incident of a run, by its id."""
    return run.partition(".")[0]


class PlaybookRuns:
    """Repository of the runs of each scope's playbooks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = SealedRows(database, "playbook_runs.document", PlaybookRun)

    def put(self, scope: Scope, run: PlaybookRun, *, within: Connection) -> None:
        """Write a run, new or again."""
        row = self._rows.row(run, scope)
        statement = upsert(_runs).values(row)
        within.execute(statement.on_conflict_replace("state", "active", "updated_at", "document"))

    def find(self, scope: Scope, run: str, *, within: Connection | None = None) -> PlaybookRun | None:
        """The run of this id, if there is one."""
        return self._rows.get(scope, run, within=within)

    def get(self, scope: Scope, run: str, *, within: Connection | None = None) -> PlaybookRun:
        """One run.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._rows.require(scope, run, "playbook run", "`antiphon playbooks runs` shows them.", within=within)

    def active(self, scope: Scope, *, within: Connection | None = None) -> builtins.list[PlaybookRun]:
        """Runs whose state will change, the oldest first."""
        order = (_runs.c.created_at, _runs.c.id)
        return self._rows.find(scope, _runs.c.active.is_(True), order=order, within=within)

    def list(
        self,
        scope: Scope,
        *,
        playbook: str | None = None,
        incident: str | None = None,
        since: datetime | None = None,
        limit: int | None = 50,
        within: Connection | None = None,
    ) -> builtins.list[PlaybookRun]:
        """Runs, the latest first; ``since``: those that changed since then."""
        conditions = schema.given(_runs, playbook=playbook, incident=incident)
        if since is not None:
            conditions.append(_runs.c.updated_at >= since)
        order = (_runs.c.created_at.desc(), _runs.c.id.desc())
        return self._rows.find(scope, *conditions, order=order, limit=limit, within=within)

    def prune(self, scope: Scope) -> int:
        """Forget what is long over; how many."""
        old = self._database.clock.now() - KEPT_FOR
        with self._database.transaction() as connection:
            over = schema.owned(_runs, scope) & _runs.c.active.is_(False) & (_runs.c.updated_at < old)
            return int(connection.execute(delete(_runs).where(over)).rowcount)


class PlaybookPermissions:
    """Repository of the permissions of each scope's playbooks."""

    def __init__(self, database: Database) -> None:
        self._rows = SealedRows(database, "playbook_permissions.document", PlaybookPermission)

    def put(self, scope: Scope, permission: PlaybookPermission, *, within: Connection) -> None:
        """Write a permission in the place of the one before."""
        row = self._rows.row(permission, scope, created_at=permission.at)
        within.execute(upsert(_permissions).values(row).on_conflict_replace())

    def all(self, scope: Scope, *, within: Connection | None = None) -> dict[str, PlaybookPermission]:
        """The permissions by playbook."""
        return {one.playbook: one for one in self._rows.find(scope, within=within)}
