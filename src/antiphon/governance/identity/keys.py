"""API keys: made, limited, rotated, revoked, authenticated.

Invariants: a key is shown once and stored only as its HMAC under the server's secret. It gives what its principal's
role permits now, within its own limits, and stops within the lease (``revocation.py``) in every process.
"""

from __future__ import annotations

import builtins
import hmac
import re
import secrets
from datetime import datetime, timedelta
from typing import get_args

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, UnauthenticatedError
from antiphon.core.ids import new_id
from antiphon.core.leases import Renewer
from antiphon.core.scope import ANY, Scope
from antiphon.governance.identity.key_records import (
    KeyRecord,
    KeyRotation,
    is_key,
    key_record,
    select_keys,
    stored_allowance,
)
from antiphon.governance.identity.last_use import LastUse
from antiphon.governance.identity.principal import (
    NO_ALLOWANCE,
    NO_LIMITS,
    Allowance,
    Kind,
    Limits,
    Principal,
    check_allowance,
    check_grant,
    check_key_name,
    check_limits,
    subject_of,
)
from antiphon.governance.identity.principals import Principals
from antiphon.governance.identity.revocation import REVOCATION_BOUND_SECONDS, CredentialLeases, NewestTime
from antiphon.governance.identity.tenants import require_served
from antiphon.governance.policy.request import Action

PREFIX = "ak_"
LONGEST_OVERLAP = timedelta(days=30)
_KnownKey = tuple[KeyRecord, Principal]
_SHAPE = re.compile(r"ak_[A-Za-z0-9_-]{43}\Z")


class Keys:
    """Repository of API keys, which are hashed under the server's secret (``secret.load_secret``).

    Args:
        revocation_bound: for how many seconds a key that was valid is believed while the catalog is away.
        renewer: reads again what is believed of keys before that ends.
    """

    def __init__(
        self,
        database: Database,
        secret: bytes,
        *,
        revocation_bound: float = REVOCATION_BOUND_SECONDS,
        last_use: LastUse | None = None,
        renewer: Renewer | None = None,
    ) -> None:
        self._database = database
        self._keyed = hmac.new(secret, digestmod="sha256")
        self.principals = Principals(database)
        self.newest = NewestTime(database.clock)
        """The time that expiry is judged by; shared with sessions and tokens."""
        self.last_use = last_use or LastUse(database)
        self._leases: CredentialLeases[_KnownKey] = CredentialLeases(database.clock, revocation_bound, renewer=renewer)
        self._validity: CredentialLeases[bool] = CredentialLeases(database.clock, revocation_bound, renewer=renewer)

    def create(
        self,
        tenant: str,
        name: str,
        role: str,
        expires_at: datetime | None = None,
        *,
        kind: Kind = "service",
        limits: Limits = NO_LIMITS,
        allowance: Allowance = NO_ALLOWANCE,
        by: Principal | None = None,
        waits: bool = False,
        within: Connection | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key for a principal, and the principal if it is new; the text is shown this once.

        Args:
            by: who makes it.
            waits: it opens nothing until :meth:`approve`.

        Raises:
            InvalidInputError: a malformed tenant, name, limit or quota, an unknown role, an expiry that has passed.
            ConflictError: the principal is disabled, or has a valid key with another role.
        """
        check_key_name(name)
        check_limits(limits, frozenset(get_args(Action)))
        check_allowance(allowance)
        now = self._database.clock.now()
        if expires_at is not None and microseconds(expires_at) <= microseconds(now):
            raise InvalidInputError(
                f"{expires_at.isoformat()} has passed.", where="expires_at", next_step="Name a later time."
            )
        with self._database.writing(within) as connection:
            made_by = self._maker(connection, tenant, name, by)
            valid = [one.id for one in self.list(tenant, within=connection) if one.name == name and one.may_open(now)]
            self.principals.ensure(tenant, name, role, kind=kind, made_by=made_by, valid=valid, within=connection)
            return self._insert(connection, tenant, name, limits, allowance, now, expires_at, made_by, waits)

    def rotate(
        self,
        tenant: str,
        name: str,
        overlap: timedelta,
        *,
        granting: Limits = NO_LIMITS,
        by: Principal | None = None,
        waits: bool = False,
        within: Connection | None = None,
    ) -> KeyRotation:
        """Make a key like a principal's present one, which then expires after the overlap.

        Args:
            name: the principal, or the id of the key where it has several.
            granting: what the key that asks for it is for.
            by: who asks for it. ``waits``: the new key opens nothing until :meth:`approve`.

        Raises:
            NotFoundError: there is no valid key of that name or id.
            ConflictError: the principal has several keys that were not rotated.
            ForbiddenError: the key is for more than the one that asks for it.
            InvalidInputError: the overlap is longer than :data:`LONGEST_OVERLAP`.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InvalidInputError(
                f"An overlap of {overlap} is not possible.",
                where="overlap",
                next_step=f"Use at most {LONGEST_OVERLAP.days}d.",
            )
        now = self.newest.now()
        with self._database.writing(within) as connection:
            found = [
                record
                for record in self.list(tenant, within=connection)
                if name in (record.name, record.id) and record.refusal(now) is None and record.replaced_by is None
            ]
            if not found:
                raise NotFoundError(
                    f"There is no valid key of {name!r} that was not rotated yet.",
                    where=tenant,
                    next_step="See `antiphon keys list`; make one with `antiphon keys create`.",
                )
            if len(found) > 1:
                raise ConflictError(
                    f"{name!r} has {len(found)} valid keys.",
                    where=tenant,
                    next_step=f"Name one of them: {', '.join(record.id for record in found)}.",
                )
            old = found[0]
            check_grant(granting, old.limits)
            lasts = None if old.expires_at is None else old.expires_at - old.created_at
            # Its usage goes on where the old key's is: a rotation gives nobody a fresh quota.
            allowance = msgspec.structs.replace(old.allowance, bucket=old.allowance.bucket or old.id)
            made_by = old.made_by if by is not None and by.id == old.name else self._maker(connection, tenant, "", by)
            text, record = self._insert(
                connection, tenant, old.name, old.limits, allowance, now, None if lasts is None else now + lasts,
                made_by, waits,
            )  # fmt: skip
            end = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            connection.execute(
                update(schema.api_keys)
                .where(*is_key(tenant, old.id))
                .values(expires_at=microseconds(end), replaced_by=record.id)
            )
            replaced = self.get(tenant, old.id, within=connection)
        self._leases.forget()
        return KeyRotation(text, record, replaced)

    def approve(self, tenant: str, key: str, by: str, *, within: Connection | None = None) -> KeyRecord:
        """Let a key open what it is for.

        Raises:
            NotFoundError: the tenant has no such key.
            ConflictError: it does not wait for that.
        """
        with self._database.writing(within) as connection:
            found = self.get(tenant, key, within=connection)
            if not found.waits or found.revoked_at is not None:
                raise ConflictError(
                    f"The key {key} waits for no approval.", where=tenant, next_step="See `antiphon keys list`."
                )
            connection.execute(update(schema.api_keys).where(*is_key(tenant, key)).values(waits=0, approved_by=by))
            record = self.get(tenant, key, within=connection)
        self._leases.forget()
        return record

    def authenticate(self, text: str) -> Principal:
        """Authenticate a key.

        Raises:
            UnauthenticatedError: no key, an unknown one, an expired or revoked one, or one of a disabled principal.
            ForbiddenError: its tenant is suspended or deleted.
            UnavailableError: the catalog is away and the key was not seen within the revocation bound.
        """
        if not _SHAPE.match(text):
            raise UnauthenticatedError(
                "What was sent is no API key." if text else "No API key was sent.",
                where="Authorization",
                next_step="Send `Authorization: Bearer ak_…`; make a key with `antiphon keys create`.",
            )
        digest = self._hash(text)
        known = self._leases.look(digest, lambda: self._of_hash(digest))
        if known is None:
            raise UnauthenticatedError(
                "The API key is unknown.", where="Authorization", next_step="Make one with `antiphon keys create`."
            )
        (record, principal), now = known, self.newest.now()
        if (refusal := record.refusal(now)) is not None:
            raise UnauthenticatedError(
                f"The API key {record.id} is {refusal}.",
                where="Authorization",
                next_step=f"Make a new one with `antiphon keys create`.{self.newest.behind()}",
            )
        require_served(record.tenant, record.tenant_state)
        self.last_use.key(record.tenant, record.id, now)
        return principal

    def remembered(self, text: str) -> Principal | None:
        """The principal of a key if it is cached within the lease; reads nothing and raises nothing."""
        if not _SHAPE.match(text):
            return None
        digest = self._hash(text)
        known = self._leases.fresh(digest, lambda: self._of_hash(digest))
        if known is None or known[0].refusal(self.newest.now()) is not None or known[0].tenant_state != "active":
            return None
        return known[1]

    def stop_reason(self, principal: Principal) -> str | None:
        """Reason to stop work in the name of this principal, or ``None``: its key was revoked, it is disabled, or its
        tenant deleted.

        A key that expired or was rotated after the work was ordered does not stop it.

        Raises:
            UnavailableError: the catalog is away, and it was not seen within the revocation bound.
        """
        if not principal.credential:
            return None
        digest = f"{principal.tenant}/{principal.id}/{principal.credential}".encode()
        if self._validity.look(digest, lambda: self._stands(principal)):
            return None
        return f"{principal.id} is disabled, or the credential {principal.credential} was revoked"

    def known(self, text: str, *, within: Connection | None = None) -> KeyRecord | None:
        """The record of a key's text, if the catalog has it, valid or not."""
        found = self._of_hash(self._hash(text), within)
        return None if found is None else found[0]

    def get(self, tenant: str, key: str, *, within: Connection | None = None) -> KeyRecord:
        """One key's record.

        Raises:
            NotFoundError: the tenant has no such key.
        """
        with self._database.reading(within) as connection:
            row = connection.execute(select_keys().where(*is_key(tenant, key))).first()
        if row is None:
            raise NotFoundError(f"There is no API key {key!r}.", where=tenant, next_step="See `antiphon keys list`.")
        return key_record(row)

    def list(self, tenant: str, *, within: Connection | None = None) -> builtins.list[KeyRecord]:
        """A tenant's keys, latest first, revoked ones included."""
        table = schema.api_keys
        statement = select_keys().where(table.c.tenant == tenant).order_by(table.c.created_at.desc(), table.c.id)
        with self._database.reading(within) as connection:
            return [key_record(row) for row in connection.execute(statement)]

    def revoke(self, tenant: str, key: str, *, within: Connection | None = None) -> KeyRecord:
        """Stop a key and its sessions for good. Revoking it again changes nothing.

        Raises:
            NotFoundError: the tenant has no such key.
        """
        now = microseconds(self._database.clock.now())
        table, sessions = schema.api_keys, schema.sessions
        with self._database.writing(within) as connection:
            connection.execute(
                update(table).where(*is_key(tenant, key), table.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            connection.execute(
                update(sessions)
                .where(sessions.c.tenant == tenant, sessions.c.key == key, sessions.c.ended_at.is_(None))
                .values(ended_at=now)
            )
            record = self.get(tenant, key, within=connection)
        self.forget()
        return record

    def allow(self, tenant: str, key: str, allowance: Allowance, *, within: Connection | None = None) -> KeyRecord:
        """Give a key other quotas, within the lease in every process. What it has used stays used.

        Raises:
            NotFoundError: the tenant has no such key.
            InvalidInputError: a quota that lets nothing in.
        """
        check_allowance(allowance)
        with self._database.writing(within) as connection:
            bucket = self.get(tenant, key, within=connection).allowance.bucket
            stored = stored_allowance(msgspec.structs.replace(allowance, bucket=bucket))
            connection.execute(update(schema.api_keys).where(*is_key(tenant, key)).values(allowance=stored))
            record = self.get(tenant, key, within=connection)
        self._leases.forget()
        return record

    def forget(self) -> None:
        """Ask the catalog again for every key: one was changed just now."""
        self._leases.forget()
        self._validity.forget()

    def _maker(self, connection: Connection, tenant: str, name: str, by: Principal | None) -> str | None:
        """Maker recorded of a new key; a key that makes one for its own principal passes on its own maker."""
        if by is None or by.id != name or not by.credential.startswith("key_"):
            return None if by is None else by.id
        return self.get(tenant, by.credential, within=connection).made_by

    def _insert(
        self,
        connection: Connection,
        tenant: str,
        name: str,
        limits: Limits,
        allowance: Allowance,
        now: datetime,
        expires_at: datetime | None,
        made_by: str | None,
        waits: bool,
    ) -> tuple[str, KeyRecord]:
        Scope(tenant=tenant)
        text, key = f"{PREFIX}{secrets.token_urlsafe(32)}", new_id("key")
        connection.execute(
            insert(schema.api_keys).values(
                tenant=tenant,
                environment=ANY,
                id=key,
                name=name,
                hash=self._hash(text),
                hint=text[-4:],
                limits=None if limits == NO_LIMITS else msgspec.json.encode(limits).decode(),
                allowance=stored_allowance(allowance),
                created_at=microseconds(now),
                expires_at=None if expires_at is None else microseconds(expires_at),
                made_by=made_by,
                waits=int(waits),
            )
        )
        return text, self.get(tenant, key, within=connection)

    def _hash(self, text: str) -> bytes:
        keyed = self._keyed.copy()  # Unlike ``hmac.digest`` it keeps the interpreter's lock, which takes longer to get.
        keyed.update(text.encode(errors="surrogatepass"))
        return keyed.digest()

    def _of_hash(self, digest: bytes, within: Connection | None = None) -> _KnownKey | None:
        with self._database.reading(within) as connection:
            row = connection.execute(select_keys().where(schema.api_keys.c.hash == digest)).first()
        if row is None:
            return None
        self.newest.saw(row.newest_at)
        record = key_record(row)
        return record, record.principal

    def _stands(self, principal: Principal) -> bool:
        if self.principals.tenants.state(principal.tenant) in ("deleted", "erased"):
            return False
        for name in filter(None, (principal.id, subject_of(principal.id))):
            there = self.principals.find(principal.tenant, name)
            if there is not None and there.disabled_at is not None:
                return False
        if not principal.credential.startswith("key_"):
            return True
        table = schema.api_keys
        with self._database.read() as connection:
            row = connection.execute(
                select(table.c.revoked_at).where(*is_key(principal.tenant, principal.credential))
            ).first()
        return row is not None and row.revoked_at is None
