"""How a record lies in ``audit_entries``: in an encrypted project the user on whose behalf somebody acted is sealed.

Invariant: what a leaf commits to is the clear text, so a log is the same log before, during and after a project's way
into encryption or out of it. A sealed name belongs to its record's number, and its index to the name: one that was
changed, moved or taken away does not load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, or_

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import ORIGINATOR
from antiphon.core.codec import Codec
from antiphon.core.errors import Corrupt
from antiphon.core.scope import Scope
from antiphon.governance.audit_record import Row

COLUMNS = tuple(schema.audit_entries.c[2:])
"""What :func:`loaded` takes, in its order."""

UNREADABLE = "(does not open)"
"""Stands for a user's name that does not open where a record is only shown; no name looks like it."""

assert ORIGINATOR.named is not None
_PURPOSE = ORIGINATOR.named[1]
_ORIGINATOR_AT = Row.__struct_fields__.index("originator")
_INSERT = f"INSERT INTO audit_entries VALUES ({', '.join('?' * (2 + len(COLUMNS)))})"


def insertion(database: Database, scope: Scope, rows: Sequence[Row]) -> tuple[str, list[tuple[Any, ...]]]:
    """The statement that stores records, and its parameters."""
    owner = (scope.tenant, scope.environment)
    if not database.codec.sealing:
        return _INSERT, [(*owner, *msgspec.structs.astuple(row), None) for row in rows]
    return _INSERT, [(*owner, *_sealed(database, scope, row)) for row in rows]


def _sealed(database: Database, scope: Scope, row: Row) -> tuple[Any, ...]:
    values = msgspec.structs.astuple(row)
    if row.originator is None:
        return (*values, None)
    sealed = database.seal(scope, ORIGINATOR.schema, str(row.sequence), row.originator.encode())
    return (
        *values[:_ORIGINATOR_AT],
        index(database.codec, scope, row.originator),
        *values[_ORIGINATOR_AT + 1 :],
        sealed,
    )


def loaded(database: Database, scope: Scope, stored: Sequence[Any]) -> Row:
    """The record in clear.

    Raises:
        Corrupt: its user's name does not open, or has another index.
    """
    *values, sealed = stored
    row = Row(*values)
    if sealed is None:
        return row
    name = b""
    if database.codec.sealing and isinstance(sealed, bytes):  # in plaintext, what stands there was put there
        name = database.unseal(scope, ORIGINATOR.schema, str(row.sequence), sealed)
    if row.originator is None or row.originator != index(database.codec, scope, name.decode(errors="replace")):
        raise Corrupt(
            f"The user of record {row.sequence} is sealed under another index.",
            where=f"{scope} audit",
            next_step="Run `antiphon audit verify`.",
        )
    return msgspec.structs.replace(row, originator=name.decode())


def shown(database: Database, scope: Scope, stored: Sequence[Any]) -> Row:
    """Like :func:`loaded`, with :data:`UNREADABLE` for a name that does not open: the page's others are shown."""
    try:
        return loaded(database, scope, stored)
    except Corrupt:
        return msgspec.structs.replace(Row(*stored[:-1]), originator=UNREADABLE)


def index(codec: Codec, scope: Scope, name: str) -> str:
    """What stands in the column ``originator`` for a user."""
    return codec.index(name, scope, _PURPOSE)


def of_user(database: Database, scope: Scope, name: str) -> ColumnElement[bool]:
    """The condition that a record's originating user is this one."""
    table = schema.audit_entries
    if not database.codec.sealing:
        return table.c.originator == name
    # A record from before the project was encrypted has its user in clear until it is sealed anew.
    return or_(
        and_(table.c.originator == index(database.codec, scope, name), table.c.originator_sealed.is_not(None)),
        and_(table.c.originator == name, table.c.originator_sealed.is_(None)),
    )
