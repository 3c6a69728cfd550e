"""The change log as a page and a feed, and its public form, which needs no key and has no internals."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import NotFoundError
from antiphon.gateway.dashboard.pages import SAFE, PageCall, Pages
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.operation import AtomFeed
from antiphon.releases import feed
from antiphon.releases.notes import PublicNote, public

NOTES = 100
"""The latest so many are shown."""

_CACHED = {"cache-control": "public, max-age=60"}


def changes(call: PageCall) -> Response:
    """Release notes of one application, with the texts that differ."""
    known = applications(call)
    application = chosen(known, call.query.get("application") or None)
    notes = [] if application is None else call.services.learning.notes(call.scope).of(call.scope, application, NOTES)
    is_public = application in call.services.settings.changes.public
    return call.render(
        "changes.html", page="releases", applications=known, application=application, notes=notes, public=is_public
    )


def changes_feed(call: PageCall) -> Response:
    """The same as an Atom feed."""
    application = chosen(applications(call), call.query.get("application") or None)
    name = application or ""
    notes = call.services.learning.notes(call.scope).of(call.scope, name, NOTES) if name else []
    return AtomFeed(feed.atom(notes, call.scope, name, f"/changes.atom?application={name}"))


async def public_changes(request: Request) -> Response:
    """``GET /public/changes/{application}``: what an outside user may know, as a page."""
    application, notes = await _public(request)
    pages: Pages = request.app.state.pages
    answer = pages.render("public_changes.html", page="", who=None, csrf="", application=application, notes=notes)
    answer.headers.update({**SAFE, **_CACHED})
    return answer


async def public_changes_json(request: Request) -> Response:
    """``GET /public/changes/{application}.json``: the same as JSON."""
    _, notes = await _public(request)
    return JsonResponse({"changes": notes}, headers=_CACHED)


async def public_changes_feed(request: Request) -> Response:
    """``GET /public/changes/{application}.atom``: the same as an Atom feed."""
    application, notes = await _public(request)
    scope = request.app.state.services.settings.scope
    document = feed.atom(notes, scope, application, str(request.url))
    return AtomFeed(document, headers=_CACHED)


async def _public(request: Request) -> tuple[str, list[PublicNote]]:
    """The application and its public notes; raises ``NotFoundError`` for one that the settings do not publish."""
    services = request.app.state.services
    application = str(request.path_params["application"])
    if application not in services.settings.changes.public:
        raise NotFoundError("There is no public change log of this name.", where="application")
    scope = services.settings.scope
    notes = await run_in_threadpool(services.learning.notes(scope).of, scope, application, NOTES)
    return application, public(notes)
