"""The dashboard's session: the key, entered once, sealed in a cookie.

The cookie is AES-GCM under the project's session secret: a browser cannot read or change it. Every page
authenticates the key anew, so a revoked key ends its sessions too, and nothing is kept on the server.
"""

from __future__ import annotations

import base64
import binascii
import os
from datetime import timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import Unauthenticated
from antiphon.gateway.ports import GatewayServices
from antiphon.governance.identity import Principal

COOKIE = "antiphon_session"
LASTS = timedelta(days=7)


class Session(msgspec.Struct, frozen=True):
    """What the cookie holds; ``until`` in seconds since 1970."""

    key: str
    until: int


def seal(session: Session, secret: bytes) -> str:
    """The cookie's value."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(12)
    sealed = AESGCM(secret).encrypt(nonce, msgspec.json.encode(session), COOKIE.encode())
    return base64.urlsafe_b64encode(nonce + sealed).decode()


def unseal(value: str, secret: bytes) -> Session:
    """The session in a cookie.

    Raises:
        Unauthenticated: it was not made with this secret, or was changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        packed = base64.b64decode(value.encode(), altchars=b"-_", validate=True)
        opened = AESGCM(secret).decrypt(packed[:12], packed[12:], COOKIE.encode())
        return msgspec.json.decode(opened, type=Session)
    except (InvalidTag, ValueError, binascii.Error, msgspec.DecodeError):
        raise Unauthenticated("The session does not hold.", where=COOKIE, next_step="Enter the key again.") from None


def principal(request: Request, services: GatewayServices) -> Principal:
    """Who looks at the page.

    Raises:
        Unauthenticated: no session, an expired one, or a key that does not hold any more.
    """
    value = request.cookies.get(COOKIE)
    if not value:
        raise Unauthenticated("There is no session.", where=COOKIE, next_step="Enter a key.")
    session = unseal(value, services.session_secret)
    if session.until < services.clock.now().timestamp():
        raise Unauthenticated("The session has ended.", where=COOKIE, next_step="Enter the key again.")
    return services.authenticate(session.key)


def begin(response: Response, request: Request, services: GatewayServices, key: str) -> None:
    """Set the cookie for a key that was just authenticated."""
    until = int((services.clock.now() + LASTS).timestamp())
    response.set_cookie(
        COOKIE,
        seal(Session(key, until), services.session_secret),
        max_age=int(LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )


def end(response: Response) -> None:
    """Forget the session."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
