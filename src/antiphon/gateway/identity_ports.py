"""What the gateway needs in order to know who asks: bearers, dashboard sessions, and the tenant's keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from antiphon.governance.allowance import Allowance
from antiphon.governance.principal import Limits, Principal
from antiphon.governance.sessions import Session


class Bearer(Protocol):
    """Whoever sends ``Authorization: Bearer``."""

    def authenticate(self, text: str) -> Principal:
        """Raises ``UnauthenticatedError`` or ``UnavailableError``; may wait for the catalog or the token issuer."""
        ...

    def remembered(self, text: str) -> Principal | None:
        """The principal, if it is known without waiting for anything."""
        ...


class DashboardSessions(Protocol):
    """Sessions of people at the dashboard; ``text`` is what their cookie holds."""

    def begin(self, key: str, previous: str | None) -> str: ...

    def find(self, text: str) -> Session: ...

    def end(self, text: str) -> None: ...

    def check_form(self, session: Session, sent: str | None) -> None:
        """Raises ``ForbiddenError`` unless the form was made for this session."""
        ...

    def login_token(self, text: str) -> str:
        """What the login form carries in a browser with this cookie."""
        ...

    def check_login(self, text: str | None, sent: str | None) -> None:
        """Raises ``ForbiddenError`` unless the login form was made for the browser with this cookie."""
        ...


class Identity(Protocol):
    """API keys of a tenant (values are ``governance.keys`` records), and who is asking.

    ``by`` names who does it, for the audit log; a change and its record are one transaction.
    """

    @property
    def bearer(self) -> Bearer: ...

    @property
    def sessions(self) -> DashboardSessions: ...

    def create(
        self,
        tenant: str,
        name: str,
        role: str,
        expires_at: datetime | None,
        *,
        by: Principal,
        limits: Limits = ...,
        allowance: Allowance = ...,
    ) -> tuple[str, Any]: ...

    def approve(self, tenant: str, key: str, *, by: Principal, reason: str) -> Any:
        """Raises ``ForbiddenError`` for the key's maker and for identities that the maker made."""
        ...

    def allow(self, tenant: str, key: str, allowance: Allowance, *, by: str) -> Any: ...

    def list(self, tenant: str) -> Sequence[Any]: ...

    def show(self, tenant: str, key: str) -> Any: ...

    def rotate(self, tenant: str, name: str, overlap: timedelta, *, by: Principal, granting: Limits = ...) -> Any: ...

    def revoke(self, tenant: str, key: str, *, by: str) -> Any: ...
