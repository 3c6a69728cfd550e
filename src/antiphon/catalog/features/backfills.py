"""Backfills: what each of their partitions came to, and the snapshots that they keep apart from what is served.

A partition is a view as of a moment. Invariant: the snapshot of one is marked as backfilled until it is promoted, so no
publication can name it and no gate of a refresh compares with it; while the partition is kept its files are.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import and_, delete, exists, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.features.verdicts import GateFinding, Verdict
from antiphon.catalog.rows import SealedRows
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope

_table, _snapshots = schema.backfill_partitions, schema.snapshots


class BackfillPartition(msgspec.Struct, frozen=True):
    """One view as of one moment, as a backfill computed it.

    Attributes:
        run: the backfill.
        outcome: of the gates, beside the partitions before: ``blocked``: its snapshot is not kept.
        snapshot: ``None`` for a blocked one; ``logical_hash`` of the values in any case.
        null_shares: of each feature, from 0 to 1.
        shifts: of each feature that can be compared, the population stability index against the partition before.
        bytes: of its files as stored.
        seconds: that it took.
    """

    id: str
    scope: Scope
    run: str
    view: str
    definition_version: str
    as_of: datetime
    outcome: Literal["passed", "warned", "blocked"]
    findings: tuple[GateFinding, ...]
    snapshot: str | None
    logical_hash: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    null_shares: dict[str, float]
    shifts: dict[str, float]
    bytes: int
    seconds: float
    principal: str
    reason: str
    created_at: datetime

    @property
    def key(self) -> str:
        """``view@definition_version``."""
        return f"{self.view}@{self.definition_version}"


def partition_id(run: str, key: str, as_of: datetime) -> str:
    """One a run, view and moment, so that a step that is done again changes nothing."""
    return f"part_{content_hash([run, key, as_of])[:26]}"


class Backfills:
    """Repository of the partitions of backfills."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "backfill_partitions.document", BackfillPartition)

    def add(self, partition: BackfillPartition, *, within: Connection) -> None:
        """Record a partition; one of the same id that is there already stays as it is."""
        statement = upsert(_table).values(self._documents.row(partition))
        within.execute(statement.on_conflict_do_nothing())

    def list(self, scope: Scope, run: str, *, within: Connection | None = None) -> list[BackfillPartition]:
        """The partitions of a backfill that are kept, the earliest moment first."""
        order = (_table.c.as_of, _table.c.view, _table.c.definition_version)
        return self._documents.find(scope, _table.c.run == run, order=order, within=within)

    def of_snapshot(self, scope: Scope, snapshot: str) -> BackfillPartition | None:
        """The partition that keeps a snapshot, the one made last of several."""
        order = (_table.c.created_at.desc(), _table.c.id)
        found = self._documents.find(scope, _table.c.snapshot == snapshot, order=order, limit=1)
        return found[0] if found else None

    def snapshots(self, scope: Scope) -> dict[str, str]:
        """Every snapshot that a partition keeps, with the backfill."""
        statement = select(_table.c.snapshot, _table.c.run).where(
            schema.owned(_table, scope), _table.c.snapshot.is_not(None)
        )
        return {row.snapshot: row.run for row in self._database.rows(statement)}

    def discard(self, scope: Scope, run: str, *, within: Connection) -> None:
        """Forget the partitions of a backfill; the files of snapshots that nothing else needs are garbage then. What
        was promoted of it stays."""
        own = and_(schema.owned(_table, scope), _table.c.run == run)
        named = list(
            within.execute(select(_table.c.snapshot).where(own, _table.c.snapshot.is_not(None)).distinct()).scalars()
        )
        within.execute(delete(_table).where(own))
        kept = exists().where(schema.owned(_table, scope), _table.c.snapshot == _snapshots.c.id)
        for snapshot in named:
            mine = schema.owned(_snapshots, scope, id=snapshot)
            free = and_(mine, _snapshots.c.backfilled.is_(True), _snapshots.c.pruned_at.is_(None), ~kept)
            within.execute(update(_snapshots).where(free).values(pruned_at=self._database.clock.now()))


def verdict_of(partition: BackfillPartition, verdict: str) -> Verdict:
    """A partition as a verdict of this id, without its manifest."""
    return Verdict(
        id=verdict,
        scope=partition.scope,
        view=partition.view,
        definition_version=partition.definition_version,
        outcome=partition.outcome,
        findings=partition.findings,
        snapshot=partition.snapshot,
        manifest=None,
        run=partition.run,
        principal=partition.principal,
        reason=partition.reason,
        created_at=partition.created_at,
    )
