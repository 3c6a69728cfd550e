"""Signing in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, UnauthenticatedError
from antiphon.gateway.dashboard import session
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.gateway.http import incoming


async def login_form(request: Request) -> Response:
    """The form that asks for a key."""
    return _door(request, None)


async def login(request: Request) -> Response:
    """Begin a session with a key that holds."""
    pages: Pages = request.app.state.pages
    response = RedirectResponse(_local(request), 303, headers=SAFE)
    try:
        form = session.form_of(await incoming.body(request, session.MOST_FORM_BYTES))
        session.require_login_form(request, pages.services, form)
        await session.begin(response, request, pages.services, form.get("key", "").strip())
    except UnauthenticatedError as error:
        await request.app.state.denials.record(request, error)
        # What a program is told to send is no help to somebody before a form.
        return _door(request, UnauthenticatedError(error.what, next_step="Make a key with `antiphon keys create`."))
    except AntiphonError as error:
        await request.app.state.denials.record(request, error)
        return _door(request, error)
    return response


async def logout(request: Request) -> Response:
    """End the session."""
    pages: Pages = request.app.state.pages
    response = RedirectResponse("/login", 303, headers=SAFE)
    try:
        await session.end(response, request, pages.services)
    except AntiphonError as error:
        await request.app.state.denials.record(request, error)
        return pages.render("error.html", error.http_status, page="", who=None, csrf="", error=error)
    return response


def _door(request: Request, problem: AntiphonError | None) -> Response:
    """The login form, made for this browser."""
    pages: Pages = request.app.state.pages
    text = session.door(request)
    token = pages.services.access.identity.sessions.login_token(text)
    code, target = 200 if problem is None else problem.http_status, _local(request)
    response = pages.render("login.html", code, page="login", who=None, csrf=token, target=target, problem=problem)
    session.keep_door(response, request, text)
    return response


def _local(request: Request) -> str:
    """Returns the path to go to after the login: one of ours, never another site."""
    target = request.query_params.get("next", "/")
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"
