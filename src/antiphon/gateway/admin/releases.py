"""Releases and the live pointer."""

from __future__ import annotations

import msgspec

from antiphon.catalog.releases import Release
from antiphon.gateway.admin import shapes
from antiphon.gateway.operation import Call, Operation


class OfApplication(msgspec.Struct, frozen=True):
    """Only this application's."""

    application: str | None = None


class Activate(msgspec.Struct, frozen=True):
    """Which release, and why."""

    application: str
    release: str
    reason: str


class Rollback(msgspec.Struct, frozen=True):
    """Back to the release that was live before, and why."""

    application: str
    reason: str


def _list(call: Call) -> shapes.ReleaseList:
    return listed(call, call.query.application)


def _activate(call: Call) -> shapes.ReleaseList:
    wanted: Activate = call.body
    call.services.releases.activate(call.scope, wanted.application, wanted.release, call.principal.id, wanted.reason)
    return listed(call, wanted.application)


def _rollback(call: Call) -> shapes.ReleaseList:
    wanted: Rollback = call.body
    call.services.releases.rollback(call.scope, wanted.application, call.principal.id, wanted.reason)
    return listed(call, wanted.application)


def listed(call: Call, application: str | None) -> shapes.ReleaseList:
    releases = call.services.releases.list(call.scope, application)
    names = {release.bundle.application.name for release in releases}
    live = {name: call.services.releases.live(call.scope, name) for name in names}
    live_ids = {release.id for release in live.values() if release is not None}
    newest = sorted(releases, key=lambda release: (release.created_at, release.number), reverse=True)
    return shapes.ReleaseList(tuple(_line(release, release.id in live_ids) for release in newest))


def _line(release: Release, live: bool) -> shapes.ReleaseLine:
    return shapes.ReleaseLine(
        id=release.id,
        application=release.bundle.application.name,
        number=release.number,
        stage=release.stage,
        model=release.bundle.model.name,
        content_hash=release.content_hash,
        author=release.author,
        rationale=release.rationale,
        created_at=release.created_at,
        live=live,
    )


OPERATIONS = (
    Operation(
        "GET", "/admin/releases", "List releases, newest first.", "read", shapes.ReleaseList, _list, OfApplication
    ),
    Operation(
        "POST",
        "/admin/releases/activate",
        "Make a release live.",
        "release",
        shapes.ReleaseList,
        _activate,
        body=Activate,
    ),
    Operation(
        "POST",
        "/admin/releases/rollback",
        "Make the release live that was live before.",
        "release",
        shapes.ReleaseList,
        _rollback,
        body=Rollback,
    ),
)
