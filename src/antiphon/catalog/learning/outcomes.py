"""Outcomes: what later turned out to be true of a prediction.

Invariants: every outcome that arrives is kept with what became of it; at most one label of a prediction is joined,
the first, and no later one changes it.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Select, Table, delete, func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts, upsert
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.receipt import SEEN_ROLES, Role
from antiphon.core.clock import utc
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope

OutcomeKind = Literal["label", "number", "reference", "correction", "thumbs", "signal", "text"]
_WORDS: tuple[OutcomeKind, ...] = ("reference", "correction", "text")
OutcomeStatus = Literal["joined", "late", "duplicate", "contradictory", "unknown"]


class OutcomeRecord(msgspec.Struct, frozen=True):
    """One outcome and what became of it.

    Attributes:
        id: a hash of application, reference and prediction: the same outcome sent twice is one.
        prediction: the prediction it belongs to; ``None`` when it is ``unknown``.
        release, role, as_of: of that prediction; ``probabilities`` those it gave to the labels that are scored,
            ``said`` the number that it said, ``scores`` the metrics of its text beside the reference.
        outcome: name of the declared outcome or signal; empty for feedback that is none.
        value: the label, number or reference, ``up`` or ``down``, the signal's value, the corrected text, the remark.
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
    outcome: str = ""
    probabilities: dict[str, float] = {}
    said: str | None = None
    scores: dict[str, float] = {}
    entity: dict[str, str] = {}
    principal: str = ""
    reference: str = ""
    named: str | None = None
    at: datetime | None = None


class Coverage(msgspec.Struct, frozen=True):
    """Counts of the predictions of a release that users saw, and of those with a joined outcome."""

    release: str
    predictions: int
    labelled: int


class SignalCount(msgspec.Struct, frozen=True):
    """Predictions of a release that users saw and one value of a signal joined."""

    release: str
    signal: str
    value: str
    predictions: int


_table = schema.outcomes
_OLDEST_FIRST = (_table.c.created_at, _table.c.id)
_MOST_COUNTED = 20_000
_LATEST_FIRST = (_table.c.created_at.desc(), _table.c.id.desc())


class Outcomes:
    """Repository of outcomes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "outcomes.payload", OutcomeRecord)

    def add(self, outcome: OutcomeRecord, *, within: Connection | None = None) -> None:
        """Record an outcome.

        Raises:
            ConflictError: there is one with this id.
        """
        statement = upsert(_table).values(self._documents.row(outcome))
        if not self._database.write(statement.on_conflict_do_nothing(), within):
            raise ConflictError(
                f"The outcome {outcome.id!r} is recorded already.",
                where=str(outcome.scope),
                next_step="Send each outcome with an id of its own.",
            )

    def replace(self, unknown: OutcomeRecord, by: Sequence[OutcomeRecord], *, within: Connection | None = None) -> bool:
        """Put what became of an ``unknown`` outcome in its place; whether it still was unknown."""
        with self._database.writing(within) as connection:
            gone = connection.execute(
                delete(_table).where(schema.owned(_table, unknown.scope, id=unknown.id, status="unknown"))
            )
            if gone.rowcount != 1:
                return False
            for outcome in by:
                self.add(outcome, within=connection)
        return True

    def get(self, scope: Scope, outcome: str) -> OutcomeRecord:
        """One outcome.

        Raises:
            NotFoundError: there is none here.
        """
        return self._documents.require(scope, outcome, "outcome", "See `antiphon outcomes list`.")

    def find(self, scope: Scope, ids: Iterable[str], *, within: Connection | None = None) -> dict[str, OutcomeRecord]:
        """Those of these ids that exist."""
        return {outcome.id: outcome for outcome in self._in_parts(scope, _table.c.id, ids, within)}

    def of_prediction(self, scope: Scope, prediction: str) -> list[OutcomeRecord]:
        """Returns all outcomes of one prediction, in the order of their arrival."""
        return self._documents.find(scope, _table.c.prediction == prediction, order=_OLDEST_FIRST)

    def texts(self, scope: Scope, predictions: Iterable[str]) -> builtins.list[OutcomeRecord]:
        """The outcomes of some predictions that are somebody's words."""
        return self._in_parts(scope, _table.c.prediction, predictions, None, _table.c.kind.in_(_WORDS))

    def erase_texts(self, scope: Scope, predictions: Iterable[str], *, within: Connection | None = None) -> int:
        """Delete the outcomes of some predictions that are somebody's words; how many they were."""
        owned, words = schema.owned(_table, scope), _table.c.kind.in_(_WORDS)
        chosen = in_parts(_table.c.prediction, predictions)
        return sum(self._database.write(delete(_table).where(owned, words, some), within) for some in chosen)

    def joined(
        self, scope: Scope, predictions: Iterable[str], *, within: Connection | None = None
    ) -> builtins.list[OutcomeRecord]:
        """The joined outcomes of these predictions, of every kind."""
        return self._in_parts(scope, _table.c.prediction, predictions, within, _table.c.status == "joined")

    def values(self, scope: Scope, predictions: Iterable[str], outcome: str) -> dict[str, str]:
        """Prediction to the joined value of a declared outcome; without those that have none."""
        return {
            one.prediction: one.value
            for one in self.joined(scope, predictions)
            if one.outcome == outcome and one.prediction is not None
        }

    def signals(self, scope: Scope, application: str, signal: str, *, since: datetime) -> builtins.list[OutcomeRecord]:
        """Joined values of a signal, or of thumbs, that arrived at an instant of wall time or later, oldest first."""
        named = {"kind": "thumbs"} if signal == "thumbs" else {"kind": "signal", "outcome": signal}
        conditions = schema.given(_table, application=application, status="joined", **named)
        return self._documents.find(scope, *conditions, _table.c.created_at >= since, order=_OLDEST_FIRST)

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        status: OutcomeStatus | None = None,
        kind: OutcomeKind | None = None,
        before: datetime | None = None,
        limit: int = 50,
    ) -> list[OutcomeRecord]:
        """Outcomes that arrived before an instant of wall time, latest first."""
        conditions = schema.given(_table, application=application, status=status, kind=kind)
        if before is not None:
            conditions.append(_table.c.created_at < before)
        return self._documents.find(scope, *conditions, order=_LATEST_FIRST, limit=limit)

    def unknown(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        since: datetime | None = None,
        after: OutcomeRecord | None = None,
        limit: int = 500,
    ) -> builtins.list[OutcomeRecord]:
        """Outcomes that name no prediction yet, latest first; ``after`` is the last of the page before."""
        conditions = schema.given(_table, application=application, status="unknown")
        if since is not None:
            conditions.append(_table.c.created_at >= since)
        if after is not None:
            at = after.created_at
            conditions.append((_table.c.created_at < at) | ((_table.c.created_at == at) & (_table.c.id < after.id)))
        return self._documents.find(scope, *conditions, order=_LATEST_FIRST, limit=limit)

    def scored(
        self,
        scope: Scope,
        application: str,
        outcome: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        roles: Sequence[Role] = SEEN_ROLES,
        recorded_until: datetime | None = None,
    ) -> builtins.list[OutcomeRecord]:
        """Joined values of a declared outcome, of predictions whose moment (event time) is in
        ``since <= as_of < until``, oldest first.

        ``recorded_until`` leaves out what was joined later than this instant of wall time.
        """
        conditions = schema.given(_table, application=application, status="joined", outcome=outcome)
        conditions.append(_table.c.role.in_(roles))
        if since is not None:
            conditions.append(_table.c.as_of >= since)
        if until is not None:
            conditions.append(_table.c.as_of < until)
        if recorded_until is not None:
            conditions.append(_table.c.created_at <= recorded_until)
        return self._documents.find(scope, *conditions, order=_OLDEST_FIRST)

    def newly_joined(
        self,
        scope: Scope,
        application: str,
        outcome: str,
        since: datetime,
        until: datetime,
        limit: int,
        *,
        release: str | None = None,
    ) -> builtins.list[OutcomeRecord]:
        """Joined values of a declared outcome of answers that users saw, of a release or of all, which were joined with
        ``since < created_at <= until``, oldest first: at most ``limit``, and all of the last moment."""
        conditions = [*_seen(application, outcome, release), _table.c.created_at > since]
        found = self._documents.find(scope, *conditions, _table.c.created_at <= until, order=_OLDEST_FIRST, limit=limit)
        if not found or len(found) < limit:
            return found
        # A moment is taken whole, so that the next look begins behind it.
        last = found[-1].created_at
        rest = self._documents.find(scope, *conditions, _table.c.created_at == last, order=_OLDEST_FIRST)
        return [*(one for one in found if one.created_at < last), *rest]

    def begin_of_newest(self, scope: Scope, application: str, outcome: str, since: datetime, number: int) -> datetime:
        """The moment after which about the newest ``number`` of :meth:`newly_joined` were joined; no earlier than
        ``since``."""
        newest = select(_table.c.created_at).where(schema.owned(_table, scope), *_seen(application, outcome))
        newest = newest.where(_table.c.created_at > since).order_by(_table.c.created_at.desc())
        begin: datetime | None = self._database.scalar(newest.offset(number).limit(1))
        return begin or since

    def counts(self, scope: Scope, application: str | None = None) -> dict[str, dict[str, int]]:
        """Kind to status to how many."""
        keys = (_table.c.kind, _table.c.status)
        statement = select(*keys, func.count().label("outcomes")).where(
            schema.owned(_table, scope), *schema.given(_table, application=application)
        )
        counted: dict[str, dict[str, int]] = {}
        for row in self._database.rows(statement.group_by(*keys).order_by(*keys)):
            counted.setdefault(row.kind, {})[row.status] = row.outcomes
        return counted

    def arrived(self, scope: Scope, application: str, since: datetime) -> int:
        """Counts the values of declared outcomes that arrived for predictions of an application after a moment."""
        conditions = schema.owned(_table, scope, application=application, status="joined"), _table.c.created_at > since
        declared = _table.c.kind.not_in(("thumbs", "signal"))
        statement = select(func.count()).select_from(_table).where(*conditions, declared)
        return int(self._database.scalar(statement))

    def coverage(self, scope: Scope, application: str, outcome: str) -> builtins.list[Coverage]:
        """For every release of an application: predictions that users saw, and those with a joined value of a declared
        outcome."""

        def by_release(table: Table, **of: str) -> Select[Any]:
            seen = schema.owned(table, scope, application=application, **of) & table.c.role.in_(SEEN_ROLES)
            release = table.c.release
            return select(release, func.count().label("number")).where(seen).group_by(release).order_by(release)

        with self._database.read() as connection:
            known = connection.execute(by_release(_table, status="joined", outcome=outcome))
            labelled = {row.release: row.number for row in known}
            made = connection.execute(by_release(schema.receipts))
            return [Coverage(row.release, row.number, labelled.get(row.release, 0)) for row in made]

    def signals_by_release(self, scope: Scope, application: str) -> builtins.list[SignalCount]:
        """Values of the signals of every release of an application, thumbs among them: of the newest 20,000."""
        seen = schema.owned(_table, scope, application=application, status="joined") & _table.c.role.in_(SEEN_ROLES)
        kinds = _table.c.kind.in_(("thumbs", "signal"))
        counted: Counter[tuple[str, str, str]] = Counter()
        for one in self._documents.find(scope, seen, kinds, order=_LATEST_FIRST, limit=_MOST_COUNTED):
            counted[one.release or "", one.outcome or "thumbs", one.value] += 1
        return [SignalCount(*named, number) for named, number in sorted(counted.items())]

    def instant(self) -> datetime:
        """An instant of wall time such that everything recorded up to it can be read already."""
        # Rows are stamped inside write transactions, and these exclude each other.
        with self._database.transaction():
            return utc(self._database.clock.now())

    def _in_parts(
        self,
        scope: Scope,
        column: ColumnElement[Any],
        values: Iterable[str],
        within: Connection | None,
        *conditions: ColumnElement[bool],
    ) -> builtins.list[OutcomeRecord]:
        found: builtins.list[OutcomeRecord] = []
        with self._database.reading(within) as connection:
            for some in in_parts(column, values):
                found += self._documents.find(scope, some, *conditions, order=_OLDEST_FIRST, within=connection)
        return found


def _seen(application: str, outcome: str, release: str | None = None) -> builtins.list[ColumnElement[bool]]:
    of = {"application": application, "release": release, "status": "joined", "outcome": outcome}
    return [*schema.given(_table, **of), _table.c.role.in_(SEEN_ROLES)]
