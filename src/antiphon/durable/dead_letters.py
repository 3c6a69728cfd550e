"""Dead letters: runs that failed for good, and what is done about them.

Invariants:
- What a run recorded stays: it goes on from there, or another run begins with a copy of it.
- A step's result is recorded by hand only where its effect and its record are two things: of a transactional step the
  record says that the effect is there.
- Each is done within the caller's transaction, so that it and the entry about it in the audit log are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import insert, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.rollbacks import UNDO, is_of_rollback, left_to_undo
from antiphon.durable.run import ENDED, Run, StepRecord, StepUnderWay, step_row
from antiphon.durable.runs import Runs

_runs, _steps = schema.runs, schema.steps


class DeadLetters:
    """Queues runs again that failed for good."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs = Runs(database)

    def retry(self, scope: Scope, run: str, *, within: Connection) -> Run:
        """Queue a run again from where it was: its recorded steps stay, its attempts begin anew. Of one whose steps
        were undone another run is queued, without records; they name each other.

        Raises:
            NotFoundError: there is none of this id here.
            ConflictError: it did not fail.
        """
        found = self._failed(scope, run, within)
        return self._queue(found, within) if found.rollback != "done" else self._begun_anew(found, (), within)

    def fork(self, scope: Scope, run: str, step: str, *, within: Connection) -> Run:
        """Queue a new run with the arguments of one that has ended and with its records up to, and without, a step.

        The other one stays as it is, and they name each other. Kept are the records of steps that had ended when the
        first of that name began, and all where it has no record because it failed.

        What it began with it does not undo: that is the other run's.

        Raises:
            NotFoundError: there is no such run, or it came to no such step.
            ConflictError: it has not ended, its rollback failed, or a step before that one was undone.
        """
        found = self._runs.get(scope, run, within=within)
        if found.status not in ENDED:
            raise _wrong_status(found, "ended", f"Cancel it first: `antiphon runs cancel {run}`.")
        if found.is_rolled_back:
            raise ConflictError(
                f"The steps of run {run} are not all undone.",
                where=run,
                next_step=f"`antiphon runs retry {run}` goes on with that.",
            )
        steps = [one for one in self._runs.steps(scope, run, within=within) if not is_of_rollback(one.name)]
        kept = _before(steps, step, found)
        undone = next((one for one in kept if found.rollback == "done" and one.undo is not None), None)
        if undone is not None:
            raise ConflictError(
                f"Step {undone.name!r} was undone, so that nothing goes on from its record.",
                where=run,
                next_step=f"Name it, or a step before it: `antiphon runs retry {run} --from {undone.name!r}`.",
            )
        return self._begun_anew(found, [msgspec.structs.replace(one, undo=None) for one in kept], within)

    def _begun_anew(self, found: Run, kept: Sequence[StepRecord], within: Connection) -> Run:
        """Queue another run with the arguments of one that has ended, and with these records."""
        scope = found.scope
        forked = self._runs.submit(
            scope, found.workflow, found.arguments, max_attempts=found.max_attempts, within=within
        )
        self._update(scope, forked, within, forked_from=found.id)
        self._update(scope, found.id, within, forked_to=forked)
        if found.schedule is not None:
            self._runs.attribute(
                scope, forked, found.schedule, found.cause or "", found.deadline, found.value, within=within
            )
        for record in kept:
            self._record(scope, forked, record, within)
        return self._runs.get(scope, forked, within=within)

    def skip(self, scope: Scope, run: str, step: str, result: Any, principal: str, *, within: Connection) -> Run:
        """Record the result of the step at which a run failed by hand, and queue the run again. Of a rollback that
        failed any step can be recorded as undone that is left.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it did not fail, or not at this step, or the step is transactional.
            InvalidInputError: the result is no JSON.
        """
        found = self._failed(scope, run, within)
        steps = self._runs.steps(scope, run, within=within)
        failed = _left(found, step, steps) if found.is_rolled_back else self._failed_step(found, step)
        recorded = {(one.name, one.occurrence) for one in steps}
        if (failed.name, failed.occurrence) in recorded:
            raise ConflictError(
                f"Step {step!r} has a result already.", where=run, next_step=f"Run `antiphon runs retry {run}`."
            )
        now = self._database.clock.now()
        record = StepRecord(failed.name, failed.occurrence, found.epoch, result, now, now, principal)
        self._record(scope, run, record, within)
        return self._queue(found, within)

    def _failed(self, scope: Scope, run: str, within: Connection) -> Run:
        found = self._runs.get(scope, run, within=within)
        if found.status != "failed":
            again = f"`antiphon runs retry {run} --from STEP` begins another one." if found.status in ENDED else ""
            raise _wrong_status(found, "failed", again or f"`antiphon runs show {run}` says how far it is.")
        return found

    def _failed_step(self, run: Run, step: str) -> StepUnderWay:
        failed = next((one for one in run.under_way if one.name == step), None)
        if failed is None:
            known = ", ".join(one.name for one in run.under_way)
            raise ConflictError(
                f"Run {run.id} did not fail at a step {step!r}.",
                where=run.id,
                next_step=f"It failed at {known}." if known else "It failed outside of its steps: retry or fork it.",
            )
        if failed.transactional:
            raise ConflictError(
                f"Step {step!r} is transactional: its record says that its effect is in the catalog.",
                where=run.id,
                next_step=f"Mend what it failed of and run `antiphon runs retry {run.id}`.",
            )
        return failed

    def _queue(self, run: Run, within: Connection) -> Run:
        now = self._database.clock.now()
        self._update(
            run.scope, run.id, within,
            status="queued", attempts=0, not_before=now, cancel_requested=False, error=None, result=None,
            started_at=None, ended_at=None, under_way=None, updated_at=now,
        )  # fmt: skip
        self._database.ring("runs", run.scope)
        return self._runs.get(run.scope, run.id, within=within)

    def _update(self, scope: Scope, run: str, within: Connection, **values: Any) -> None:
        within.execute(update(_runs).where(schema.owned(_runs, scope, id=run)).values(values))

    def _record(self, scope: Scope, run: str, record: StepRecord, within: Connection) -> None:
        within.execute(insert(_steps).values(step_row(self._database, scope, run, record)))


def _left(run: Run, step: str, steps: Sequence[StepRecord]) -> StepUnderWay:
    """The undoing of a step that is left of a rollback; raises ``ConflictError`` where there is none of this name."""
    left = left_to_undo(steps)
    found = next((one for one in left if UNDO + one.name == step), None)
    if found is None:
        known = ", ".join(f"{UNDO + one.name!r}" for one in left)
        raise ConflictError(
            f"Run {run.id} is rolled back, and has no step {step!r} left.",
            where=run.id,
            next_step=f"Name one of: {known}." if known else f"Run `antiphon runs retry {run.id}`.",
        )
    return StepUnderWay(step, found.occurrence)


def _before(records: Sequence[StepRecord], step: str, run: Run) -> Sequence[StepRecord]:
    """The records of the steps that had ended when the first one of a name began."""
    first = next((number for number, one in enumerate(records) if one.name == step), None)
    if first is not None:
        return [one for one in records[:first] if one.ended_at <= records[first].started_at]
    if any(one.name == step for one in run.under_way):
        return records
    known = ", ".join(dict.fromkeys([*(one.name for one in records), *(one.name for one in run.under_way)]))
    raise NotFoundError(
        f"Run {run.id} came to no step {step!r}.",
        where=run.id,
        next_step=f"Name one of: {known}." if known else "It came to no step: retry it as it is.",
    )


def _wrong_status(run: Run, status: str, next_step: str) -> ConflictError:
    return ConflictError(f"Run {run.id} has not {status}: it is {run.status}.", where=run.id, next_step=next_step)
