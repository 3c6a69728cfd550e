"""Counts over columns of receipts: answers that came from store, and subjects of requests."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import func, select

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.receipts import SEEN_ROLES, STAND_IN_ROLES, Role
from antiphon.core.clock import from_microseconds, microseconds
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


class ReceiptCounts:
    """Counts over the receipts' columns; no payload is opened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reuse(self, scope: Scope, since: datetime) -> list[ReuseCount]:
        """Counts the online answers since an instant by the place they came from."""
        table = schema.receipts
        keys = (table.c.application, table.c.origin, table.c.role)
        statement = (
            select(*keys, func.count().label("answers"), func.sum(table.c.saved_tokens).label("saved"))
            .where(
                schema.owned(table, scope),
                table.c.created_at >= microseconds(since),
                table.c.path == "online",
                table.c.role.in_(SEEN_ROLES + STAND_IN_ROLES),
            )
            .group_by(*keys)
            .order_by(*keys)
        )
        with self._database.read() as connection:
            return [
                ReuseCount(row.application, row.origin, row.role, row.answers, int(row.saved or 0))
                for row in connection.execute(statement)
            ]

    def demanded(
        self, scope: Scope, application: str, since: datetime, until: datetime, limit: int
    ) -> list[SubjectRequest]:
        """Online requests with ``since < created_at <= until``, oldest first: the newest ``limit``."""
        table = schema.receipts
        statement = (
            select(table.c.subject, table.c.prediction, table.c.created_at)
            .where(
                schema.owned(table, scope),
                table.c.application == application,
                table.c.created_at > microseconds(since),
                table.c.created_at <= microseconds(until),
                table.c.path == "online",
                table.c.role.in_(SEEN_ROLES + STAND_IN_ROLES),
            )
            .order_by(table.c.created_at.desc(), table.c.prediction.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [
            SubjectRequest(application, row.subject, row.prediction, from_microseconds(row.created_at))
            for row in reversed(rows)
        ]
