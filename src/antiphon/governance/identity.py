"""Who is asking: principals and their API keys.

Invariants: a key is shown once and stored only as its HMAC under the server's secret, so a copy of the catalog
opens nothing; a revoked or expired key stops working within :data:`LEASE_SECONDS` in every process that reaches
the catalog, and within ``revocation_bound`` seconds in one that does not.
"""

from __future__ import annotations

import builtins
import hmac
import re
import secrets
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import Conflict, InvalidInput, NotFound, Unauthenticated, Unavailable
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope

Role = Literal["admin", "engineer", "service", "viewer"]
Kind = Literal["person", "service"]

LEASE_SECONDS = 0.5
REVOCATION_BOUND_SECONDS = 30.0
_MOST_REMEMBERED = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,127}\Z")
_ANY_ENVIRONMENT = "*"


class Principal(msgspec.Struct, frozen=True):
    """Somebody or something that may ask. ``id`` is the name its keys were made for."""

    id: str
    tenant: str
    role: Role
    kind: Kind = "service"


class KeyRecord(msgspec.Struct, frozen=True):
    """An API key without its secret; ``hint`` is its end, to recognise it by."""

    id: str
    tenant: str
    name: str
    role: Role
    kind: Kind
    hint: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def principal(self) -> Principal:
        """Whom the key speaks for."""
        return Principal(id=self.name, tenant=self.tenant, role=self.role, kind=self.kind)


class _Remembered(msgspec.Struct, frozen=True):
    record: KeyRecord
    checked: float


class Keys:
    """Repository of API keys.

    Args:
        database: the catalog.
        secret: the server's secret (``secret.load_secret``).
        revocation_bound: for how many seconds a key that was valid is believed while the catalog is away.
    """

    def __init__(
        self, database: Database, secret: bytes, *, revocation_bound: float = REVOCATION_BOUND_SECONDS
    ) -> None:
        self._database = database
        self._secret = secret
        self._bound = revocation_bound
        self._remembered: dict[bytes, _Remembered] = {}

    def create(
        self,
        tenant: str,
        name: str,
        role: str,
        expires_at: datetime | None = None,
        *,
        kind: Kind = "service",
        within: Connection | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key for a principal; the text is shown this once. A principal may have several, to rotate them.

        Raises:
            InvalidInput: a malformed tenant or name, an unknown role, an expiry that has passed.
            Conflict: the principal has a valid key with another role.
        """
        Scope(tenant=tenant)
        if not _NAME.match(name):
            raise InvalidInput(
                f"{name!r} is not a principal's name.",
                where="name",
                next_step="Use letters, digits and @ . _ -, at most 128, first a letter or digit.",
            )
        if role not in get_args(Role):
            raise InvalidInput(
                f"{role!r} is not a role.", where="role", next_step=f"Use one of {', '.join(get_args(Role))}."
            )
        now = self._database.clock.now()
        if expires_at is not None and microseconds(expires_at) <= microseconds(now):
            raise InvalidInput(
                f"{expires_at.isoformat()} has passed.", where="expires_at", next_step="Name a later time."
            )
        text = f"ak_{secrets.token_urlsafe(32)}"
        with self._database.writing(within) as connection:
            for other in self.list(tenant, within=connection):
                if other.name == name and other.role != role and _refusal(other, now) is None:
                    raise Conflict(
                        f"{name!r} has a valid key with the role {other.role}.",
                        where=tenant,
                        next_step=f"Revoke {other.id} first, or choose another name.",
                    )
            key = new_id("key")
            connection.execute(
                insert(schema.api_keys).values(
                    tenant=tenant,
                    environment=_ANY_ENVIRONMENT,
                    id=key,
                    name=name,
                    role=role,
                    kind=kind,
                    hash=self._hash(text),
                    hint=text[-4:],
                    created_at=microseconds(now),
                    expires_at=None if expires_at is None else microseconds(expires_at),
                )
            )
            return text, self.get(tenant, key, within=connection)

    def authenticate(self, text: str) -> Principal:
        """Whom a key speaks for.

        Raises:
            Unauthenticated: no key, an unknown one, an expired or revoked one.
            Unavailable: the catalog is away and the key was not seen within the revocation bound.
        """
        if not text.startswith("ak_"):
            raise Unauthenticated(
                "No API key was sent, or it is malformed.",
                where="Authorization",
                next_step="Send `Authorization: Bearer ak_…`; make a key with `antiphon keys create`.",
            )
        digest = self._hash(text)
        clock = self._database.clock
        known = self._remembered.get(digest)
        age = None if known is None else clock.monotonic() - known.checked
        if known is None or age is None or age > LEASE_SECONDS:
            try:
                found = self._find(digest)
            except Unavailable:
                if known is None or age is None or age > self._bound:
                    raise
            else:
                known = self._remember(digest, found, clock.monotonic())
        if known is None:
            raise Unauthenticated(
                "The API key is unknown.", where="Authorization", next_step="Make one with `antiphon keys create`."
            )
        if (refusal := _refusal(known.record, clock.now())) is not None:
            raise Unauthenticated(
                f"The API key {known.record.id} is {refusal}.",
                where="Authorization",
                next_step="Make a new one with `antiphon keys create`.",
            )
        return known.record.principal

    def get(self, tenant: str, key: str, *, within: Connection | None = None) -> KeyRecord:
        """One key's record.

        Raises:
            NotFound: the tenant has no such key.
        """
        table = schema.api_keys
        with self._database.reading(within) as connection:
            row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.id == key)).first()
        if row is None:
            raise NotFound(f"There is no API key {key!r}.", where=tenant, next_step="See `antiphon keys list`.")
        return _record(row)

    def list(self, tenant: str, *, within: Connection | None = None) -> builtins.list[KeyRecord]:
        """A tenant's keys, latest first, revoked ones included."""
        table = schema.api_keys
        statement = select(table).where(table.c.tenant == tenant).order_by(table.c.created_at.desc(), table.c.id)
        with self._database.reading(within) as connection:
            return [_record(row) for row in connection.execute(statement)]

    def revoke(self, tenant: str, key: str, *, within: Connection | None = None) -> KeyRecord:
        """Stop a key for good. Revoking it again changes nothing.

        Raises:
            NotFound: the tenant has no such key.
        """
        table = schema.api_keys
        with self._database.writing(within) as connection:
            connection.execute(
                update(table)
                .where(table.c.tenant == tenant, table.c.id == key, table.c.revoked_at.is_(None))
                .values(revoked_at=microseconds(self._database.clock.now()))
            )
            record = self.get(tenant, key, within=connection)
        self._remembered.clear()
        return record

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")

    def _find(self, digest: bytes) -> KeyRecord | None:
        table = schema.api_keys
        with self._database.read() as connection:
            row = connection.execute(select(table).where(table.c.hash == digest)).first()
        return None if row is None else _record(row)

    def _remember(self, digest: bytes, found: KeyRecord | None, now: float) -> _Remembered | None:
        if found is None:
            self._remembered.pop(digest, None)
            return None
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        known = _Remembered(found, now)
        self._remembered[digest] = known
        return known


def _refusal(record: KeyRecord, now: datetime) -> str | None:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= now:
        return "expired"
    return None


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        role=row.role,
        kind=row.kind,
        hint=row.hint,
        created_at=from_microseconds(row.created_at),
        expires_at=None if row.expires_at is None else from_microseconds(row.expires_at),
        revoked_at=None if row.revoked_at is None else from_microseconds(row.revoked_at),
    )
