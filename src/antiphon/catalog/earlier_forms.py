"""Catalogs of earlier forms: revisions that were numbered anew, and documents from before they were envelopes.

Until revision 0016 migrations were renumbered when branches met, so a catalog's revision did not always name the
migrations it had seen; from there on they are append-only, and this module gains nothing more. Which case a catalog is
follows from its tables and columns.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Inspector

from antiphon.catalog.sealed_columns import SEALED_COLUMNS, SealedColumn
from antiphon.core.codec import Envelope, PlainCodec, pack, unpack
from antiphon.core.errors import CorruptionError

_ENVELOPES_FROM = "0006"
"""The revision from which on every document of the catalog is an envelope."""

_READ_AT_ONCE = 500


class RenumberedRevision(msgspec.Struct, frozen=True):
    """A revision that once meant another migration.

    Attributes:
        stamped: the revision in the file.
        has: the table and column that say that it is the other migration, ``None`` for the table alone.
        skipped: the migration that has this number now and was not run.
        reached: the revision once that one is run too.
    """

    stamped: str
    has: tuple[str, str | None]
    skipped: str
    reached: str


RENUMBERED = (
    RenumberedRevision("0007", ("verdicts", None), skipped="0007", reached="0008"),
    RenumberedRevision("0014", ("receipts", "saved_tokens"), skipped="0014", reached="0015"),
)


def settle(connection: Connection, scripts: ScriptDirectory, found: str) -> None:
    """Bring a catalog of an earlier form to one from which the present migrations go on; nothing for any other.

    Args:
        found: the revision in the file.
    """
    inspector = sa.inspect(connection)
    for case in RENUMBERED:
        if case.stamped == found and _has(inspector, *case.has):
            with Operations.context(MigrationContext.configure(connection)):
                scripts.get_revision(case.skipped).module.upgrade()
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :number"), {"number": case.reached})
    if found < _ENVELOPES_FROM:
        for column in SEALED_COLUMNS:
            if _has(inspector, column.table, column.column):
                keys = inspector.get_pk_constraint(column.table)["constrained_columns"]
                _put_into_envelopes(connection, keys, column)
        _put_ids_beside_payloads(connection)


def _has(inspector: Inspector, table: str, column: str | None) -> bool:
    if not inspector.has_table(table):
        return False
    return column is None or column in {found["name"] for found in inspector.get_columns(table)}


def _put_into_envelopes(connection: Connection, keys: Sequence[str], column: SealedColumn) -> None:
    """Every bare document of a column, in the clear envelope that is written now."""
    held: sa.ColumnClause[bytes | str] = sa.column(column.column)
    places: list[sa.ColumnClause[Any]] = [sa.column(key) for key in keys]
    table = sa.table(column.table, held, *places)
    wrap = sa.update(table).values({column.column: sa.bindparam("wrapped")})
    wrap = wrap.where(*(place == sa.bindparam(f"at_{place.name}") for place in places))
    stored = connection.execute(sa.select(*places, held).where(held.is_not(None)))
    # Read to its end first: a table must not change under the cursor that goes through it.
    bare = [tuple(row) for rows in stored.partitions(_READ_AT_ONCE) for row in rows if not _enveloped(row[-1])]
    for *place, content in bare:
        parameters = {f"at_{key}": value for key, value in zip(keys, place, strict=True)}
        connection.execute(wrap, {**parameters, "wrapped": _enveloping(column, content)})


def _put_ids_beside_payloads(connection: Connection) -> None:
    """Store every event as its id and its payload; it was the payload alone."""
    names = ("tenant", "environment", "stream", "offset", "event_id")
    places: list[sa.ColumnClause[Any]] = [sa.column(name) for name in names]
    held: sa.ColumnClause[bytes] = sa.column("payload")
    table = sa.table("events", held, *places)
    change = sa.update(table).values(payload=sa.bindparam("changed"))
    change = change.where(*(place == sa.bindparam(f"at_{place.name}") for place in places))
    rows = connection.execute(sa.select(*places, held))
    alone = [tuple(row) for part in rows.partitions(_READ_AT_ONCE) for row in part]
    for *place, stored in alone:
        envelope = unpack(stored)
        if envelope.content.startswith(b"{"):
            content = msgspec.json.encode([place[-1], msgspec.Raw(envelope.content)])
            changed = pack(msgspec.structs.replace(envelope, content=content))
            parameters = {f"at_{name}": value for name, value in zip(names, place, strict=True)}
            connection.execute(change, {**parameters, "changed": changed})


def _enveloped(stored: bytes | str) -> bool:
    try:
        unpack(stored if isinstance(stored, bytes) else base64.b64decode(stored, validate=True))
    except (CorruptionError, binascii.Error, ValueError):
        return False
    return True


def _enveloping(column: SealedColumn, content: bytes | str) -> bytes | str:
    clear = content if isinstance(content, bytes) else content.encode()
    packed = pack(Envelope(column.schema, PlainCodec.name, None, clear))
    return base64.b64encode(packed).decode() if column.text else packed
