"""Data keys: one active 32-byte key a tenant, environment and purpose,
kept in the catalog as their provider wrapped it.

Invariants: a key that sealed something stays until nothing is sealed with it; at most one of a purpose is active; the
index key is never rotated, because what is looked up by it would be lost.
"""

from __future__ import annotations

import builtins
import secrets
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import CorruptionError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.governance.encryption.key_provider import KEY_BYTES, KeyProvider, WrappedKey

Purpose = Literal["payload", "index"]


class DataKeyRecord(msgspec.Struct, frozen=True):
    """A data key as it is kept. ``state``: ``active`` seals and opens, ``retired`` opens only."""

    scope: Scope
    id: str
    purpose: Purpose
    state: Literal["active", "retired"]
    provider: str
    wrapped: WrappedKey
    created_at: datetime
    retired_at: datetime | None


class DataKeys:
    """Repository of data keys."""

    def __init__(self, database: Database, provider: KeyProvider) -> None:
        self.database = database
        self._provider = provider

    def active(
        self, scope: Scope, purpose: Purpose = "payload", *, within: Connection | None = None
    ) -> DataKeyRecord | None:
        """The key for new payloads, ``None`` before the first."""
        table = schema.data_keys
        with self.database.reading(within) as connection:
            row = connection.execute(
                select(table).where(schema.owned(table, scope), table.c.purpose == purpose, table.c.state == "active")
            ).first()
        return None if row is None else _record(row)

    def get(self, scope: Scope, key: str, *, within: Connection | None = None) -> DataKeyRecord | None:
        """One key by id."""
        table = schema.data_keys
        with self.database.reading(within) as connection:
            row = connection.execute(select(table).where(schema.owned(table, scope), table.c.id == key)).first()
        return None if row is None else _record(row)

    def list(self) -> builtins.list[DataKeyRecord]:
        """Every key by scope, oldest first."""
        table = schema.data_keys
        statement = select(table).order_by(table.c.tenant, table.c.environment, table.c.created_at, table.c.id)
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def ensure(self, scope: Scope, purpose: Purpose = "payload", *, within: Connection | None = None) -> DataKeyRecord:
        """The active key; made when there is none."""
        with self.database.writing(within) as connection:
            known = self.active(scope, purpose, within=connection)
            return known if known is not None else self._add(connection, scope, purpose)

    def rotate(self, scope: Scope, *, within: Connection | None = None) -> DataKeyRecord:
        """Make a new key for new payloads; the one before goes on opening what it sealed."""
        table = schema.data_keys
        with self.database.writing(within) as connection:
            connection.execute(
                update(table)
                .where(schema.owned(table, scope), table.c.purpose == "payload", table.c.state == "active")
                .values(state="retired", retired_at=microseconds(self.database.clock.now()))
            )
            return self._add(connection, scope, "payload")

    def unwrap(self, record: DataKeyRecord) -> bytes:
        """The key itself.

        Raises:
            SetupError: the provider lacks the wrapping key, or is another one. UnavailableError: it is away.
            CorruptionError: the row was changed or moved.
        """
        key = self._provider.unwrap(record.wrapped, _context(record.scope, record.id, record.purpose))
        if len(key) != KEY_BYTES:
            raise CorruptionError(
                f"The data key {record.id} has {len(key)} bytes.", where=str(record.scope),
                next_step="Restore the catalog from a backup.",
            )  # fmt: skip
        return key

    def rewrap(self, record: DataKeyRecord) -> bool:
        """Wrap a key by the provider's current wrapping key; whether it was wrapped by another before.

        What it seals is not touched, and processes that hold the key notice nothing.
        """
        wrapped = self._provider.wrap(self.unwrap(record), _context(record.scope, record.id, record.purpose))
        table = schema.data_keys
        with self.database.transaction() as connection:
            connection.execute(
                update(table)
                .where(
                    schema.owned(table, record.scope), table.c.id == record.id,
                    table.c.wrapped == record.wrapped.content,
                )
                .values(
                    wrapped=wrapped.content, wrapping_key=wrapped.wrapping_key, provider=self._provider.name
                )
            )  # fmt: skip
        return wrapped.wrapping_key != record.wrapped.wrapping_key

    def _add(self, connection: Connection, scope: Scope, purpose: Purpose) -> DataKeyRecord:
        key = new_id("key")
        wrapped = self._provider.wrap(secrets.token_bytes(KEY_BYTES), _context(scope, key, purpose))
        now = microseconds(self.database.clock.now())
        connection.execute(
            insert(schema.data_keys).values(
                tenant=scope.tenant,
                environment=scope.environment,
                id=key,
                purpose=purpose,
                state="active",
                provider=self._provider.name,
                wrapping_key=wrapped.wrapping_key,
                wrapped=wrapped.content,
                created_at=now,
            )
        )
        made = from_microseconds(now)
        return DataKeyRecord(scope, key, purpose, "active", self._provider.name, wrapped, made, None)


def _context(scope: Scope, key: str, purpose: str) -> bytes:
    return f"antiphon data key\0{purpose}\0{scope.tenant}\0{scope.environment}\0{key}".encode()


def _record(row: Row[Any]) -> DataKeyRecord:
    return DataKeyRecord(
        scope=Scope(row.tenant, row.environment),
        id=row.id,
        purpose=row.purpose,
        state=row.state,
        provider=row.provider,
        wrapped=WrappedKey(row.wrapping_key, row.wrapped),
        created_at=from_microseconds(row.created_at),
        retired_at=None if row.retired_at is None else from_microseconds(row.retired_at),
    )
