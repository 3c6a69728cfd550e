"""A run of a workflow and its steps, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Row

from antiphon.catalog import sealed_columns
from antiphon.catalog.database import Database
from antiphon.catalog.rows import value_of
from antiphon.catalog.sealed_columns import SealedName
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope
from antiphon.definitions.workflows import RollbackPolicy

RunRequest = Literal["cancel", "yield"]
"""Request to the worker that holds a run: to end it for good, or to give it back because it is paused or its workflow
held."""

RunStatus = Literal["queued", "running", "succeeded", "succeeded_with_failures", "failed", "cancelled"]
ARGUMENTS, RESULT, ERROR, STEP = "run-arguments/1", "run-result/1", "run-error/1", "step/1"
"""Schemas of a run's sealed columns."""

RUN_KEY = SealedName(sealed_columns.RUN_KEY)
"""The key that somebody gave to a run, which is found by it."""

RollbackEnd = Literal["failed", "cancelled"]
"""The end of a run before which its steps are undone."""

ENDED: tuple[RunStatus, ...] = ("succeeded", "succeeded_with_failures", "failed", "cancelled")


class RunResult(dict[str, Any]):
    """A workflow's result that also says how its run ends, where that is not as plain ``succeeded``.

    Attributes:
        status: ``succeeded_with_failures`` when the work was done and a part of it failed.
        error: why, for a run that failed.
    """

    def __init__(self, result: Mapping[str, Any], status: RunStatus, error: str | None = None) -> None:
        super().__init__(result)
        self.status: RunStatus = status
        self.error = error


class LeaseLostError(ConflictError):
    """Another worker holds the run now, or it ended: whatever was computed is not committed."""

    code = "lease_lost"


class StepUnderWay(msgspec.Struct, frozen=True):
    """A step that has begun and not ended.

    Attributes:
        transactional: its effect and its record are one transaction.
    """

    name: str
    occurrence: int = 0
    transactional: bool = False


class Run(msgspec.Struct, frozen=True):
    """One execution of a workflow.

    Attributes:
        key: what makes submitting idempotent.
        epoch: raised by every claim; only its holder writes.
        attempts: claims that were not given back; past ``max_attempts`` the run fails.
        not_before: it is not claimed earlier (back-off after a failure).
        done, total, note: how far it is.
        started_at: its first claim.
        trace: W3C trace context of whoever submitted it.
        schedule: the schedule that ordered it; ``cause`` says why it was due, ``deadline`` when it is to have ended,
            ``value`` what it is worth beside other work, 1 where it does not say.
        exempted_by: who let it go past what holds its workflow.
        paused_by: who paused it; nobody works on it until it is resumed.
        claimed_at: when its present or last attempt began, and ``under_way`` the steps of that which had begun and not
            ended when it was last heard of.
        forked_from: the run whose records it began with; ``forked_to`` is the one that began last with its own.
        rollback: how it ends once its steps are undone; ``done`` when they are.
    """

    id: str
    scope: Scope
    workflow: str
    key: str | None
    arguments: dict[str, Any]
    status: RunStatus
    epoch: int
    attempts: int
    max_attempts: int
    worker: str | None
    lease_until: datetime | None
    not_before: datetime
    cancel_requested: bool
    done: int
    total: int | None
    note: str
    result: dict[str, Any] | None
    error: str | None
    trace: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    started_at: datetime | None = None
    schedule: str | None = None
    cause: str | None = None
    deadline: datetime | None = None
    exempted_by: str | None = None
    paused_by: str | None = None
    claimed_at: datetime | None = None
    under_way: tuple[StepUnderWay, ...] = ()
    forked_from: str | None = None
    forked_to: str | None = None
    value: float | None = None
    rollback: RollbackEnd | Literal["done"] | None = None

    @property
    def application(self) -> str:
        """The application that its arguments name, empty where they name none."""
        named = self.arguments.get("application")
        return named if isinstance(named, str) else ""

    @property
    def is_rolled_back(self) -> bool:
        """True while its steps are to be undone, and also once that failed for good."""
        return self.rollback in ("failed", "cancelled")


class StepRecord(msgspec.Struct, frozen=True):
    """A completed step.

    Attributes:
        occurrence: counts the steps of this name in the run from 0.
        recorded_by: the principal who wrote the result of one that was skipped.
        undo: of one that can be undone, the policy by which it is.
    """

    name: str
    occurrence: int
    epoch: int
    result: Any
    started_at: datetime
    ended_at: datetime
    recorded_by: str | None = None
    undo: RollbackPolicy | None = None


class StepTime(msgspec.Struct, frozen=True):
    """A completed step without its result; the fields are those of :class:`StepRecord`."""

    name: str
    occurrence: int
    epoch: int
    started_at: datetime
    ended_at: datetime
    recorded_by: str | None = None
    undo: RollbackPolicy | None = None


class ProgressReport(msgspec.Struct, frozen=True):
    """Progress of a run."""

    done: int
    total: int | None
    note: str


def columns_of(progress: ProgressReport | None) -> dict[str, Any]:
    """The columns of the table ``runs`` that a report of progress changes."""
    return {} if progress is None else msgspec.structs.asdict(progress)


def read_run(row: Row[Any], database: Database) -> Run:
    """A row of the table ``runs``; its payloads are opened with the database's codec."""
    scope = Scope(row.tenant, row.environment)

    def opened(schema: str, payload: bytes) -> Any:
        return msgspec.json.decode(database.unseal(scope, schema, row.id, payload))

    return value_of(
        Run,
        row,
        key=RUN_KEY.opened(database, scope, row.id, row.key, row.key_sealed),
        arguments=opened(ARGUMENTS, row.arguments),
        result=None if row.result is None else opened(RESULT, row.result),
        error=None if row.error is None else database.unseal_text(scope, ERROR, row.id, row.error),
        under_way=read_under_way(row.under_way),
    )


def step_row(database: Database, scope: Scope, run: str, record: StepRecord) -> dict[str, Any]:
    """A record as a row of the table ``steps``; raises ``InvalidInputError`` where its result is no JSON."""
    encoded = encode_json(record.result, f"result of step {record.name!r}")
    sealed = database.seal(scope, STEP, f"{run}:{record.name}:{record.occurrence}", encoded)
    owner = {"tenant": scope.tenant, "environment": scope.environment, "run": run}
    return owner | msgspec.structs.asdict(record) | {"result": sealed}


def read_under_way(column: str | None) -> tuple[StepUnderWay, ...]:
    """The steps that a column ``under_way`` names."""
    return () if column is None else msgspec.json.decode(column, type=tuple[StepUnderWay, ...])


def write_under_way(steps: Sequence[StepUnderWay]) -> str | None:
    """Steps as a column ``under_way`` holds them."""
    return msgspec.json.encode(steps).decode() if steps else None


def lease_lost(run: Run) -> LeaseLostError:
    """The error of a worker whose claim is over."""
    return LeaseLostError(
        f"Epoch {run.epoch} of run {run.id} is over.",
        where=str(run.scope),
        next_step="Another worker has it, or it ended; nothing was committed here.",
    )


def encode_json(value: Any, where: str) -> bytes:
    """A value as JSON; raises ``InvalidInputError``, which says ``where``, for what is none."""
    try:
        return canonical(value)
    except TypeError as error:
        raise InvalidInputError(
            f"A value is no JSON: {error}.", where=where, next_step="Return plain values, ids rather than objects."
        ) from error
