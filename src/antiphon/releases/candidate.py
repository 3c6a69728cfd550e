"""What a release must be before a rollout of it begins."""

from __future__ import annotations

from antiphon.catalog.releases import Release
from antiphon.core.errors import Conflict, InvalidInput
from antiphon.core.scope import Scope
from antiphon.releases.ports import FeatureExists


def check_candidate(
    feature_exists: FeatureExists, scope: Scope, candidate: Release, live: Release | None, force: bool
) -> None:
    """Refuse a release that no rollout can begin with.

    Raises:
        Conflict: nothing is live to compare with, or the release is.
        InvalidInput: it reads features that are gone, or has not passed its gates and is not forced.
    """
    application = candidate.bundle.application
    if live is None:
        raise Conflict(
            f"Nothing is live in {application.name!r} that the release could be compared with.",
            where=candidate.id,
            next_step=f"`antiphon releases activate {application.name} {candidate.id} --reason …` makes it the first.",
        )
    if live.id == candidate.id:
        raise Conflict(
            f"The release {candidate.id} is live already.",
            where=application.name,
            next_step="There is nothing to do.",
        )
    gone = [
        f"{view}@{version}"
        for view, version in sorted(application.features.items())
        if not feature_exists(scope, view, version)
    ]
    if gone:
        raise InvalidInput(
            f"The release reads features that no longer exist: {', '.join(gone)}.",
            where=candidate.id,
            next_step="Apply definitions that have them, or make a release from the present ones with "
            "`antiphon apply`.",
        )
    if candidate.stage != "validated" and not force:
        raise InvalidInput(
            f"The release {candidate.id} is {candidate.stage.replace('_', ' ')}: it has not passed its gates.",
            where=application.name,
            next_step=f"`antiphon releases validate {candidate.id}` holds it against them; `antiphon releases rollout "
            f"{candidate.id} --force --reason …` goes past them.",
        )
