"""Verdicts: what the gates said about every snapshot that was made, published or not; and snapshots that wait.

Invariant: a blocked snapshot has a verdict and no manifest among the snapshots, so no publication can name it.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.rows import SealedRows, row_of, value_of
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope

_STILL_ASIDE = (schema.verdicts.c.kept_aside.is_not(None), schema.verdicts.c.rows_expired_at.is_(None))
"""The condition that a verdict's rows were kept aside and have not expired."""


class GateFinding(msgspec.Struct, frozen=True):
    """One thing a rule found; ``action`` is what it does about it."""

    rule: str
    action: Literal["block", "quarantine", "warn"]
    reason: str


class Verdict(msgspec.Struct, frozen=True):
    """Verdict of the gates on one attempt to make a view anew.

    Attributes:
        outcome: ``passed``; ``warned``: passed, with findings; ``blocked``: the snapshot before stays.
        snapshot, manifest: what was made; ``None`` when the source could not even be read.
        kept: the snapshot that stayed current when it was blocked.
    """

    id: str
    scope: Scope
    view: str
    definition_version: str
    outcome: Literal["passed", "warned", "blocked"]
    findings: tuple[GateFinding, ...]
    snapshot: str | None
    manifest: SnapshotManifest | None
    run: str | None
    principal: str
    reason: str
    created_at: datetime
    kept: str | None = None

    @property
    def key(self) -> str:
        """``view@definition_version``."""
        return f"{self.view}@{self.definition_version}"

    @property
    def kept_aside(self) -> str | None:
        """The lake's file with the rows that were quarantined."""
        if self.manifest is None or self.manifest.quarantined is None:
            return None
        return self.manifest.quarantined.file.path


def verdict_id(run: str, key: str) -> str:
    """One a run and view, so that a step that is done again changes nothing."""
    return f"verd_{content_hash([run, key])[:26]}"


class Verdicts:
    """Repository of verdicts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "verdicts.document", Verdict)

    def add(self, verdict: Verdict, *, within: Connection | None = None) -> None:
        """Record a verdict; one of the same id that is there already stays as it is."""
        statement = upsert(schema.verdicts).values(self._documents.row(verdict))
        with self._database.writing(within) as connection:
            connection.execute(statement.on_conflict_do_nothing())

    def list(
        self, scope: Scope, view: str | None = None, definition_version: str | None = None, *, limit: int = 50
    ) -> list[Verdict]:
        """Verdicts, latest first."""
        table = schema.verdicts
        conditions = schema.given(table, view=view, definition_version=definition_version)
        order = (table.c.created_at.desc(), table.c.id.desc())
        return self._documents.find(scope, *conditions, order=order, limit=limit)

    def get(self, scope: Scope, verdict: str) -> Verdict:
        """One verdict.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._documents.require(scope, verdict, "verdict", "See `antiphon features history`.")

    def latest(self, scope: Scope, view: str, definition_version: str) -> Verdict | None:
        """The last verdict about a view, ``None`` before the first."""
        found = self.list(scope, view, definition_version, limit=1)
        return found[0] if found else None

    def expiring(self, scope: Scope, before: datetime) -> builtins.list[tuple[str, str, datetime]]:
        """Verdicts from before this moment that still have rows aside: id, view and when it was."""
        table = schema.verdicts
        statement = select(table.c.id, table.c.view, table.c.created_at).where(
            schema.owned(table, scope), *_STILL_ASIDE, table.c.created_at < before
        )
        rows = self._database.rows(statement.order_by(table.c.created_at, table.c.id))
        return [(row.id, row.view, row.created_at) for row in rows]

    def expire(self, scope: Scope, verdicts: Collection[str]) -> None:
        """The rows that they tell of are given up; how many there were, and why, stays."""
        table = schema.verdicts
        now = self._database.clock.now()
        with self._database.transaction() as connection:
            for verdict in verdicts:
                connection.execute(
                    update(table)
                    .where(schema.owned(table, scope, id=verdict), table.c.rows_expired_at.is_(None))
                    .values(rows_expired_at=now)
                )

    def expired_at(self, scope: Scope, verdict: str) -> datetime | None:
        """Returns the time at which its rows were removed; ``None`` while they are there, or when there never were
        any."""
        table = schema.verdicts
        at: datetime | None = self._database.scalar(
            select(table.c.rows_expired_at).where(schema.owned(table, scope, id=verdict))
        )
        return at

    def files(self, scope: Scope) -> builtins.list[str]:
        """Files of the lake with rows that were kept aside, of blocked snapshots as well, until they expire; no
        collection removes them."""
        table = schema.verdicts
        rows = self._database.rows(select(table.c.kept_aside).where(schema.owned(table, scope), *_STILL_ASIDE))
        return [str(row.kept_aside) for row in rows]


class StagedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot that passed its gates and is published at ``publish_at`` or later."""

    scope: Scope
    view: str
    definition_version: str
    snapshot: str
    publish_at: datetime
    reason: str
    principal: str


class StagedSnapshots:
    """Repository of snapshots that wait for the end of an embargo."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, staged: StagedSnapshot) -> None:
        """Let a snapshot wait; one that waits already keeps its moment."""
        statement = upsert(schema.staged_snapshots).values(row_of(schema.staged_snapshots, staged))
        with self._database.transaction() as connection:
            connection.execute(statement.on_conflict_do_nothing())
            self._database.ring("features", staged.scope)

    def list(self, scope: Scope, due_by: datetime | None = None) -> list[StagedSnapshot]:
        """Returns the snapshots that wait, or those that are due, the earliest first."""
        table = schema.staged_snapshots
        statement = select(table).where(schema.owned(table, scope)).order_by(table.c.publish_at, table.c.snapshot)
        if due_by is not None:
            statement = statement.where(table.c.publish_at <= due_by)
        return [value_of(StagedSnapshot, row) for row in self._database.rows(statement)]

    def due_in(self, scope: Scope) -> float | None:
        """Seconds until the earliest of them is due, 0 when it is; ``None`` while none waits."""
        table = schema.staged_snapshots
        statement = select(func.min(table.c.publish_at)).where(schema.owned(table, scope))
        earliest: datetime | None = self._database.scalar(statement)
        if earliest is None:
            return None
        return max((earliest - self._database.clock.now()).total_seconds(), 0.0)

    def remove(self, scope: Scope, snapshot: str) -> None:
        """It is published, or withdrawn."""
        table = schema.staged_snapshots
        self._database.write(delete(table).where(schema.owned(table, scope, snapshot=snapshot)))
