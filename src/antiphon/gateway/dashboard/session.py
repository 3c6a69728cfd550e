"""The dashboard's session: a random id in a cookie, which the catalog knows by its hash.

Every page looks the session up anew (under the lease of revocation), so that whatever ends it ends it here too. What
changes something comes from this site and carries the session's form token, or is refused; so does the login form,
whose token belongs to a random text in a cookie of the browser.
"""

from __future__ import annotations

import re
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import ForbiddenError, UnauthenticatedError
from antiphon.gateway.http import incoming
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.sessions import Session

COOKIE = "antiphon_session"
DOOR = "antiphon_door"
"""Before there is a session: which browser the login form was made for."""
SECURE = "__Host-"
"""Before these names over https: browsers keep a cookie of this prefix to one host, and to https."""
_DOOR = re.compile(r"[A-Za-z0-9_-]{43}\Z")

FORM_FIELD = "csrf"
FORM_HEADER = "x-csrf-token"
MOST_FORM_BYTES = 10_000


async def current(request: Request, services: GatewayServices) -> Session:
    """The session of whoever looks at the page.

    Raises:
        UnauthenticatedError: no session, or one that does not hold any more.
        UnavailableError: the catalog is away.
    """
    value = request.cookies.get(_name(request, COOKIE))
    if not value:
        raise UnauthenticatedError("There is no session.", where="session", next_step="Sign in with an API key.")
    return await run_in_threadpool(services.access.identity.sessions.find, value)


async def require_form(request: Request, services: GatewayServices, session: Session) -> None:
    """Refuse what changes something unless it came from a page of this session.

    Raises:
        ForbiddenError: from another site, or without this session's form token.
        TooLargeError: the form is longer than :data:`MOST_FORM_BYTES`.
    """
    require_same_origin(request)
    sent = request.headers.get(FORM_HEADER)
    if sent is None:
        sent = form_of(await incoming.body(request, MOST_FORM_BYTES)).get(FORM_FIELD)
    services.access.identity.sessions.check_form(session, sent)


def require_same_origin(request: Request) -> None:
    """Browsers say where a form comes from; one that comes from elsewhere is refused.

    Raises:
        ForbiddenError: it does.
    """
    origin = request.headers.get("origin")
    here = request.headers.get("host", "")
    foreign = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if foreign or (origin is not None and urlsplit(origin).netloc.lower() != here.lower()):
        raise ForbiddenError("The form came from another site.", where="origin", next_step="Use the page itself.")


def door(request: Request) -> str:
    """The random text that this browser's login form belongs to: its own, or a new one."""
    held = request.cookies.get(_name(request, DOOR), "")
    return held if _DOOR.match(held) else secrets.token_urlsafe(32)


def keep_door(response: Response, request: Request, text: str) -> None:
    """Give the browser what its login form is compared with."""
    _set(response, request, _name(request, DOOR), text)


def require_login_form(request: Request, services: GatewayServices, form: dict[str, str]) -> None:
    """Refuse a login from another site, or by a form that was not made for this browser: else a site could sign
    somebody in as somebody else.

    Raises:
        ForbiddenError: it is one.
    """
    require_same_origin(request)
    services.access.identity.sessions.check_login(request.cookies.get(_name(request, DOOR)), form.get(FORM_FIELD))


def form_of(content: bytes) -> dict[str, str]:
    """The first value of each field."""
    return {name: values[0] for name, values in parse_qs(content.decode(errors="replace")).items()}


async def begin(response: Response, request: Request, services: GatewayServices, key: str) -> None:
    """Begin a session with an API key, end the one before, and set the cookie. It ends with the browser, or before.

    Raises:
        UnauthenticatedError: the key does not hold.
    """
    name = _name(request, COOKIE)
    text = await run_in_threadpool(services.access.identity.sessions.begin, key, request.cookies.get(name))
    _set(response, request, name, text)
    _drop(response, request, _name(request, DOOR))


async def end(response: Response, request: Request, services: GatewayServices) -> None:
    """End the session, if one holds, and forget the cookie.

    Raises:
        ForbiddenError: the form does not belong to the session.
    """
    name = _name(request, COOKIE)
    try:
        session = await current(request, services)
    except UnauthenticatedError:
        pass
    else:
        await require_form(request, services, session)
        await run_in_threadpool(services.access.identity.sessions.end, request.cookies[name])
    _drop(response, request, name)


def _set(response: Response, request: Request, name: str, text: str) -> None:
    response.set_cookie(name, text, httponly=True, samesite="strict", secure=_is_secure(request), path="/")


def _drop(response: Response, request: Request, name: str) -> None:
    response.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=_is_secure(request))


def _name(request: Request, plain: str) -> str:
    """The one cookie of this name that counts for a request: over https the plain one is not looked at."""
    return f"{SECURE}{plain}" if _is_secure(request) else plain


def _is_secure(request: Request) -> bool:
    # The server sets the scheme, also from a trusted proxy's X-Forwarded-Proto.
    return request.url.scheme == "https"
