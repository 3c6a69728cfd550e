"""Evaluations of releases: what the served artefact did on a dataset, and the gates' verdict."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, and_, insert, select, true
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope


class IntervalEstimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % bootstrap interval (paired by row where two things are compared)."""

    value: float
    low: float
    high: float


class Bin(msgspec.Struct, frozen=True):
    """One bin of a reliability diagram: mean forecast, share of positives, rows."""

    forecast: float
    observed: float
    rows: int


class Slice(msgspec.Struct, frozen=True):
    """The same measures on the rows of one value of one key."""

    key: str
    value: str
    rows: int
    positives: int
    auc: float | None
    brier: float


class EvaluationGate(msgspec.Struct, frozen=True):
    """One gate: ``passed`` is ``None`` when it is switched off. ``reason`` is a sentence with both figures."""

    name: str
    passed: bool | None
    measured: float | None
    bound: float | None
    reason: str


class AttackSummary(msgspec.Struct, frozen=True):
    """Result of one attack set.

    Attributes:
        name: ``injection`` or ``leakage``.
        probes: requests that reached the model; ``refused``: those that were turned away before it.
        successes: probes that got what they wanted, ``by`` kind of success to how many.
        note: what the set could not try here, in words.
    """

    name: str
    probes: int
    refused: int
    successes: int
    by: dict[str, int] = {}
    note: str = ""


class Evaluation(msgspec.Struct, frozen=True):
    """Measurements of one release on one dataset, made through the function that serves.

    Attributes:
        mode: ``classes`` asked only for the outcome's property, ``whole`` for the whole output.
        failed: rows that got no answer, by error code.
        base_rate_brier: of always saying the dataset's share of positives.
        valid_share, false_share, guard_share: of ``whole_rows`` whole outputs: those that meet the schema before a
            guard acted, those whose served text states a figure that is not the request's, those a guard changed.
        injected_share, leaked_share: of the attack sets; ``None`` when they were not run.
        against: the release it is compared with on identical rows; ``difference`` measure to (this − that).
        rows_blob: per-row results, for paired comparison later.
        seconds_p50, seconds_p99: wall seconds of an answer at batch priority.
        tokens, engine_seconds: mean of an answer (prompt and completion, all attempts).
        guards: of whole outputs: what guards did (``retry``, ``template``) to how many outputs it happened.
        attacks: what each attack set came to.
    """

    id: str
    scope: Scope
    application: str
    release: str
    model: str
    dataset: str
    mode: Literal["classes", "whole"]
    rows: int
    positives: int
    failed: dict[str, int]
    auc: IntervalEstimate | None
    brier: IntervalEstimate
    log_loss: IntervalEstimate
    base_rate_brier: float
    reliability: tuple[Bin, ...]
    slices: tuple[Slice, ...]
    whole_rows: int
    valid_share: float | None
    false_share: float | None
    guard_share: float | None
    injected_share: float | None
    leaked_share: float | None
    seconds_p50: float
    seconds_p99: float
    tokens: float
    engine_seconds: float
    against: str | None
    difference: dict[str, IntervalEstimate]
    gates: tuple[EvaluationGate, ...]
    rows_blob: str
    created_at: datetime
    guards: dict[str, int] = {}
    attacks: tuple[AttackSummary, ...] = ()

    @property
    def passed(self) -> bool:
        """True unless a gate failed."""
        return all(gate.passed is not False for gate in self.gates)


_decoder = msgspec.json.Decoder(Evaluation)
_SCHEMA = "evaluation/1"


class Evaluations:
    """Repository of evaluations. An evaluation never changes; another one of the same release is another row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, evaluation: Evaluation, *, within: Connection | None = None) -> Evaluation:
        """Record an evaluation; recording the same one again changes nothing.

        Raises:
            ConflictError: the id is taken by another evaluation.
        """
        scope, table = evaluation.scope, schema.evaluations
        with self._database.writing(within) as connection:
            known = self._select(connection, scope, table.c.id == evaluation.id, 1)
            if known and known[0] == evaluation:
                return evaluation
            if known:
                raise ConflictError(
                    f"There is an evaluation {evaluation.id!r} already, and it is another one.",
                    where=str(scope),
                    next_step="Give each evaluation its own id.",
                )
            connection.execute(
                insert(table).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=evaluation.id,
                    application=evaluation.application,
                    release=evaluation.release,
                    dataset=evaluation.dataset,
                    document=self._database.seal(scope, _SCHEMA, evaluation.id, msgspec.json.encode(evaluation)),
                    created_at=microseconds(evaluation.created_at),
                )
            )
        return evaluation

    def get(self, scope: Scope, evaluation: str, *, within: Connection | None = None) -> Evaluation:
        """One evaluation.

        Raises:
            NotFoundError: there is none of this id here.
        """
        with self._database.reading(within) as connection:
            found = self._select(connection, scope, schema.evaluations.c.id == evaluation, 1)
        if not found:
            raise NotFoundError(
                f"There is no evaluation {evaluation!r}.", where=str(scope), next_step="Run `antiphon evaluate`."
            )
        return found[0]

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        release: str | None = None,
        limit: int = 50,
        *,
        within: Connection | None = None,
    ) -> list[Evaluation]:
        """Evaluations, latest first."""
        table = schema.evaluations
        condition = true() if application is None else table.c.application == application
        if release is not None:
            condition = and_(condition, table.c.release == release)
        with self._database.reading(within) as connection:
            return self._select(connection, scope, condition, limit)

    def latest(
        self, scope: Scope, release: str, dataset: str | None = None, *, within: Connection | None = None
    ) -> Evaluation | None:
        """The newest evaluation of a release (on one dataset), ``None`` when it was never evaluated."""
        table = schema.evaluations
        condition = table.c.release == release
        if dataset is not None:
            condition = and_(condition, table.c.dataset == dataset)
        with self._database.reading(within) as connection:
            found = self._select(connection, scope, condition, 1)
        return found[0] if found else None

    def _select(
        self, connection: Connection, scope: Scope, condition: ColumnElement[bool], limit: int
    ) -> builtins.list[Evaluation]:
        table = schema.evaluations
        statement = (
            select(table.c.id, table.c.document)
            .where(schema.owned(table, scope), condition)
            .order_by(table.c.created_at.desc(), table.c.id.desc())
            .limit(limit)
        )
        return [
            _decoder.decode(self._database.unseal(scope, _SCHEMA, row.id, row.document))
            for row in connection.execute(statement)
        ]
