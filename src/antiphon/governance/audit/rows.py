"""Rows of ``audit_entries``; in an encrypted project the originating user's name is sealed.

Invariant: what a leaf commits to is the clear text, so migrating a project into encryption or out of it leaves its log
the same. A sealed name belongs to its record's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import ORIGINATOR, SealedName
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.governance.audit.record import AuditRow

COLUMNS = tuple(schema.audit_entries.c[2:])
"""Columns that :func:`loaded` takes, in its order."""

UNREADABLE = "(does not open)"
"""Stands for a user's name that does not open where a record is only shown; no name looks like it."""

_user = SealedName(ORIGINATOR)
_ORIGINATOR_AT = AuditRow.__struct_fields__.index("originator")
_INSERT = f"INSERT INTO audit_entries VALUES ({', '.join('?' * (2 + len(COLUMNS)))})"


def insertion(database: Database, scope: Scope, rows: Sequence[AuditRow]) -> tuple[str, list[tuple[Any, ...]]]:
    """The statement that stores records, and its parameters."""
    return _INSERT, [(scope.tenant, scope.environment, *_stored(database, scope, row)) for row in rows]


def _stored(database: Database, scope: Scope, row: AuditRow) -> tuple[Any, ...]:
    values = msgspec.structs.astuple(row)
    if row.originator is None or not database.codec.sealing:
        return (*values, None)
    index, sealed = _user.stored(database, scope, str(row.sequence), row.originator)
    return (*values[:_ORIGINATOR_AT], index, *values[_ORIGINATOR_AT + 1 :], sealed)


def loaded(database: Database, scope: Scope, stored: Sequence[Any]) -> AuditRow:
    """The record in clear.

    Raises:
        CorruptionError: its user's name does not open, or has another index.
    """
    *values, sealed = stored
    row = AuditRow(*values)
    if sealed is None:
        return row
    name = _user.opened(database, scope, str(row.sequence), row.originator, sealed)
    return msgspec.structs.replace(row, originator=name)


def shown(database: Database, scope: Scope, stored: Sequence[Any]) -> AuditRow:
    """Like :func:`loaded`, with :data:`UNREADABLE` for a name that does not open: the page's others are shown."""
    try:
        return loaded(database, scope, stored)
    except CorruptionError:
        return msgspec.structs.replace(AuditRow(*stored[:-1]), originator=UNREADABLE)


def of_user(database: Database, scope: Scope, name: str) -> ColumnElement[bool]:
    """The condition that a record's originating user is this one."""
    return _user.is_(database, scope, name)
