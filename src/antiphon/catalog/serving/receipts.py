"""Receipts: what each prediction was made from, committed before its response ends."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import BigInteger, ColumnElement, and_, func, or_, select, type_coerce
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts, upsert
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES, Path, Receipt, Role
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope


class ReuseCount(msgspec.Struct, frozen=True):
    """Online answers of one application from one cache origin, in one role, and the tokens that they saved."""

    application: str
    origin: str
    role: Role
    answers: int
    saved_tokens: int


class SubjectRequest(msgspec.Struct, frozen=True):
    """An online request to an application about a subject."""

    application: str
    subject: str
    prediction: str
    created_at: datetime


_table = schema.receipts
_QUARTER = 15 * 60 * 1_000_000
_add = upsert(_table).on_conflict_do_nothing()
_seen_online = and_(_table.c.path == "online", _table.c.role.in_(SEEN_ROLES + STAND_IN_ROLES))


class Receipts:
    """Repository of receipts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blobs = Blobs(database)
        self._documents = SealedRows(database, "receipts.payload", Receipt)

    def add(self, receipt: Receipt, texts: Sequence[bytes] = (), *, within: Connection | None = None) -> None:
        """Record a receipt together with the texts its ``*_blob`` fields name by SHA-256.

        Raises:
            ConflictError: this prediction has a receipt already.
        """
        facets = receipt.facets
        searched = {**msgspec.structs.asdict(facets), "kind": facets.kind}
        row = self._documents.row(receipt, saved_tokens=receipt.cache.saved_tokens, **searched)
        with self._database.writing(within) as connection:
            self._blobs.put_many(receipt.scope, texts, within=connection)
            if not connection.execute(_add, row).rowcount:
                raise ConflictError(
                    f"The prediction {receipt.prediction!r} has a receipt already.",
                    where=str(receipt.scope),
                    next_step="Give each prediction its own id.",
                )

    def get(self, scope: Scope, prediction: str) -> Receipt:
        """The receipt of one prediction.

        Raises:
            NotFoundError: there is none here.
        """
        return self._documents.require(scope, prediction, "prediction", "Check the id, the tenant and the environment.")

    def applications(self, scope: Scope, predictions: Sequence[str]) -> dict[str, str]:
        """Prediction to the application that it is of, without those that have no receipt here."""
        columns = (_table.c.prediction, _table.c.application)
        return {
            prediction: application
            for some in in_parts(_table.c.prediction, predictions)
            for prediction, application in self._database.rows(
                select(*columns).where(schema.owned(_table, scope), some)
            )
        }

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        path: Path | None = None,
        before: datetime | None = None,
        limit: int = 50,
        *,
        subject: str | None = None,
        since: datetime | None = None,
        roles: Sequence[Role] | None = None,
        releases: Sequence[str] | None = None,
    ) -> list[Receipt]:
        """Receipts with ``since <= created_at < before``, latest first; of some roles or releases only, if they are
        given."""
        conditions = schema.given(_table, application=application, path=path, subject=subject)
        if roles is not None:
            conditions.append(_table.c.role.in_(roles))
        if releases is not None:
            conditions.append(_table.c.release.in_(releases))
        order = (_table.c.created_at.desc(), _table.c.prediction.desc())
        return self._documents.find(scope, *conditions, *_span(since, before), order=order, limit=limit)

    def sample(
        self, scope: Scope, application: str, release: str, since: datetime, until: datetime | None, *, most: int
    ) -> builtins.list[Receipt]:
        """Receipts of a release's answers that users saw with ``since <= created_at < until``, oldest first: all, or
        at most ``most`` spread evenly over them, the same ones each time."""
        shown = and_(
            schema.owned(_table, scope, application=application, release=release),
            _table.c.role.in_(SEEN_ROLES),
            *_span(since, until),
        )
        step = max(1, -(-int(self._database.scalar(select(func.count()).where(shown))) // most))
        order = (_table.c.created_at, _table.c.prediction)
        place = func.row_number().over(order_by=order).label("place")
        numbered = select(_table.c.prediction, place).where(shown).subquery()
        chosen = select(numbered.c.prediction).where(numbered.c.place % step == 0)
        return self._documents.find(scope, _table.c.prediction.in_(chosen), order=order)

    def page(
        self,
        scope: Scope,
        application: str,
        since: datetime,
        until: datetime,
        after: tuple[int, str] | None,
        limit: int,
    ) -> builtins.list[Receipt]:
        """At most ``limit`` receipts of answers that reached a user, with ``since <= created_at < until``, oldest
        first, from behind a :meth:`place` on."""
        c, begin = _table.c, since if after is None else from_microseconds(after[0])
        conditions = [c.application == application, c.role.in_(SEEN_ROLES + STAND_IN_ROLES), *_span(begin, until)]
        if after is not None:
            conditions.append(or_(c.created_at > begin, c.prediction > after[1]))
        return self._documents.find(scope, *conditions, order=(c.created_at, c.prediction), limit=limit)

    def place(self, receipt: Receipt) -> tuple[int, str]:
        """The place of a receipt in their order by time, as plain values."""
        return microseconds(receipt.created_at), receipt.prediction

    def began(self, scope: Scope, application: str) -> datetime | None:
        """The time of an application's first receipt; ``None`` while it has none."""
        earliest = select(func.min(_table.c.created_at)).where(schema.owned(_table, scope, application=application))
        first: datetime | None = self._database.scalar(earliest)
        return first

    def count(
        self,
        scope: Scope,
        application: str | None = None,
        path: Path | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Returns the number of receipts with ``since <= created_at < until``."""
        conditions = schema.given(_table, application=application, path=path)
        statement = select(func.count()).where(schema.owned(_table, scope), *conditions, *_span(since, until))
        return int(self._database.scalar(statement))

    def reuse(self, scope: Scope, since: datetime) -> builtins.list[ReuseCount]:
        """Counts the online answers since an instant by the place they came from."""
        keys = (_table.c.application, _table.c.origin, _table.c.role)
        statement = (
            select(*keys, func.count(), func.coalesce(func.sum(_table.c.saved_tokens), 0))
            .where(schema.owned(_table, scope), _table.c.created_at >= since, _seen_online)
            .group_by(*keys)
            .order_by(*keys)
        )
        return [ReuseCount(*row) for row in self._database.rows(statement)]

    def by_quarter(self, scope: Scope, since: datetime, application: str | None = None) -> dict[datetime, int]:
        """Online requests since an instant, of an application or of all, by the beginning of their quarter of an
        hour."""
        quarter = (type_coerce(_table.c.created_at, BigInteger) // _QUARTER).label("quarter")
        of_one = {} if application is None else {"application": application}
        statement = select(quarter, func.count()).where(
            schema.owned(_table, scope, **of_one), _table.c.created_at >= since, _seen_online
        )
        return {
            from_microseconds(row[0] * _QUARTER): row[1] for row in self._database.rows(statement.group_by(quarter))
        }

    def counted(self, scope: Scope, application: str, since: datetime, most: int, *, generated: bool = False) -> int:
        """Counts online requests after a moment, up to ``most``; or those of them that no stored answer served."""
        conditions = [schema.owned(_table, scope, application=application), _table.c.created_at > since, _seen_online]
        if generated:
            conditions.append(_table.c.origin == "generated")
        found = select(_table.c.prediction).where(*conditions).limit(most).subquery()
        return int(self._database.scalar(select(func.count()).select_from(found)))

    def latest_online(self, scope: Scope, application: str, *, generated: bool = False) -> datetime | None:
        """The moment of an application's latest online request; or of the latest that no stored answer served."""
        at, of_users = _table.c.created_at, schema.owned(_table, scope, application=application) & _seen_online
        if generated:
            of_users &= _table.c.origin == "generated"
        row = self._database.first(select(at).where(of_users).order_by(at.desc()).limit(1))
        return None if row is None else row.created_at

    def demanded(
        self, scope: Scope, application: str, since: datetime, until: datetime, limit: int
    ) -> builtins.list[SubjectRequest]:
        """Online requests with ``since < created_at <= until``, oldest first: the newest ``limit``."""
        created_at = _table.c.created_at
        statement = (
            select(_table.c.application, _table.c.subject, _table.c.prediction, created_at)
            .where(schema.owned(_table, scope, application=application), created_at > since, created_at <= until)
            .where(_seen_online)
            .order_by(created_at.desc(), _table.c.prediction.desc())
            .limit(limit)
        )
        return [SubjectRequest(*row) for row in reversed(self._database.rows(statement))]


def _span(since: datetime | None, until: datetime | None) -> builtins.list[ColumnElement[bool]]:
    at = _table.c.created_at
    return [*([] if since is None else [at >= since]), *([] if until is None else [at < until])]
