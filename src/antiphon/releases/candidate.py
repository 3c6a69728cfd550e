"""Checks of a release before it reaches users, and the order of a rollout's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release, StageMove
from antiphon.catalog.releases.rollouts import UNDER_WAY, RolloutRecord, RolloutState
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout

FeatureExists = Callable[[Scope, str, str], bool]
"""Tells whether a definition version of a view can be read: scope, view, version."""


NOT_PASSED = "did not pass its gates"
"""Beginning of the reason for which a release stays a draft."""


class GateClearance(msgspec.Struct, frozen=True):
    """Tells whether a release may reach users.

    Attributes:
        passed: it passed its gates, or was live before, and nothing shows that its model has changed since.
        changed: in words, that its model has changed since.
        ungated: the declared reason for which it needs no gates; ``None`` without one.
    """

    passed: bool
    changed: str | None = None
    ungated: str | None = None

    def reason(self, said: str) -> str:
        """The reason that is put on record."""
        if self.passed:
            return said
        return f"{said}; ungated: {self.ungated}" if self.ungated else f"gates passed over: {said}"

    def record(self, release: Release) -> dict[str, Any]:
        """The audit's detail of a release that reaches users without having passed its gates."""
        if self.passed:
            return {}
        return {"forced": self.ungated is None, "stage": release.stage}


def clearance(
    release: Release, stages: Sequence[StageMove], *, first: bool, model_change: Callable[[datetime], str | None] | None
) -> GateClearance:
    """Reads from a release's stages whether it may reach users.

    Args:
        first: nothing of its application was live yet.
        model_change: says, in words, that its model is not the one of a moment.
    """
    declared = release.bundle.application.ungated
    ungated = declared.reason if declared and declared.covers(first=first) else None
    # One that comes back from a rollout which was aborted is validated as of before.
    back = [False, *(move.stage in UNDER_WAY for move in stages)]
    seen = [
        move.at
        for move, returns in zip(stages, back, strict=False)
        if move.stage == "live" or (move.stage == "validated" and not returns)
    ]
    changed = None if model_change is None or not seen else model_change(seen[-1])
    # To make one live again that was is going back. One that merely entered a rollout may have been forced into it.
    passed = release.stage == "validated" or any(move.stage == "live" for move in stages)
    return GateClearance(passed and changed is None, changed, ungated)


def require_reason(release: str, force: bool, reason: str) -> None:
    """Raises ``InvalidInputError`` for going past the gates without a reason."""
    if force and not reason.strip():
        raise InvalidInputError(
            "Going past the gates needs a reason.", where=release, next_step="Give one with --reason."
        )


def require_gates(release: Release, found: GateClearance) -> None:
    """Raises ``InvalidInputError``, with the next step, for a release that has not passed its gates with its present
    model and is not declared ungated."""
    application = release.bundle.application.name
    if found.passed or found.ungated is not None:
        return
    what = (
        f"The release {release.id} is {release.stage.replace('_', ' ')}: it has not passed its gates."
        if found.changed is None
        else f"The release {release.id} passed its gates with another model. {found.changed}"
    )
    raise InvalidInputError(
        what,
        where=application,
        next_step=f"`antiphon releases validate {release.id}` holds it against them; `--force --reason …`, for which "
        "policy has an action of its own, goes past them.",
    )


def check_candidate(
    feature_exists: FeatureExists, scope: Scope, candidate: Release, live: Release | None, found: GateClearance | None
) -> None:
    """Refuse a release that no rollout can begin with.

    Args:
        found: its clearance; ``None``: it is forced.

    Raises:
        ConflictError: nothing is live to compare with, or the release is.
        InvalidInputError: it reads features that are not there, or has not passed its gates.
    """
    application = candidate.bundle.application
    if live is None:
        raise ConflictError(
            f"Nothing is live in {application.name!r} that the release could be compared with.",
            where=candidate.id,
            next_step=f"`antiphon releases activate {application.name} {candidate.id} --reason …` makes it the first.",
        )
    if live.id == candidate.id:
        raise ConflictError(
            f"The release {candidate.id} is live already.",
            where=application.name,
            next_step="There is nothing to do.",
        )
    check_features(feature_exists, scope, candidate)
    if found is not None:
        require_gates(candidate, found)


def check_features(feature_exists: FeatureExists, scope: Scope, release: Release) -> None:
    """Raises ``InvalidInputError``, with the views, for a release that reads what cannot be read now and would answer
    nobody."""
    if gone := unread(feature_exists, scope, release):
        raise InvalidInputError(
            f"The release {release.id} reads features that are not published: {', '.join(gone)}.",
            where=release.bundle.application.name,
            next_step="`antiphon features refresh` publishes what is declared now; what is declared no longer, apply "
            "again.",
        )


def unread(feature_exists: FeatureExists, scope: Scope, release: Release) -> list[str]:
    """Definition versions that a release pins and that cannot be read now."""
    features = sorted(release.bundle.application.pinned.items())
    return [f"{view}@{version}" for view, version in features if not feature_exists(scope, view, version)]


def first_state(plan: Rollout) -> RolloutState:
    """Returns the first state of a plan: shadow when it asks for pairs, else the canary, else ``promoted`` at once."""
    if plan.shadow > 0 and plan.shadow_pairs > 0:
        return "shadow"
    return "canary" if plan.canary else "promoted"


def next_step(rollout: RolloutRecord) -> tuple[RolloutState, int]:
    """The state and step after the present one."""
    if rollout.state == "shadow":
        return ("canary", 0) if rollout.plan.canary else ("promoted", 0)
    if rollout.step + 1 < len(rollout.plan.canary):
        return "canary", rollout.step + 1
    return "promoted", rollout.step
