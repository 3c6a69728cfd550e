"""Signing in and out."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError
from antiphon.gateway import incoming
from antiphon.gateway.dashboard import session
from antiphon.gateway.dashboard.pages import SAFE, Pages


async def login_form(request: Request) -> Response:
    """The form that asks for a key."""
    pages: Pages = request.app.state.pages
    return pages.render("login.html", page="login", who=None, target=_local(request), problem=None)


async def login(request: Request) -> Response:
    """Begin a session with a key that holds."""
    pages: Pages = request.app.state.pages
    form = parse_qs((await incoming.body(request, 10_000)).decode(errors="replace"))
    key = form.get("key", [""])[0].strip()
    try:
        who = pages.services.authenticate(key)
    except AntiphonError as error:
        return pages.render(
            "login.html", error.http_status, page="login", who=None, target=_local(request), problem=error
        )
    del who
    response = RedirectResponse(_local(request), 303, headers=SAFE)
    session.begin(response, request, pages.services, key)
    return response


async def logout(request: Request) -> Response:
    """Forget the session."""
    response = RedirectResponse("/login", 303, headers=SAFE)
    session.end(response)
    return response


def _local(request: Request) -> str:
    """Where to go after the login: a path of ours, never another site."""
    target = request.query_params.get("next", "/")
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
