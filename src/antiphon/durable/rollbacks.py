"""Rollbacks: the recorded steps of a run that failed for good, or was canceled, are undone in reverse order.

Invariants:
- A run that has steps to undo does not end before they are undone: in the transaction that would have ended it, it is
  queued again to be rolled back, and keeps what it would have ended with in the record :data:`ROLL_BACK`.
- A step is undone at least once, after every step that ended after it, and the record of that says so. What has no
  record is not undone.
- How a step is undone is found by calling the workflow again: its recorded steps return their results, those that it
  went on past fail as they did, nothing else is done, and each says by what function it is undone.
- A rollback that fails for good is a dead letter, and goes on from where it was.

The compensations of sagas: Garcia-Molina and Salem, "Sagas", SIGMOD 1987.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.workflows import RollbackPolicy
from antiphon.durable.run import ERROR, RollbackEnd, Run, StepRecord, step_row

_runs, _steps = schema.runs, schema.steps

ROLL_BACK, UNDO, FAILURE_OF = "roll back", "undo ", "failure of "
"""The name of the record that a rollback begins with; and what stands before a step's name in that of its undoing, and
of a failure that the workflow went on past."""

EXEMPTED_BY = "its rollback"
"""Stands for a person who lets a run go past freezes and windows: what is half done would stay so until they end."""

_POLICIES: Mapping[RollbackEnd, tuple[RollbackPolicy, ...]] = {
    "failed": ("always", "on_failure"),
    "cancelled": ("always", "on_cancel"),
}
"""Of the end of a run the policies of steps that are undone then."""


class Rollback(msgspec.Struct, frozen=True):
    """A run's rollback.

    Attributes:
        ends: how the run ends, or ended, after it. ``error``: that it failed with before.
        undone: names of steps that were undone, in the order in which they were; ``left`` of those that are not yet.
    """

    ends: RollbackEnd
    error: str | None
    undone: tuple[str, ...]
    left: tuple[str, ...]


def begin_rollback(
    database: Database, run: Row[Any] | Run, ends: RollbackEnd, error: str | None, at: datetime, within: Connection
) -> dict[str, Any] | None:
    """The columns of a run that is rolled back before it ends; ``None`` where it has nothing to undo. What it would
    have ended with is recorded."""
    scope = run.scope if isinstance(run, Run) else Scope(run.tenant, run.environment)
    undoable = schema.owned(_steps, scope, run=run.id) & _steps.c.undo.in_(_POLICIES[ends])
    if run.rollback is not None or within.execute(select(_steps.c.name).where(undoable).limit(1)).first() is None:
        return None
    record = StepRecord(ROLL_BACK, 0, run.epoch, {"ends": ends, "error": error}, at, at)
    within.execute(insert(_steps).values(step_row(database, scope, run.id, record)))
    sealed = None if error is None else database.seal_text(scope, ERROR, run.id, error)
    return {
        "status": "queued", "rollback": ends, "error": sealed, "attempts": 0, "not_before": at, "ended_at": None,
        "cancel_requested": False, "exempted_by": run.exempted_by or EXEMPTED_BY,
    }  # fmt: skip


def left_to_undo(steps: Sequence[StepRecord]) -> tuple[StepRecord, ...]:
    """The records of steps that are to be undone and are not yet, in that order.

    Args:
        steps: of a run that is rolled back, in the order in which they ended.
    """
    begun = _begun(steps)
    if begun is None:
        return ()
    done = {(one.name, one.occurrence) for one in steps}
    undoable = [one for one in steps if one.undo in _POLICIES[begun["ends"]]]
    return tuple(one for one in reversed(undoable) if (UNDO + one.name, one.occurrence) not in done)


def rollback_of(steps: Sequence[StepRecord]) -> Rollback | None:
    """The rollback of a run, read from its records in the order in which they ended; ``None`` where there was none."""
    begun = _begun(steps)
    if begun is None:
        return None
    undone = tuple(one.name.removeprefix(UNDO) for one in steps if one.name.startswith(UNDO))
    return Rollback(begun["ends"], begun["error"], undone, tuple(one.name for one in left_to_undo(steps)))


def is_of_rollback(step: str) -> bool:
    """Tells whether the record of this name is a rollback's, and no step's."""
    return step == ROLL_BACK or step.startswith(UNDO)


def is_reserved(step: str) -> bool:
    """Tells whether no step has this name."""
    return is_of_rollback(step) or step.startswith(FAILURE_OF)


def check_step_name(name: str) -> None:
    """Raise ``InvalidInputError`` for the name of a step that records of rollbacks have."""
    if is_reserved(name):
        raise InvalidInputError(
            f"A step cannot be named {name!r}: records of undoing and failures are.",
            where="step",
            next_step="Name it otherwise.",
        )


def _begun(steps: Sequence[StepRecord]) -> dict[str, Any] | None:
    return next((one.result for one in steps if one.name == ROLL_BACK), None)
