"""Releases, the live pointer and its history."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.releases import Release
from antiphon.core.clock import utc
from antiphon.core.scope import Scope
from antiphon.gateway.admin import release_shapes, shapes
from antiphon.gateway.admin.rollouts import RolloutMoveRequest
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.releases import bundle as bundles


class OfApplication(msgspec.Struct, frozen=True):
    """Only this application's."""

    application: str | None = None


class ActivationRequest(msgspec.Struct, frozen=True):
    """Selects the release to activate, with the reason."""

    application: str
    release: str
    reason: str


class ReleaseRollbackRequest(msgspec.Struct, frozen=True):
    """Back to the release that was live before, and why."""

    application: str
    reason: str


class LiveReleaseQuery(msgspec.Struct, frozen=True):
    """An instant of wall time, with its zone."""

    time: datetime


def _list(call: OperationCall) -> shapes.ReleaseList:
    return listed(call.services, call.scope, call.query.application)


def _activate(call: OperationCall) -> shapes.ReleaseList:
    body: ActivationRequest = call.body
    who = call.principal
    call.services.learning.transitions.activate(
        call.scope, body.application, body.release, principal=who.id, reason=body.reason, by=who
    )
    return listed(call.services, call.scope, body.application)


def _rollback(call: OperationCall) -> shapes.ReleaseList:
    body: ReleaseRollbackRequest = call.body
    call.services.learning.transitions.rollback(
        call.scope, body.application, principal=call.principal.id, reason=body.reason
    )
    return listed(call.services, call.scope, body.application)


def _back(call: OperationCall) -> release_shapes.WentBack:
    body: RolloutMoveRequest = call.body
    done = call.services.learning.transitions.rollback(
        call.scope, call.path["application"], principal=call.principal.id, reason=body.reason
    )
    undone = None if done.rollout is None else done.rollout.id
    return release_shapes.WentBack(done.application, done.release, done.left, undone)


def _changelog(call: OperationCall) -> release_shapes.ChangeList:
    entries = call.services.learning.changelog.of(call.scope, call.path["application"])
    return release_shapes.ChangeList(shapes.read_all(entries, release_shapes.ChangeLine))


def _live_at(call: OperationCall) -> release_shapes.LiveReleaseResponse:
    query: LiveReleaseQuery = call.query
    then = call.services.learning.changelog.at(call.scope, call.path["application"], utc(query.time))
    now = call.services.learning.releases.live(call.scope, call.path["application"])
    lines = [
        None if release is None else line(release, now is not None and release.id == now.id)
        for release in (then.release, then.candidate)
    ]
    return release_shapes.LiveReleaseResponse(then.at, lines[0], then.rollout, lines[1], then.state, then.weight)


def _diff(call: OperationCall) -> release_shapes.ReleaseDiff:
    return differing(call.services, call.scope, call.path["before"], call.path["after"])


def differing(services: GatewayServices, scope: Scope, before: str, after: str) -> release_shapes.ReleaseDiff:
    """Two releases by field."""
    first, second = (services.learning.releases.get(scope, release).bundle for release in (before, after))
    changes = bundles.diff(first, second)
    return release_shapes.ReleaseDiff(before, after, changes, bundles.summary(changes))


def listed(services: GatewayServices, scope: Scope, application: str | None) -> shapes.ReleaseList:
    """Releases, newest first."""
    releases = services.learning.releases.list(scope, application)
    names = {release.bundle.application.name for release in releases}
    live = {name: services.learning.releases.live(scope, name) for name in names}
    live_ids = {release.id for release in live.values() if release is not None}
    newest = sorted(releases, key=lambda release: (release.created_at, release.number), reverse=True)
    return shapes.ReleaseList(tuple(line(release, release.id in live_ids) for release in newest))


def line(release: Release, live: bool) -> shapes.ReleaseLine:
    """A release in a list."""
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
        body=ActivationRequest,
    ),
    Operation(
        "POST",
        "/admin/releases/rollback",
        "Undo the rollout under way; with none, make the release live that was live before.",
        "release",
        shapes.ReleaseList,
        _rollback,
        body=ReleaseRollbackRequest,
    ),
    Operation(
        "POST",
        "/admin/releases/{application}/rollback",
        "Undo the rollout under way; with none, make the release live that was live before.",
        "release",
        release_shapes.WentBack,
        _back,
        body=RolloutMoveRequest,
    ),
    Operation(
        "GET",
        "/admin/releases/{application}/changelog",
        "What happened to an application's releases, first to last.",
        "read",
        release_shapes.ChangeList,
        _changelog,
    ),
    Operation(
        "GET",
        "/admin/releases/{application}/live-at",
        "What was live at an instant.",
        "read",
        release_shapes.LiveReleaseResponse,
        _live_at,
        LiveReleaseQuery,
    ),
    Operation(
        "GET",
        "/admin/releases/{before}/diff/{after}",
        "Every field in which two releases differ.",
        "read",
        release_shapes.ReleaseDiff,
        _diff,
    ),
)
