"""Checks of a release before its rollout begins, and the order of the rollout's states."""

from __future__ import annotations

from collections.abc import Callable

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import RolloutRecord, RolloutState
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout

FeatureExists = Callable[[Scope, str, str], bool]
"""Tells whether a definition version of a view can be read: scope, view, version."""


def check_candidate(
    feature_exists: FeatureExists,
    scope: Scope,
    candidate: Release,
    live: Release | None,
    force: bool,
    changed: str | None = None,
) -> None:
    """Refuse a release that no rollout can begin with.

    Args:
        changed: in words, that its model is another one than when it was validated.

    Raises:
        ConflictError: nothing is live to compare with, or the release is.
        InvalidInputError: it reads features that are not there, or has not passed its gates with its present model
            and is not forced.
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
    if candidate.stage != "validated" and not force:
        raise InvalidInputError(
            f"The release {candidate.id} is {candidate.stage.replace('_', ' ')}: it has not passed its gates.",
            where=application.name,
            next_step=f"`antiphon releases validate {candidate.id}` holds it against them; `antiphon releases rollout "
            f"{candidate.id} --force --reason …` goes past them.",
        )
    if changed is not None and not force:
        raise InvalidInputError(
            f"The release {candidate.id} passed its gates with another model. {changed}",
            where=application.name,
            next_step=f"`antiphon releases validate {candidate.id}` evaluates it as it is now; `antiphon releases "
            f"rollout {candidate.id} --force --reason …` goes past that.",
        )


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
