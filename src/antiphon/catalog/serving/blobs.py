"""Blobs: texts and documents by the SHA-256 of their clear bytes, each erasable by itself.

Invariant: a blob belongs to one tenant and environment; the same text in two scopes is two blobs, so that
erasing one says nothing about the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts, upsert
from antiphon.core.errors import CorruptionError, NotFoundError
from antiphon.core.scope import Scope

_SCHEMA = "blob/1"

# Built once: it runs for every receipt.
_put = upsert(schema.blobs)
_put = _put.on_conflict_do_update(
    set_={"payload": _put.excluded.payload, "erased_at": None}, where=schema.blobs.c.payload.is_(None)
)


class Blobs:
    """Repository of blobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, scope: Scope, content: bytes, *, within: Connection | None = None) -> str:
        """Store bytes once and return their SHA-256 hex."""
        return self.put_many(scope, (content,), within=within)[0]

    def put_many(self, scope: Scope, contents: Iterable[bytes], *, within: Connection | None = None) -> tuple[str, ...]:
        """Store several; returns their SHA-256 hex in order. A blob that was erased comes back."""
        hashed = [(hashlib.sha256(content).hexdigest(), content) for content in contents]
        if not hashed:
            return ()
        now = self._database.clock.now()
        rows = [
            {
                "tenant": scope.tenant,
                "environment": scope.environment,
                "hash": digest,
                "payload": self._database.seal(scope, _SCHEMA, digest, content),
                "size": len(content),
                "created_at": now,
                "erased_at": None,
            }
            for digest, content in hashed
        ]
        with self._database.writing(within) as connection:
            connection.execute(_put, rows)
        return tuple(digest for digest, _ in hashed)

    def get(self, scope: Scope, blob: str, *, within: Connection | None = None) -> bytes:
        """The bytes with this hash.

        Raises:
            NotFoundError: never stored here, or erased.
            CorruptionError: the stored bytes do not have this hash.
        """
        table = schema.blobs
        row = self._database.first(
            select(table.c.payload, table.c.erased_at).where(schema.owned(table, scope, hash=blob)), within
        )
        if row is None:
            raise NotFoundError(
                f"There is no blob {blob[:12]}…", where=str(scope), next_step="Check tenant and environment."
            )
        if row.payload is None:
            raise NotFoundError(
                f"The blob {blob[:12]}… was erased at {row.erased_at.isoformat()}.",
                where=str(scope),
                next_step="Erased texts cannot be brought back.",
            )
        return self._opened(scope, blob, row.payload)

    def get_many(self, scope: Scope, blobs: Iterable[str]) -> dict[str, bytes]:
        """Hashes to their bytes, without those that were never stored here, or were erased; raises
        ``CorruptionError`` as :meth:`get`."""
        table = schema.blobs
        return {
            row.hash: self._opened(scope, row.hash, row.payload)
            for some in in_parts(table.c.hash, blobs)
            for row in self._database.rows(
                select(table.c.hash, table.c.payload).where(
                    schema.owned(table, scope), some, table.c.payload.is_not(None)
                )
            )
        }

    def _opened(self, scope: Scope, blob: str, payload: bytes) -> bytes:
        content = self._database.unseal(scope, _SCHEMA, blob, payload)
        if hashlib.sha256(content).hexdigest() != blob:
            raise CorruptionError(
                f"The blob {blob[:12]}… does not match its hash.", where=str(scope), next_step="Restore a backup."
            )
        return content

    def erase(self, scope: Scope, blob: str) -> bool:
        """Delete the bytes and remember that they were erased; ``Database.erase_free_space`` clears the log's copy.

        Returns:
            Whether there were bytes to erase.
        """
        table = schema.blobs
        statement = update(table).where(schema.owned(table, scope, hash=blob), table.c.payload.is_not(None))
        return self._database.write(statement.values(payload=None, erased_at=self._database.clock.now())) == 1
