"""Signing in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError
from antiphon.gateway import incoming
from antiphon.gateway.dashboard import session
from antiphon.gateway.dashboard.pages import SAFE, Pages

_MOST_BYTES = 10_000


async def login_form(request: Request) -> Response:
    """The form that asks for a key."""
    pages: Pages = request.app.state.pages
    return pages.render("login.html", page="login", who=None, target=_local(request), problem=None)


async def login(request: Request) -> Response:
    """Begin a session with a key that holds."""
    pages: Pages = request.app.state.pages
    response = RedirectResponse(_local(request), 303, headers=SAFE)
    try:
        session.require_same_origin(request)
        key = session.form_of(await incoming.body(request, _MOST_BYTES)).get("key", "").strip()
        await session.begin(response, request, pages.services, key)
    except AntiphonError as error:
        await pages.denied(request, error)
        return pages.render(
            "login.html", error.http_status, page="login", who=None, target=_local(request), problem=error
        )
    return response


async def logout(request: Request) -> Response:
    """End the session."""
    pages: Pages = request.app.state.pages
    response = RedirectResponse("/login", 303, headers=SAFE)
    try:
        await session.end(response, request, pages.services)
    except AntiphonError as error:
        await pages.denied(request, error)
        return pages.render("error.html", error.http_status, page="", who=None, error=error)
    return response


def _local(request: Request) -> str:
    """Where to go after the login: a path of ours, never another site."""
    target = request.query_params.get("next", "/")
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"
