"""What a release must be before a rollout of it begins."""

from __future__ import annotations

from antiphon.catalog.releases import Release
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.releases.ports import FeatureExists


def check_candidate(
    feature_exists: FeatureExists, scope: Scope, candidate: Release, live: Release | None, force: bool
) -> None:
    """Refuse a release that no rollout can begin with.

    Raises:
        ConflictError: nothing is live to compare with, or the release is.
        InvalidInputError: it reads features that are not there, or has not passed its gates and is not forced.
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


def check_features(feature_exists: FeatureExists, scope: Scope, release: Release) -> None:
    """Refuse a release that reads what cannot be read now, so that it would answer nobody.

    Raises:
        InvalidInputError: names the views.
    """
    if gone := unread(feature_exists, scope, release):
        raise InvalidInputError(
            f"The release {release.id} reads features that are not published: {', '.join(gone)}.",
            where=release.bundle.application.name,
            next_step="`antiphon features refresh` publishes what is declared now; what is declared no longer, apply "
            "again.",
        )


def unread(feature_exists: FeatureExists, scope: Scope, release: Release) -> list[str]:
    """Definition versions that a release pins and that cannot be read now."""
    features = sorted(release.bundle.application.features.items())
    return [f"{view}@{version}" for view, version in features if not feature_exists(scope, view, version)]
