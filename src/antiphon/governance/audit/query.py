"""Queries over the audit log by time, principal, action and subject."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.governance.audit.record import AuditEntry, entry
from antiphon.governance.audit.rows import COLUMNS, of_user, shown

MOST = 1_000
"""Records in one page."""


class AuditFilter(msgspec.Struct, frozen=True):
    """Conditions that a record meets.

    Attributes:
        who: a principal, or the originating user on whose behalf one acted.
        action: exactly this, or all that begin with it when it ends in ``*``: ``release.*``.
        subject: what it was done to; with ``*`` at its end, all that begin so.
        since, until: from this instant on; before this one.
        denied: only what was refused.
        before: records with a smaller sequence: the next page.
    """

    who: str | None = None
    action: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    denied: bool = False
    before: int | None = None
    limit: int = 50


def entries(database: Database, connection: Connection, scope: Scope, query: AuditFilter) -> list[AuditEntry]:
    """The page of records that the filter asks for, latest first.

    Raises:
        InvalidInputError: the limit is not between 1 and :data:`MOST`, or ``since`` is after ``until``.
    """
    if not 1 <= query.limit <= MOST:
        raise InvalidInputError(f"{query.limit} records are no page.", where="limit", next_step=f"Ask for 1 to {MOST}.")
    if query.since is not None and query.until is not None and query.since > query.until:
        raise InvalidInputError("The end lies before the beginning.", where="until", next_step="Swap the two.")
    table = schema.audit_entries
    statement = select(*COLUMNS).where(schema.owned(table, scope))
    if query.who is not None:
        statement = statement.where((table.c.principal == query.who) | of_user(database, scope, query.who))
    for column, text in ((table.c.action, query.action), (table.c.subject, query.subject)):
        if text is not None and text.endswith("*"):
            statement = statement.where(func.substr(column, 1, len(text) - 1) == text[:-1])
        elif text is not None:
            statement = statement.where(column == text)
    if query.since is not None:
        statement = statement.where(table.c.at >= microseconds(query.since))
    if query.until is not None:
        statement = statement.where(table.c.at < microseconds(query.until))
    if query.denied:
        statement = statement.where(table.c.outcome == "denied")
    if query.before is not None:
        statement = statement.where(table.c.sequence < query.before)
    found = connection.execute(statement.order_by(table.c.sequence.desc()).limit(query.limit))
    return [entry(scope, shown(database, scope, one)) for one in found]
