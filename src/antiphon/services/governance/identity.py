"""Identity of one project, wired: keys, tokens of the configured issuer, dashboard sessions, each with its evidence."""

from __future__ import annotations

import getpass
import re
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.core.clock import parse_duration
from antiphon.core.disk import put_private
from antiphon.core.errors import ForbiddenError, SetupError
from antiphon.core.scope import Scope
from antiphon.governance.identity.issuer_keys import IssuerKeys
from antiphon.governance.identity.key_records import KeyRecord, KeyRotation
from antiphon.governance.identity.principal import NO_ALLOWANCE, NO_LIMITS, TERMINAL, Allowance, Kind, Limits, Principal
from antiphon.governance.identity.provenance import IdentityProvenance
from antiphon.governance.identity.sessions import Session, Sessions
from antiphon.governance.identity.tokens import Authenticator, BearerTokens
from antiphon.governance.policy.versions import DEVELOPMENT
from antiphon.services.project.store import Store


class ProjectIdentity:
    """Authentication, sessions and keys of one project, each change of them with its evidence."""

    def __init__(self, store: Store) -> None:
        self._database, self._keys, self._audit, self._scope = store.database, store.keys, store.audit, store.scope
        self._provenance = IdentityProvenance(store.keys)
        self.bearer = Authenticator(store.keys, tokens(store))
        self.sessions = AuditedSessions(store)
        self.list, self.show = store.keys.list, store.keys.get

    def create(
        self,
        tenant: str,
        name: str,
        role: str,
        expires_at: datetime | None,
        *,
        by: Principal,
        kind: Kind = "service",
        limits: Limits = NO_LIMITS,
        allowance: Allowance = NO_ALLOWANCE,
    ) -> tuple[str, KeyRecord]:
        """Make a key; see :meth:`Keys.create`. Outside of ``dev`` one for somebody else waits for an approval."""
        waits = self._waits(tenant, name, by)
        with self._database.transaction() as connection:
            text, record = self._keys.create(
                tenant, name, role, expires_at, kind=kind, limits=limits, allowance=allowance, by=by, waits=waits,
                within=connection,
            )  # fmt: skip
            self._audit.append(self._of(tenant), by.id, "key.create", record.id, key_detail(record), within=connection)
        return text, record

    def approve(self, tenant: str, key: str, *, by: Principal, reason: str) -> KeyRecord:
        """Let a key open what it is for.

        Raises:
            NotFoundError, ConflictError: as :meth:`Keys.approve`.
            ForbiddenError: whoever approves made the key, or made or promoted its principal, or is an identity of
                theirs.
        """
        with self._database.transaction() as connection:
            waiting = self._keys.get(tenant, key, within=connection)
            principal = self._keys.principals.get(tenant, waiting.name, within=connection)
            authors = sorted({*principal.makers, *filter(None, [waiting.made_by])}) or [by.id]
            for author in authors:
                self._provenance.require_another(self._of(tenant), author, by, f"The key of {waiting.name}")
            if waiting.name == by.id:
                raise ForbiddenError(
                    f"The key {key} is {by.id}'s: another person must approve it.", where="policy",
                    next_step="Ask another administrator.",
                )  # fmt: skip
            record = self._keys.approve(tenant, key, by.id, within=connection)
            detail = {**key_detail(record), "author": ", ".join(authors), "reason": reason}
            self._audit.append(self._of(tenant), by.id, "key.approve", record.id, detail, within=connection)
        self._keys.forget()
        return record

    def _waits(self, tenant: str, name: str, by: Principal) -> bool:
        """Tells whether a new key needs another person's approval: one for oneself does not, and none does in ``dev``.

        Whoever has no credential is at the terminal and owns the project's folder: there it waits as soon as there is
        somebody who could approve it.
        """
        if self._scope.environment == DEVELOPMENT or name == by.id:
            return False
        return bool(by.credential) or self._provenance.has_another(tenant, by.id)

    def allow(self, tenant: str, key: str, allowance: Allowance, *, by: str) -> KeyRecord:
        """Give a key other quotas; see :meth:`Keys.allow`."""
        with self._database.transaction() as connection:
            record = self._keys.allow(tenant, key, allowance, within=connection)
            self._audit.append(self._of(tenant), by, "key.allow", record.id, key_detail(record), within=connection)
        return record

    def rotate(
        self, tenant: str, name: str, overlap: timedelta, *, by: Principal, granting: Limits = NO_LIMITS
    ) -> KeyRotation:
        """Replace a key; see :meth:`Keys.rotate`. Outside of ``dev`` another's new key waits for an approval."""
        named = next((one.name for one in self._keys.list(tenant) if one.id == name), name)
        waits = self._waits(tenant, named, by)
        with self._database.transaction() as connection:
            rotated = self._keys.rotate(tenant, name, overlap, granting=granting, by=by, waits=waits, within=connection)
            detail = rotation_detail(rotated)
            self._audit.append(self._of(tenant), by.id, "key.rotate", rotated.record.id, detail, within=connection)
        self._keys.forget()
        return rotated

    def revoke(self, tenant: str, key: str, *, by: str, reason: str = "") -> KeyRecord:
        """Stop a key and its sessions, on record."""
        with self._database.transaction() as connection:
            record = self._keys.revoke(tenant, key, within=connection)
            detail = {**key_detail(record), **({"reason": reason} if reason else {})}
            self._audit.append(self._of(tenant), by, "key.revoke", record.id, detail, within=connection)
        self._keys.forget()
        self.sessions.forget()
        return record

    def _of(self, tenant: str) -> Scope:
        return Scope(tenant, self._scope.environment)


class AuditedSessions(Sessions):
    """Sessions whose beginning and end are on record before they are acknowledged."""

    def __init__(self, store: Store) -> None:
        settings = store.settings.identity
        super().__init__(
            store.database,
            store.keys,
            store.secret("session"),
            lasts=parse_duration(settings.session),
            idle=parse_duration(settings.idle),
            revocation_bound=parse_duration(settings.revocation_bound).total_seconds(),
        )
        self._audit, self._environment = store.audit, store.scope.environment

    def begin(self, key: str, previous: str | None = None, *, within: Connection | None = None) -> str:
        # Before the transaction: whoever has no key does not get the catalog's write lock.
        self._keys.authenticate(key)
        with self._database.writing(within) as connection:
            text = super().begin(key, previous, within=connection)
            self._record(self.find(text, within=connection), "session.begin", connection)
        return text

    def end(self, text: str, *, within: Connection | None = None) -> None:
        """End a session that holds."""
        with self._database.writing(within) as connection:
            ending = self.find(text, within=connection)
            super().end(text, within=connection)
            self._record(ending, "session.end", connection)
        self.forget()

    def _record(self, session: Session, action: str, connection: Connection) -> None:
        who = session.principal
        detail = {"key": who.credential, "until": session.expires_at.isoformat()}
        scope = Scope(who.tenant, self._environment)
        self._audit.append(scope, who.id, action, who.credential, detail, within=connection)


def tokens(store: Store) -> BearerTokens | None:
    """Recognizes bearers of the configured issuer's tokens; ``None`` when none is configured.

    Raises:
        InvalidInputError: the issuer's settings cannot be used.
    """
    settings, database, keys = store.settings.identity, store.database, store.keys
    oidc = settings.oidc
    if oidc.issuer is None:
        return None
    place = oidc.jwks or f"{oidc.issuer.rstrip('/')}/.well-known/jwks.json"
    if "://" not in place:
        place = str(store.paths.root / place)
    return BearerTokens(
        oidc,
        IssuerKeys(place, database.clock),
        keys.principals,
        database.clock,
        store.scope.tenant,
        newest=keys.newest,
        revocation_bound=parse_duration(settings.revocation_bound).total_seconds(),
    )


def key_detail(record: KeyRecord) -> Mapping[str, Any]:
    """Returns the detail of a key for the audit log."""
    return {
        "name": record.name,
        "role": record.role,
        "kind": record.kind,
        "scopes": [*record.limits.actions, *record.limits.resources],
        "expires_at": record.expires_at.isoformat() if record.expires_at else None,
        **({"state": "waits"} if record.waits else {}),
        **({} if record.allowance == NO_ALLOWANCE else {"allowance": msgspec.to_builtins(record.allowance)}),
    }


def rotation_detail(rotated: KeyRotation) -> Mapping[str, Any]:
    """Returns the detail of a rotation for the audit log."""
    until = rotated.replaced.expires_at
    return {
        "previous": rotated.replaced.id,
        "until": until.isoformat() if until else None,
        **key_detail(rotated.record),
    }


def at_terminal(store: Store) -> Principal:
    """Returns the administrator that commands run as: reading the project's secrets needs the same rights."""
    user = re.sub(r"[^A-Za-z0-9._-]", "-", getpass.getuser()) or "somebody"
    return Principal(
        id=f"{user}{TERMINAL}", tenant=store.scope.tenant, role="admin", kind="person", clearance="restricted"
    )


def first_key(store: Store) -> tuple[str, KeyRecord] | None:
    """The administrator's key, made at the first start, kept in ``keys/admin.key``; ``None`` if it was made before.

    Two that start at once make one key. The file is on disk before the key counts: after a crash in between, the next
    start finds a key that the catalog does not know, and makes another.

    Raises:
        SetupError: others may read the file.
    """
    file = store.paths.keys / "admin.key"
    with store.database.transaction() as connection:
        if file.exists():
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise SetupError("Others may read this key.", where=str(file), next_step=f"chmod 600 {file}")
            text = file.read_text(encoding="utf-8").strip()
            if store.keys.known(text, within=connection) is not None:
                return None
        elif any(record.role == "admin" for record in store.keys.list(store.scope.tenant, within=connection)):
            return None  # it was made, and its file was taken away
        text, record = store.keys.create(
            store.scope.tenant, "admin", "admin", kind="person", by=at_terminal(store), within=connection
        )
        # Who sets a project up may see all of it.
        store.keys.principals.change(store.scope.tenant, "admin", clearance="restricted", within=connection)
        store.audit.append(store.scope, "antiphon", "key.create", record.id, key_detail(record), within=connection)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        put_private(file, f"{text}\n".encode())
    return text, record
