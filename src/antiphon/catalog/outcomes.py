"""Outcomes: what later turned out to be true of a prediction.

Invariants: every outcome that arrives is kept with what became of it; at most one label of a prediction is joined,
the first, and no later one changes it.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.receipts import SEEN_ROLES, Role
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope

OutcomeKind = Literal["label", "thumbs", "correction", "text"]
OutcomeStatus = Literal["joined", "late", "duplicate", "contradictory", "unknown"]


class OutcomeRecord(msgspec.Struct, frozen=True):
    """One outcome and what became of it.

    Attributes:
        id: a hash of application, reference and prediction: the same outcome sent twice is one.
        prediction: the prediction it belongs to; ``None`` when it is ``unknown``.
        release, role, as_of, probability: of that prediction; the probability it gave to the positive label.
        value: the label, ``up`` or ``down``, the corrected text, the remark.
        positive: whether the label is the positive one; ``None`` unless it is a label.
        available_at: event time at which it was known.
        status: ``joined`` counts; ``late`` came after the window; ``duplicate`` says what is known; ``contradictory``
            says otherwise than the joined one; ``unknown`` names no prediction (yet).
        entity: the prediction's entity keys, for slices; of an ``unknown`` one those that were sent.
        reference: the sender's own id, or a hash of what was sent.
        named, at: the prediction, or the moment of the question, that the sender named.
        created_at: wall time at which it arrived; of one that was ``unknown`` before, at which it was joined.
    """

    id: str
    scope: Scope
    application: str
    kind: OutcomeKind
    status: OutcomeStatus
    value: str
    available_at: datetime
    created_at: datetime
    prediction: str | None = None
    release: str | None = None
    role: str | None = None
    as_of: datetime | None = None
    probability: float | None = None
    positive: bool | None = None
    entity: dict[str, str] = {}
    principal: str = ""
    reference: str = ""
    named: str | None = None
    at: datetime | None = None


class Coverage(msgspec.Struct, frozen=True):
    """Counts of the predictions of a release that users saw, and of those with a joined label."""

    release: str
    predictions: int
    labelled: int


_SCHEMA = "outcome/1"
_CHUNK = 400
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(OutcomeRecord)


class Outcomes:
    """Repository of outcomes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, outcome: OutcomeRecord, *, within: Connection | None = None) -> None:
        """Record an outcome.

        Raises:
            ConflictError: there is one with this id.
        """
        with self._database.writing(within) as connection:
            try:
                connection.execute(insert(schema.outcomes).values(self._row(outcome)))
            except IntegrityError as error:
                raise ConflictError(
                    f"The outcome {outcome.id!r} is recorded already.",
                    where=str(outcome.scope),
                    next_step="Send each outcome with an id of its own.",
                ) from error

    def replace(self, unknown: OutcomeRecord, by: Sequence[OutcomeRecord], *, within: Connection | None = None) -> bool:
        """Put what became of an ``unknown`` outcome in its place; whether it still was unknown."""
        table = schema.outcomes
        with self._database.writing(within) as connection:
            gone = connection.execute(
                delete(table).where(
                    schema.owned(table, unknown.scope), table.c.id == unknown.id, table.c.status == "unknown"
                )
            )
            if gone.rowcount != 1:
                return False
            for outcome in by:
                self.add(outcome, within=connection)
        return True

    def get(self, scope: Scope, outcome: str, *, within: Connection | None = None) -> OutcomeRecord:
        """One outcome.

        Raises:
            NotFoundError: there is none here.
        """
        found = self.find(scope, (outcome,), within=within).get(outcome)
        if found is None:
            raise NotFoundError(
                f"There is no outcome {outcome!r}.", where=str(scope), next_step="See `antiphon outcomes list`."
            )
        return found

    def find(self, scope: Scope, ids: Iterable[str], *, within: Connection | None = None) -> dict[str, OutcomeRecord]:
        """Those of these ids that exist."""
        found = self._in_chunks(scope, schema.outcomes.c.id, ids, within)
        return {outcome.id: outcome for outcome in found}

    def of_prediction(self, scope: Scope, prediction: str, *, within: Connection | None = None) -> list[OutcomeRecord]:
        """Returns all outcomes of one prediction, in the order of their arrival."""
        return self._select(scope, schema.outcomes.c.prediction == prediction, within=within)

    def joined(
        self, scope: Scope, predictions: Iterable[str], *, within: Connection | None = None
    ) -> builtins.list[OutcomeRecord]:
        """The joined outcomes of these predictions, of every kind."""
        return self._in_chunks(
            scope, schema.outcomes.c.prediction, predictions, within, schema.outcomes.c.status == "joined"
        )

    def labels(self, scope: Scope, predictions: Iterable[str], *, within: Connection | None = None) -> dict[str, bool]:
        """Prediction to whether its joined label is the positive one; without those that have none."""
        return {
            outcome.prediction: outcome.positive
            for outcome in self.joined(scope, predictions, within=within)
            if outcome.kind == "label" and outcome.prediction is not None and outcome.positive is not None
        }

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        status: OutcomeStatus | None = None,
        kind: OutcomeKind | None = None,
        before: datetime | None = None,
        limit: int = 50,
        within: Connection | None = None,
    ) -> list[OutcomeRecord]:
        """Outcomes that arrived before an instant of wall time, latest first."""
        table = schema.outcomes
        conditions: builtins.list[ColumnElement[bool]] = []
        if application is not None:
            conditions.append(table.c.application == application)
        if status is not None:
            conditions.append(table.c.status == status)
        if kind is not None:
            conditions.append(table.c.kind == kind)
        if before is not None:
            conditions.append(table.c.created_at < microseconds(before))
        return self._select(scope, *conditions, latest_first=True, limit=limit, within=within)

    def unknown(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        since: datetime | None = None,
        after: OutcomeRecord | None = None,
        limit: int = 500,
        within: Connection | None = None,
    ) -> builtins.list[OutcomeRecord]:
        """Outcomes that name no prediction yet, latest first; ``after`` is the last of the page before."""
        table = schema.outcomes
        conditions: builtins.list[ColumnElement[bool]] = [table.c.status == "unknown"]
        if application is not None:
            conditions.append(table.c.application == application)
        if since is not None:
            conditions.append(table.c.created_at >= microseconds(since))
        if after is not None:
            at = microseconds(after.created_at)
            conditions.append((table.c.created_at < at) | ((table.c.created_at == at) & (table.c.id < after.id)))
        return self._select(scope, *conditions, latest_first=True, limit=limit, within=within)

    def scored(
        self,
        scope: Scope,
        application: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        roles: Sequence[Role] = SEEN_ROLES,
        recorded_until: datetime | None = None,
        within: Connection | None = None,
    ) -> builtins.list[OutcomeRecord]:
        """Joined labels of predictions whose moment (event time) is in ``since <= as_of < until``, oldest first.

        ``recorded_until`` leaves out what was joined later than this instant of wall time.
        """
        table = schema.outcomes
        conditions: builtins.list[ColumnElement[bool]] = [
            table.c.application == application,
            table.c.status == "joined",
            table.c.kind == "label",
            table.c.role.in_(roles),
        ]
        if since is not None:
            conditions.append(table.c.as_of >= microseconds(since))
        if until is not None:
            conditions.append(table.c.as_of < microseconds(until))
        if recorded_until is not None:
            conditions.append(table.c.created_at <= microseconds(recorded_until))
        return self._select(scope, *conditions, within=within)

    def counts(
        self, scope: Scope, application: str | None = None, *, within: Connection | None = None
    ) -> dict[str, dict[str, int]]:
        """Kind to status to how many."""
        table = schema.outcomes
        keys = (table.c.kind, table.c.status)
        statement = select(*keys, func.count().label("outcomes")).where(schema.owned(table, scope))
        if application is not None:
            statement = statement.where(table.c.application == application)
        counted: dict[str, dict[str, int]] = {}
        with self._database.reading(within) as connection:
            for row in connection.execute(statement.group_by(*keys).order_by(*keys)):
                counted.setdefault(row.kind, {})[row.status] = row.outcomes
        return counted

    def coverage(self, scope: Scope, application: str, *, within: Connection | None = None) -> builtins.list[Coverage]:
        """For every release of an application: predictions that users saw, and those with a joined label."""
        receipts, outcomes = schema.receipts, schema.outcomes
        made = (
            select(receipts.c.release, func.count().label("predictions"))
            .where(
                schema.owned(receipts, scope),
                receipts.c.application == application,
                receipts.c.role.in_(SEEN_ROLES),
            )
            .group_by(receipts.c.release)
            .order_by(receipts.c.release)
        )
        known = (
            select(outcomes.c.release, func.count().label("labelled"))
            .where(
                schema.owned(outcomes, scope),
                outcomes.c.application == application,
                outcomes.c.status == "joined",
                outcomes.c.kind == "label",
                outcomes.c.role.in_(SEEN_ROLES),
            )
            .group_by(outcomes.c.release)
        )
        with self._database.reading(within) as connection:
            labelled = {row.release: row.labelled for row in connection.execute(known)}
            return [
                Coverage(row.release, row.predictions, labelled.get(row.release, 0)) for row in connection.execute(made)
            ]

    def instant(self) -> datetime:
        """An instant of wall time such that everything recorded up to it can be read already."""
        # Rows are stamped inside write transactions, and these exclude each other.
        with self._database.transaction():
            return from_microseconds(microseconds(self._database.clock.now()))

    def _in_chunks(
        self,
        scope: Scope,
        column: ColumnElement[Any],
        values: Iterable[str],
        within: Connection | None,
        *conditions: ColumnElement[bool],
    ) -> builtins.list[OutcomeRecord]:
        distinct = sorted(set(values))
        found: builtins.list[OutcomeRecord] = []
        with self._database.reading(within) as connection:
            for start in range(0, len(distinct), _CHUNK):
                chosen = column.in_(distinct[start : start + _CHUNK])
                found += self._select(scope, chosen, *conditions, within=connection)
        return found

    def _select(
        self,
        scope: Scope,
        *conditions: ColumnElement[bool],
        latest_first: bool = False,
        limit: int | None = None,
        within: Connection | None = None,
    ) -> builtins.list[OutcomeRecord]:
        table = schema.outcomes
        order = (table.c.created_at.desc(), table.c.id.desc()) if latest_first else (table.c.created_at, table.c.id)
        statement = select(table.c.id, table.c.payload).where(schema.owned(table, scope), *conditions)
        statement = statement.order_by(*order)
        if limit is not None:
            statement = statement.limit(limit)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement).all()
        return [_decoder.decode(self._database.unseal(scope, _SCHEMA, row.id, row.payload)) for row in rows]

    def _row(self, outcome: OutcomeRecord) -> dict[str, Any]:
        return {
            "tenant": outcome.scope.tenant,
            "environment": outcome.scope.environment,
            "id": outcome.id,
            "application": outcome.application,
            "prediction": outcome.prediction,
            "release": outcome.release,
            "role": outcome.role,
            "kind": outcome.kind,
            "status": outcome.status,
            "positive": outcome.positive,
            "probability": outcome.probability,
            "as_of": None if outcome.as_of is None else microseconds(outcome.as_of),
            "available_at": microseconds(outcome.available_at),
            "payload": self._database.seal(outcome.scope, _SCHEMA, outcome.id, _encoder.encode(outcome)),
            "created_at": microseconds(outcome.created_at),
        }
