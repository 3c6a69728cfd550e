"""Consequences of an apply for earlier releases: which pin a definition version, which would break, which people scored
by another rubric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from antiphon.core.errors import AntiphonError, ConflictError, InvalidDefinitionsError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.compatibility import compare
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.project import ProjectSpec
from antiphon.features.sources.source_rows import require_readable
from antiphon.governance.identity.grants import Grants
from antiphon.services.project.store import Store


class ReleasePin(msgspec.Struct, frozen=True):
    """A release that is in use, and so keeps a definition version refreshed."""

    application: str
    release: str
    number: int
    stage: str

    def __str__(self) -> str:
        return f"release {self.number} of {self.application} ({self.stage})"


def pins(store: Store, scope: Scope | None = None) -> dict[str, list[ReleasePin]]:
    """``view@definition_version`` to the releases that are live or take part in a rollout and pin it; also live ones
    of tenants that the view is granted to. By default of the project's own scope."""
    scope = scope or store.scope
    found: dict[str, list[ReleasePin]] = {}
    used = [(release, "live") for release in store.releases.live_ones(scope)]
    for rollout in store.rollouts.list_active(scope):
        used.append((store.releases.get(scope, rollout.candidate), rollout.state))
    for release, stage in used:
        for view, version in release.bundle.application.own_pinned.items():
            pin = ReleasePin(release.bundle.application.name, release.id, release.number, stage)
            found.setdefault(f"{view}@{version}", []).append(pin)
    tenants = store.keys.principals.tenants
    for grant in Grants(store.database).given(scope):
        if tenants.state(grant.grantee) in ("deleted", "erased"):
            continue  # Its releases are used no more, and may not open any more.
        for release in store.releases.live_ones(Scope(grant.grantee, scope.environment)):
            pinned = release.bundle.application.features.get(grant.granted_name)
            if pinned is not None:
                pin = ReleasePin(f"the tenant {grant.grantee}", release.id, release.number, "live")
                found.setdefault(f"{grant.name}@{pinned}", []).append(pin)
    return found


def views_in_use(store: Store, scope: Scope, project: ProjectSpec | None = None) -> dict[str, FeatureViewSpec]:
    """Views of declarations, by default those that are applied, and older definition versions that a release in use
    still pins, by key. In use is what is live and what takes part in a rollout."""
    declared = store.applied.project(scope) if project is None else project
    views = {view.key: view for view in declared.views.values()}
    return views | {key: store.definitions.of(scope, key) for key in pins(store, scope) if key not in views}


def require_unbroken(store: Store, views: Mapping[str, FeatureViewSpec]) -> None:
    """Refuse views whose source moved to where it no longer yields what a release in use needs.

    The version of such a view is the same, so the release cannot go on with the old one: it would be cut off. The
    ``ConflictError`` names the view, what is wrong with its source, and the releases.
    """
    pinned = pins(store)
    before = store.applied.project(store.scope).views
    for view in views.values():
        old = before.get(view.name)
        if old is None or view.key not in pinned or old.key != view.key or old.source == view.source:
            continue
        try:
            require_readable(view)
        except AntiphonError as error:
            said = ", ".join(map(str, pinned[view.key]))
            raise ConflictError(
                f"The source of the view {view.name!r} cannot be read for {said}: {error.what} Its definition "
                "version is the same, so there is no old one to keep.",
                where=f"view {view.name}",
                next_step="Leave the source where it is, or mend it; or change the features first and roll that out.",
            ) from error


def require_versioned_rubrics(store: Store, applications: Iterable[ApplicationSpec]) -> None:
    """Refuse a judge's rubric that an earlier release has in other words under the same version: what people scored by
    the one would correct the scores by the other. The ``InvalidDefinitionsError`` names each."""
    problems = []
    for application in applications:
        judges = application.judge_metrics or ()
        for release in store.releases.list(store.scope, application.name) if judges else ():
            for old in release.bundle.application.judge_metrics or ():
                if any(old.criterion() == new.criterion() and old.rubric != new.rubric for new in judges):
                    problems.append(
                        f"application {application.name}: the rubric of {old.name!r} is version {old.version} with "
                        f"other words in release {release.number}: raise its version, for people's scores are of those."
                    )
    if problems:
        raise InvalidDefinitionsError(list(dict.fromkeys(problems)))


def consequences(store: Store, views: Mapping[str, FeatureViewSpec]) -> Iterator[str]:
    """Returns a sentence for each definition version that a release in use pins and that is declared no longer."""
    current = store.applied.current(store.scope)
    declared = {view.key for view in views.values()}
    for key, holders in sorted(pins(store).items()):
        if key in declared:
            continue
        name, _, version = key.partition("@")
        old = store.definitions.get(store.scope, name, version)
        new = views.get(name)
        what = "it is not declared any more"
        if new is not None:
            change = compare(old, new)
            what = f"{change.level}: {'; '.join(change.sentences)}"
        said = f"{name}: {what}. {', '.join(map(str, holders))} {'pins' if len(holders) == 1 else 'pin'} {version}"
        if current is not None:
            try:
                require_readable(old)
            except AntiphonError as error:
                yield f"{said}, which cannot be refreshed any more: {error.what} Its last snapshot stays, and ages."
                continue
        yield f"{said}, which stays refreshed until {'it is' if len(holders) == 1 else 'they are'} retired."
