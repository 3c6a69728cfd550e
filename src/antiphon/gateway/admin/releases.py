"""Releases, the live pointer and its history."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.core.clock import utc
from antiphon.gateway.admin.shapes import ApplicationQuery, ReasonRequest, read
from antiphon.gateway.operation import AtomFeed, OperationCall, operation
from antiphon.releases import bundle as bundles
from antiphon.releases import feed
from antiphon.releases.bundle import FieldChange
from antiphon.releases.changelog import Entry
from antiphon.releases.notes import ReleaseNote


class ActivationRequest(msgspec.Struct, frozen=True):
    """Selects the release to activate, with the reason; ``force`` also one that has not passed its gates."""

    application: str
    release: str
    reason: str
    force: bool = False


class ReleaseRollbackRequest(msgspec.Struct, frozen=True):
    """Back to the release that was live before, and why."""

    application: str
    reason: str


class LiveReleaseQuery(msgspec.Struct, frozen=True):
    """An instant of wall time, with its zone."""

    time: datetime


class ReleaseLine(msgspec.Struct, frozen=True):
    """A release; ``live`` marks the one that answers now."""

    id: str
    application: str
    number: int
    stage: str
    model: str
    content_hash: str
    author: str
    rationale: str
    created_at: datetime
    live: bool


class ReleaseList(msgspec.Struct, frozen=True):
    """Newest first."""

    releases: tuple[ReleaseLine, ...]


class ChangeList(msgspec.Struct, frozen=True):
    """First to last."""

    changes: tuple[Entry, ...]


class NoteList(msgspec.Struct, frozen=True):
    """Latest first."""

    notes: tuple[ReleaseNote, ...]


class LiveReleaseResponse(msgspec.Struct, frozen=True):
    """The live release at an instant; ``candidate`` answered the share ``weight`` of users, or none in shadow."""

    at: datetime
    release: ReleaseLine | None
    rollout: str | None
    candidate: ReleaseLine | None
    state: str | None
    weight: float


class ReleaseDiff(msgspec.Struct, frozen=True):
    """Every field in which two releases' bundles differ, and that in words."""

    before: str
    after: str
    changes: tuple[FieldChange, ...]
    summary: str


class WentBack(msgspec.Struct, frozen=True):
    """The effect of a rollback: ``rollout`` was undone, or where it is ``None`` the live pointer moved."""

    application: str
    release: str
    left: str
    rollout: str | None


@operation("GET", "/admin/releases", "List releases, newest first.", "read")
def _list(call: OperationCall, query: ApplicationQuery) -> ReleaseList:
    return listed(call, query.application)


@operation("POST", "/admin/releases/activate", "Make a release live.", "release")
def _activate(call: OperationCall, body: ActivationRequest) -> ReleaseList:
    transitions, who = call.services.learning.transitions, call.principal
    transitions.activate(
        call.scope, body.application, body.release, principal=who.id, reason=body.reason, force=body.force, by=who
    )
    return listed(call, body.application)


@operation(
    "POST",
    "/admin/releases/rollback",
    "Undo the rollout under way; with none, make the release live that was live before.",
    "release",
)
def _rollback(call: OperationCall, body: ReleaseRollbackRequest) -> ReleaseList:
    transitions = call.services.learning.transitions
    transitions.rollback(call.scope, body.application, principal=call.principal.id, reason=body.reason)
    return listed(call, body.application)


@operation(
    "POST",
    "/admin/releases/{application}/rollback",
    "Undo the rollout under way; with none, make the release live that was live before.",
    "release",
)
def _back(call: OperationCall, body: ReasonRequest) -> WentBack:
    transitions, application = call.services.learning.transitions, call.path["application"]
    done = transitions.rollback(call.scope, application, principal=call.principal.id, reason=body.reason)
    return WentBack(done.application, done.release, done.left, None if done.rollout is None else done.rollout.id)


@operation(
    "GET",
    "/admin/releases/{application}/changelog",
    "What happened to an application's releases, first to last.",
    "read",
)
def _changelog(call: OperationCall) -> ChangeList:
    return ChangeList(tuple(call.services.learning.changelog.of(call.scope, call.path["application"])))


@operation("GET", "/admin/releases/{application}/notes", "Release notes of an application, latest first.", "read")
def _notes(call: OperationCall) -> NoteList:
    return NoteList(tuple(call.services.learning.notes(call.scope).of(call.scope, call.path["application"])))


@operation("GET", "/admin/releases/{application}/changes.atom", "Release notes as an Atom feed.", "read")
def _feed(call: OperationCall) -> AtomFeed:
    application = call.path["application"]
    notes = call.services.learning.notes(call.scope).of(call.scope, application)
    return AtomFeed(feed.atom(notes, call.scope, application, f"/admin/releases/{application}/changes.atom"))


@operation("GET", "/admin/releases/{application}/live-at", "What was live at an instant.", "read")
def _live_at(call: OperationCall, query: LiveReleaseQuery) -> LiveReleaseResponse:
    then = call.services.learning.changelog.at(call.scope, call.path["application"], utc(query.time))
    now = call.services.learning.releases.live(call.scope, call.path["application"])
    release, candidate = (
        None if release is None else _line(release, now is not None and release.id == now.id)
        for release in (then.release, then.candidate)
    )
    return LiveReleaseResponse(then.at, release, then.rollout, candidate, then.state, then.weight)


@operation("GET", "/admin/releases/{before}/diff/{after}", "Every field in which two releases differ.", "read")
def _diff(call: OperationCall) -> ReleaseDiff:
    before, after = (call.services.learning.releases.get(call.scope, call.path[name]) for name in ("before", "after"))
    return differing(before, after)


def differing(before: Release, after: Release) -> ReleaseDiff:
    """Two releases by field."""
    changes = bundles.diff(before.bundle, after.bundle)
    return ReleaseDiff(before.id, after.id, changes, bundles.summary(changes))


def listed(call: OperationCall, application: str | None) -> ReleaseList:
    """Releases, newest first."""
    known, scope = call.services.learning.releases, call.scope
    releases = known.list(scope, application)
    live = [known.live(scope, name) for name in {release.bundle.application.name for release in releases}]
    live_ids = {release.id for release in live if release is not None}
    newest = sorted(releases, key=lambda release: (release.created_at, release.number), reverse=True)
    return ReleaseList(tuple(_line(release, release.id in live_ids) for release in newest))


def _line(release: Release, live: bool) -> ReleaseLine:
    bundle = release.bundle
    named = {"application": bundle.application.name, "model": bundle.model.name, "live": live}
    return read(msgspec.structs.asdict(release) | named, ReleaseLine)
