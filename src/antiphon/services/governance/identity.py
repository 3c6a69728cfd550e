"""Identity of one project, wired: keys, tokens of the configured issuer, dashboard sessions, each with its evidence."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.database import Database
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.core.settings_sections import IdentitySettings
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.allowance import NO_ALLOWANCE, Allowance
from antiphon.governance.identity.authentication import Authenticator
from antiphon.governance.identity.issuer_keys import IssuerKeys
from antiphon.governance.identity.key_records import KeyRecord, KeyRotation
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import NO_LIMITS, TERMINAL, Kind, Limits, Principal
from antiphon.governance.identity.provenance import IdentityProvenance
from antiphon.governance.identity.sessions import Session, Sessions
from antiphon.governance.identity.tokens import BearerTokens
from antiphon.governance.policy.versions import DEVELOPMENT
from antiphon.services.project.store import Store


class ProjectIdentity:
    """Authentication, sessions and keys of one project, for the gateway.

    Args:
        scope: of the project; its environment is where evidence is kept.
        root: the project's folder, from which a key set's relative path starts.
        session_secret: the same in every gateway of a project.
    """

    def __init__(
        self,
        database: Database,
        keys: Keys,
        audit: AuditLog,
        settings: IdentitySettings,
        scope: Scope,
        root: Path,
        session_secret: bytes,
    ) -> None:
        self._database = database
        self._keys = keys
        self._provenance = IdentityProvenance(keys)
        self._audit = audit
        self._scope = scope
        self.bearer = Authenticator(keys, tokens(database, keys, settings, scope, root))
        self.sessions = AuditedSessions(
            keys,
            Sessions(
                database,
                keys,
                session_secret,
                lasts=parse_duration(settings.session),
                idle=parse_duration(settings.idle),
                revocation_bound=parse_duration(settings.revocation_bound).total_seconds(),
            ),
            database,
            audit,
            scope.environment,
        )

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

    def list(self, tenant: str) -> Sequence[KeyRecord]:
        """The tenant's keys, latest first."""
        return self._keys.list(tenant)

    def show(self, tenant: str, key: str) -> KeyRecord:
        """One key."""
        return self._keys.get(tenant, key)

    def rotate(
        self, tenant: str, name: str, overlap: timedelta, *, by: Principal, granting: Limits = NO_LIMITS
    ) -> KeyRotation:
        """Replace a key; see :meth:`Keys.rotate`. Outside of ``dev`` another's new key waits for an approval."""
        named = next((one.name for one in self._keys.list(tenant) if one.id == name), name)
        waits = self._waits(tenant, named, by)
        with self._database.transaction() as connection:
            rotated = self._keys.rotate(tenant, name, overlap, granting=granting, by=by, waits=waits, within=connection)
            self._audit.append(
                self._of(tenant), by.id, "key.rotate", rotated.record.id, rotation_detail(rotated), within=connection
            )
        self._keys.forget()
        return rotated

    def revoke(self, tenant: str, key: str, *, by: str) -> KeyRecord:
        """Stop a key and its sessions."""
        with self._database.transaction() as connection:
            record = self._keys.revoke(tenant, key, within=connection)
            self._audit.append(self._of(tenant), by, "key.revoke", record.id, key_detail(record), within=connection)
        self._keys.forget()
        self.sessions.forget()
        return record

    def _of(self, tenant: str) -> Scope:
        return Scope(tenant, self._scope.environment)


class AuditedSessions:
    """Sessions whose beginning and end are on record before they are acknowledged."""

    def __init__(self, keys: Keys, sessions: Sessions, database: Database, audit: AuditLog, environment: str) -> None:
        self._keys = keys
        self._sessions = sessions
        self._database = database
        self._audit = audit
        self._environment = environment
        self.find = sessions.find
        self.check_form = sessions.check_form
        self.login_token = sessions.login_token
        self.check_login = sessions.check_login
        self.forget = sessions.forget

    def begin(self, key: str, previous: str | None) -> str:
        """A new session for whoever holds the key; the browser's session before ends."""
        # Before the transaction: whoever has no key does not get the catalog's write lock.
        self._keys.authenticate(key)
        with self._database.transaction() as connection:
            text = self._sessions.begin(key, previous, within=connection)
            began = self._sessions.find(text, within=connection)
            self._record(began, "session.begin", connection)
        return text

    def end(self, text: str) -> None:
        """End a session that holds."""
        with self._database.transaction() as connection:
            ending = self._sessions.find(text, within=connection)
            self._sessions.end(text, within=connection)
            self._record(ending, "session.end", connection)
        self._sessions.forget()

    def _record(self, session: Session, action: str, connection: Any) -> None:
        who = session.principal
        self._audit.append(
            Scope(who.tenant, self._environment),
            who.id,
            action,
            who.credential,
            {"key": who.credential, "until": session.expires_at.isoformat()},
            within=connection,
        )


def project_identity(store: Store) -> ProjectIdentity:
    """Identity over a project's stores."""
    return ProjectIdentity(
        store.database,
        store.keys,
        store.audit,
        store.settings.identity,
        store.scope,
        store.paths.root,
        store.secret("session"),
    )


def tokens(database: Database, keys: Keys, settings: IdentitySettings, scope: Scope, root: Path) -> BearerTokens | None:
    """Recognizes bearers of the configured issuer's tokens; ``None`` when none is configured.

    Raises:
        InvalidInputError: the issuer's settings cannot be used.
    """
    oidc = settings.oidc
    if oidc.issuer is None:
        return None
    place = oidc.jwks or f"{oidc.issuer.rstrip('/')}/.well-known/jwks.json"
    if "://" not in place:
        place = str(root / place)
    return BearerTokens(
        oidc,
        IssuerKeys(place, database.clock),
        keys.principals,
        database.clock,
        scope.tenant,
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
        **key_detail(rotated.record),
        "previous": rotated.replaced.id,
        "until": until.isoformat() if until else None,
    }


def at_terminal(store: Store) -> Principal:
    """Returns the administrator that commands run as: reading the project's secrets needs the same rights."""
    user = re.sub(r"[^A-Za-z0-9._-]", "-", getpass.getuser()) or "somebody"
    return Principal(
        id=f"{user}{TERMINAL}", tenant=store.scope.tenant, role="admin", kind="person", clearance="restricted"
    )
