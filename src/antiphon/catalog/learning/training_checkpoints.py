"""Checkpoints of runs that train: which steps were kept, and the files of the lake that hold them.

Invariant: rows are written within the transaction that makes sure of the run's holder, so that a worker that lost its
run cannot put an older checkpoint in the place of a newer one.
"""

from __future__ import annotations

import builtins
from datetime import datetime

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.scope import Scope

KEPT = 2
"""The newest one, and one to go back to when it cannot be read."""

_table = schema.training_checkpoints
_put = upsert(_table).on_conflict_replace()


class TrainingCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint of a run after so many steps: the identity of what is trained, and the SHA-256 and size of the
    content in the lake."""

    scope: Scope
    run: str
    step: int
    identity: str
    sha256: str
    size: int
    created_at: datetime


class TrainingCheckpoints:
    """Repository of the checkpoints of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, scope: Scope, run: str | None = None, *, within: Connection | None = None
    ) -> builtins.list[TrainingCheckpoint]:
        """The checkpoints of a run, or of every run of a scope, the latest step first."""
        statement = select(_table).where(schema.owned(_table, scope), *schema.given(_table, run=run))
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(_table.c.run, _table.c.step.desc()))
            return [value_of(TrainingCheckpoint, row) for row in rows]

    def add(self, checkpoint: TrainingCheckpoint, *, within: Connection) -> builtins.list[TrainingCheckpoint]:
        """Record a checkpoint and forget all but the latest; returns those whose files nothing names any more."""
        before = self.list(checkpoint.scope, checkpoint.run, within=within)
        within.execute(_put.values(row_of(_table, checkpoint)))
        for old in self.list(checkpoint.scope, checkpoint.run, within=within)[KEPT:]:
            self.remove(checkpoint.scope, checkpoint.run, old.step, within=within)
        named = {one.sha256 for one in self.list(checkpoint.scope, checkpoint.run, within=within)}
        return [one for one in before if one.sha256 not in named]

    def remove(self, scope: Scope, run: str, step: int | None = None, *, within: Connection | None = None) -> None:
        """Forget the checkpoint of a step, or all of a run."""
        gone = schema.owned(_table, scope, run=run)
        self._database.write(delete(_table).where(gone, *schema.given(_table, step=step)), within)
