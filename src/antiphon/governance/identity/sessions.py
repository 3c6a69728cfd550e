"""Sessions of the dashboard: begun with an API key, kept in the catalog, ended by whoever may.

Invariants: the cookie holds a random id and the catalog only its HMAC under the session secret, so neither a copy of
the catalog nor a changed cookie is a session. A session gives what its key gives now, and ends with it. An id that
ended is never a session again, whatever the clock says.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ForbiddenError, UnauthenticatedError
from antiphon.core.scope import ANY
from antiphon.governance.identity.key_records import KeyRecord, key_record, select_keys
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.last_use import SESSION_SECONDS
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.revocation import LEEWAY, REVOCATION_BOUND_SECONDS, CredentialLeases
from antiphon.governance.identity.tenants import require_served

LASTS = timedelta(hours=12)
IDLE = timedelta(hours=1)
KEPT = timedelta(days=30)
"""Time for which an ended session's row stays."""

_ID = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class Session(msgspec.Struct, frozen=True):
    """A session that holds. ``form_token`` goes into every form and comes back with it."""

    principal: Principal
    form_token: str
    expires_at: datetime


class _Row(msgspec.Struct, frozen=True):
    tenant: str
    created_at: int
    seen_at: int
    expires_at: int
    ended_at: int | None
    key: KeyRecord


class Sessions:
    """Repository of sessions.

    Args:
        keys: of the same catalog; their newest time judges expiry.
        secret: 32 bytes, the same in every gateway of a project.
        lasts: from the login on.
        idle: without a page being looked at; uses are written down every 30 s, so it is exact to that.
    """

    def __init__(
        self,
        database: Database,
        keys: Keys,
        secret: bytes,
        *,
        lasts: timedelta = LASTS,
        idle: timedelta = IDLE,
        revocation_bound: float = REVOCATION_BOUND_SECONDS,
    ) -> None:
        self._database = database
        self._keys = keys
        self._secret = secret
        self._lasts = lasts
        self._idle = idle
        self._leases: CredentialLeases[_Row] = CredentialLeases(database.clock, revocation_bound)
        self._seen: dict[bytes, int] = {}

    def begin(self, key: str, previous: str | None = None, *, within: Connection | None = None) -> str:
        """A new session's id, for whoever holds an API key; the session that the browser had before ends.

        Raises:
            UnauthenticatedError: the key does not hold.
            UnavailableError: the catalog is away.
        """
        principal = self._keys.authenticate(key)
        now = microseconds(self._keys.newest.now())
        text = secrets.token_urlsafe(32)
        table = schema.sessions
        with self._database.writing(within) as connection:
            if previous is not None and _ID.match(previous):
                self._end(connection, previous, now)
            connection.execute(
                delete(table).where(
                    table.c.tenant == principal.tenant, table.c.expires_at < now - microseconds_of(KEPT)
                )
            )
            connection.execute(
                insert(table).values(
                    tenant=principal.tenant,
                    environment=ANY,
                    hash=self._hash("session", text),
                    key=principal.credential,
                    created_at=now,
                    seen_at=now,
                    expires_at=now + microseconds_of(self._lasts),
                )
            )
        return text

    def find(self, text: str, *, within: Connection | None = None) -> Session:
        """The session of a cookie.

        Raises:
            UnauthenticatedError: there is none, or it has ended, expired, been idle, or lost its key.
            ForbiddenError: its tenant is suspended or deleted.
            UnavailableError: the catalog is away, and the session was not seen within the revocation bound.
        """
        if not _ID.match(text):
            raise _none("There is no such session.")
        digest = self._hash("session", text)
        row = self._leases.look(digest, lambda: self._read(digest, within))
        if row is None:
            raise _none("There is no such session.")
        now = self._keys.newest.now()
        self._require(row, digest, now)
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[digest] = microseconds(now)
        self._keys.last_use.session(row.tenant, digest, now)
        self._keys.last_use.key(row.tenant, row.key.id, now)
        return Session(row.key.principal, self.form_token(text), from_microseconds(row.expires_at))

    def end(self, text: str, *, within: Connection | None = None) -> None:
        """End a session; one that ended before, or never was, stays as it is."""
        if not _ID.match(text):
            return
        with self._database.writing(within) as connection:
            self._end(connection, text, microseconds(self._keys.newest.now()))

    def forget(self) -> None:
        """Ask the catalog again for every session: one was ended just now."""
        self._leases.forget()

    def form_token(self, text: str) -> str:
        """Token that forms of this session carry; bound to the secret and to the session."""
        return base64.urlsafe_b64encode(self._hash("form", text)).decode().rstrip("=")

    def check_form(self, session: Session, sent: str | None) -> None:
        """Refuse a form that was not made for this session.

        Raises:
            ForbiddenError: it carries no token, or another one.
        """
        if not sent or not hmac.compare_digest(session.form_token.encode(), _bytes(sent)):
            raise ForbiddenError(
                "The form does not belong to this session.", where="csrf", next_step="Load the page again and repeat."
            )

    def login_token(self, text: str) -> str:
        """Token that the login form carries in a browser whose cookie holds this random text."""
        return base64.urlsafe_b64encode(self._hash("login", text)).decode().rstrip("=")

    def check_login(self, text: str | None, sent: str | None) -> None:
        """Refuse a login form that was not made for this browser.

        Raises:
            ForbiddenError: there is no such cookie, or the form carries no token, or another one.
        """
        if not text or not sent or not hmac.compare_digest(self.login_token(text).encode(), _bytes(sent)):
            raise ForbiddenError(
                "The form was not made for this browser.",
                where="csrf",
                next_step="Allow cookies of this page, load it again and repeat.",
            )

    def _require(self, row: _Row, digest: bytes, now: datetime) -> None:
        at, behind = microseconds(now), self._keys.newest.behind()
        if row.ended_at is not None:
            raise _none("The session has ended.")
        if at >= row.expires_at:
            raise _none(f"The session has expired.{behind}")
        if row.created_at > at + microseconds_of(LEEWAY):
            raise _none("The session is from the future: this machine's clock is behind.")
        if at - max(row.seen_at, self._seen.get(digest, 0)) >= microseconds_of(self._idle) + _WRITTEN_EVERY:
            raise _none(f"The session was idle for too long.{behind}")
        if (refusal := row.key.refusal(now)) is not None:
            raise _none(f"The key of this session is {refusal}.")
        require_served(row.tenant, row.key.tenant_state)

    def _read(self, digest: bytes, within: Connection | None) -> _Row | None:
        table = schema.sessions
        keys = schema.api_keys
        with self._database.reading(within) as connection:
            row = connection.execute(select(table).where(table.c.hash == digest)).first()
            if row is None:
                return None
            key = connection.execute(
                select_keys().where(keys.c.tenant == row.tenant, keys.c.environment == ANY, keys.c.id == row.key)
            ).first()
        if key is None:
            return None
        self._keys.newest.saw(key.newest_at)
        return _Row(row.tenant, row.created_at, row.seen_at, row.expires_at, row.ended_at, key_record(key))

    def _end(self, connection: Connection, text: str, now: int) -> None:
        table = schema.sessions
        connection.execute(
            update(table)
            .where(table.c.hash == self._hash("session", text), table.c.ended_at.is_(None))
            .values(ended_at=now)
        )
        self._leases.forget()

    def _hash(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self._secret, f"{purpose}:{text}".encode(), "sha256")


_MOST_SEEN = 10_000
_WRITTEN_EVERY = int(SESSION_SECONDS * 1e6)


def microseconds_of(duration: timedelta) -> int:
    """Whole microseconds."""
    return int(duration / timedelta(microseconds=1))


def _bytes(sent: str) -> bytes:
    return sent.encode(errors="replace")


def _none(what: str) -> UnauthenticatedError:
    return UnauthenticatedError(what, where="session", next_step="Sign in with an API key.")
