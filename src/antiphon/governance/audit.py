"""What was done, by whom, in which order: an append-only chain.

Invariant: an entry's hash covers its content, its number and the hash before it, under the server's secret. So a
changed, removed, inserted or reordered entry is found by :meth:`AuditLog.verify`, also when the whole chain was
written anew by somebody without the secret. Cutting off the end *and* setting the head back is found by comparing
with a checkpoint kept elsewhere (receipts carry one).
"""

from __future__ import annotations

import builtins
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import InvalidInput
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

_START = bytes(32)


class AuditEntry(msgspec.Struct, frozen=True):
    """One act. ``sequence`` counts per scope from 1; ``previous`` and ``hash`` are hex."""

    scope: Scope
    sequence: int
    at: datetime
    principal: str
    action: str
    subject: str
    detail: dict[str, Any]
    previous: str
    hash: str


class Verification(msgspec.Struct, frozen=True):
    """What checking the chain found; sound when there are no ``problems``."""

    entries: int
    checkpoint: str
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was changed, removed, inserted or reordered."""
        return not self.problems


class AuditLog:
    """Repository of audit entries.

    Args:
        database: the catalog.
        secret: the server's secret (``secret.load_secret``).
    """

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._secret = secret

    def append(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        within: Connection | None = None,
    ) -> AuditEntry:
        """Record an act; pass ``within`` to commit it together with what it did."""
        now = microseconds(self._database.clock.now())
        content = canonical(dict(detail or {}))
        with self._database.writing(within) as connection:
            sequence, previous = self._head(connection, scope)
            row = {
                "tenant": scope.tenant,
                "environment": scope.environment,
                "sequence": sequence + 1,
                "at": now,
                "principal": principal,
                "action": action,
                "subject": subject,
                "detail": content,
                "previous": previous,
            }
            row["hash"] = self._hash(scope, sequence + 1, now, principal, action, subject, content, previous)
            connection.execute(insert(schema.audit_entries).values(row))
            head = upsert(schema.audit_heads).values(
                tenant=scope.tenant, environment=scope.environment, sequence=sequence + 1, hash=row["hash"]
            )
            connection.execute(
                head.on_conflict_do_update(set_={"sequence": head.excluded.sequence, "hash": head.excluded.hash})
            )
            inserted = connection.execute(
                select(schema.audit_entries).where(
                    schema.owned(schema.audit_entries, scope), schema.audit_entries.c.sequence == sequence + 1
                )
            ).one()
        return _entry(inserted)

    def list(
        self,
        scope: Scope,
        *,
        before: int | None = None,
        limit: int = 50,
        action: str | None = None,
        within: Connection | None = None,
    ) -> builtins.list[AuditEntry]:
        """Entries with ``sequence < before``, latest first."""
        table = schema.audit_entries
        statement = select(table).where(schema.owned(table, scope))
        if before is not None:
            statement = statement.where(table.c.sequence < before)
        if action is not None:
            statement = statement.where(table.c.action == action)
        with self._database.reading(within) as connection:
            return [_entry(row) for row in connection.execute(statement.order_by(table.c.sequence.desc()).limit(limit))]

    def checkpoint(self, scope: Scope, *, within: Connection | None = None) -> str:
        """``sequence:hash`` of the last entry, to be kept elsewhere and given to :meth:`verify`."""
        with self._database.reading(within) as connection:
            sequence, digest = self._head(connection, scope)
        return f"{sequence}:{digest.hex()}"

    def verify(self, scope: Scope, checkpoint: str | None = None) -> Verification:
        """Check every entry of a scope, and that the chain still contains ``checkpoint``.

        Raises:
            InvalidInput: the checkpoint is malformed.
        """
        wanted = None if checkpoint is None else _parse(checkpoint)
        table = schema.audit_entries
        problems: builtins.list[str] = []
        expected, previous = 1, _START
        with self._database.read() as connection:
            head = self._head(connection, scope)
            for row in connection.execute(select(table).where(schema.owned(table, scope)).order_by(table.c.sequence)):
                if row.sequence != expected:
                    problems.append(f"entry {expected} is missing, {row.sequence} follows")
                elif row.previous != previous:
                    problems.append(f"entry {row.sequence} does not follow the entry before it")
                digest = self._hash(
                    scope, row.sequence, row.at, row.principal, row.action, row.subject, row.detail, row.previous
                )
                if not hmac.compare_digest(digest, row.hash):
                    problems.append(f"entry {row.sequence} was changed")
                if wanted is not None and row.sequence == wanted[0] and row.hash != wanted[1]:
                    problems.append(f"entry {row.sequence} is not the one of the checkpoint")
                expected, previous = row.sequence + 1, row.hash
        last = expected - 1
        if head != (last, previous):
            problems.append(f"the chain ends at entry {last}, its head is entry {head[0]}")
        if wanted is not None and wanted[0] > last:
            problems.append(f"the checkpoint's entry {wanted[0]} is missing")
        return Verification(last, f"{last}:{previous.hex()}", tuple(problems))

    def _head(self, connection: Connection, scope: Scope) -> tuple[int, bytes]:
        table = schema.audit_heads
        row = connection.execute(select(table.c.sequence, table.c.hash).where(schema.owned(table, scope))).first()
        return (0, _START) if row is None else (row.sequence, row.hash)

    def _hash(self, scope: Scope, *parts: Any) -> bytes:
        return hmac.digest(self._secret, canonical([scope.tenant, scope.environment, *parts]), "sha256")


def _parse(checkpoint: str) -> tuple[int, bytes]:
    sequence, _, digest = checkpoint.partition(":")
    try:
        return int(sequence), bytes.fromhex(digest)
    except ValueError as error:
        raise InvalidInput(
            f"{checkpoint!r} is not a checkpoint.", where="checkpoint", next_step="Give SEQUENCE:HASH as it was kept."
        ) from error


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        scope=Scope(row.tenant, row.environment),
        sequence=row.sequence,
        at=from_microseconds(row.at),
        principal=row.principal,
        action=row.action,
        subject=row.subject,
        detail=msgspec.json.decode(row.detail),
        previous=row.previous.hex(),
        hash=row.hash.hex(),
    )
