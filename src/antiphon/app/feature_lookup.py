"""Feature lookups of one project, as the gateway, the command line and Python use them.

What is looked up is prepared once: by the live release of an application, or by the applied definitions and the names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from antiphon.app.answering import deciding
from antiphon.app.features import FeaturePlatform
from antiphon.app.remedies import ProjectRemedies
from antiphon.app.store import Store
from antiphon.catalog.definitions import AppliedProject
from antiphon.core.errors import AntiphonError, InvalidInput, NotFound
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.governance.policy_request import Column, Resource, application_resource
from antiphon.governance.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.serving.feature_lookup import FeatureLookup, Lookup, LookupPlan, LookupRequest

LEASE_SECONDS = 0.25
"""How long the applied definitions are taken for current without asking the catalog."""

_MOST_PLANS = 1_000


class Lookups:
    """Plans by name, and the lookups themselves; the catalog is asked at most four times a second.

    Args:
        live: which release of an application answers now.
    """

    def __init__(self, store: Store, platform: FeaturePlatform, live: LiveReleases) -> None:
        self._store = store
        self._live = live
        self._clock = store.database.clock
        self._applied: dict[Scope, tuple[AppliedProject | None, float]] = {}
        self._plans: dict[tuple[str, tuple[str, ...], str], LookupPlan] = {}
        self._lookup = FeatureLookup(
            platform.published,
            deciding(store),
            self._clock,
            reads_entities=self._reads_entities,
            remedies=ProjectRemedies(store, platform),
            far=platform.far,
        )

    def get(
        self,
        scope: Scope,
        principal: Principal,
        features: Sequence[str],
        entities: Sequence[Mapping[str, str]],
        *,
        application: str | None = None,
        as_of: datetime | None = None,
        minimum_publication: int | None = None,
        purpose: str = "",
    ) -> Lookup:
        """Look features up and wait for it.

        Args:
            features: ``view`` or ``view.feature``, of the applied definitions or of the application.
            application: hold the values against this application's contracts; all its features without a name.
            purpose: what the values are for, which policies may ask; an application has its own.

        Raises:
            NotFound: a view, a feature or the application is not there; names all that are not.
            As ``FeatureLookup.look_up_now``.
        """
        plan = self.plan(scope, features, application, purpose)
        return self._lookup.look_up_now(LookupRequest(scope, principal, plan, entities, as_of, minimum_publication))

    async def look_up(self, request: LookupRequest) -> Lookup:
        """As :meth:`get`, of a plan of :meth:`plan`, for an event loop.

        Raises:
            As ``FeatureLookup.look_up_now``.
        """
        return await self._lookup.look_up(request)

    def plan(
        self, scope: Scope, features: Sequence[str] = (), application: str | None = None, purpose: str = ""
    ) -> LookupPlan:
        """What is read, by these names.

        Raises:
            NotFound: a view, a feature or the application is not there.
        """
        asked = tuple(features)
        if application is None:
            applied = self._current(scope)
            key = ("" if applied is None else applied.content_hash, asked, purpose)
            known = self._plans.get(key)
            views = applied.project.views.values() if applied is not None else ()
            return known or self._keep(key, _of_views(views, asked, purpose))
        release = self._live.live(scope, application)
        if release is None:
            raise NotFound(
                f"No release of an application {application!r} is live.",
                where="application",
                next_step="`antiphon releases list` shows them.",
            )
        key = (release.id, asked, "")
        known = self._plans.get(key)
        return known or self._keep(key, self._of_application(scope, release.bundle.application, asked))

    def _keep(self, key: tuple[str, tuple[str, ...], str], plan: LookupPlan) -> LookupPlan:
        if len(self._plans) >= _MOST_PLANS:
            self._plans = {}
        self._plans[key] = plan
        return plan

    def _of_application(self, scope: Scope, application: ApplicationSpec, asked: Sequence[str]) -> LookupPlan:
        views = [self._store.definitions.get(scope, name, version) for name, version in application.features.items()]
        plan = _of_views(views, asked or tuple(application.features), application.purpose)
        return msgspec.structs.replace(
            plan, resource=application_resource(application), contracts=dict(application.freshness)
        )

    def _current(self, scope: Scope) -> AppliedProject | None:
        now = self._clock.monotonic()
        known = self._applied.get(scope)
        if known is not None and now - known[1] < LEASE_SECONDS:
            return known[0]
        try:
            found = self._store.applied.current(scope)
        except AntiphonError:
            if known is None:
                raise
            # The catalog is away: what was applied stays applied, as the publication stays published.
            found = known[0]
        self._applied[scope] = (found, now)
        return found

    def _reads_entities(self, tenant: str) -> bool:
        parts = self._store.decider.decider(tenant).parts
        return parts.any_key or bool(parts.keys)


def _of_views(known: Iterable[FeatureViewSpec], asked: Sequence[str], purpose: str) -> LookupPlan:
    """The plan of some names."""
    views = {view.name: view for view in known}
    features: dict[str, tuple[str, ...] | None] = {}
    unknown: list[str] = []
    for name in asked:
        view, dot, feature = name.partition(".")
        if view not in views or (dot and feature not in views[view].features):
            unknown.append(name)
        elif not dot:
            features[view] = None
        elif (chosen := features.get(view, ())) is not None:
            features[view] = tuple(dict.fromkeys((*chosen, feature)))
    if unknown or not features:
        raise _unknown(unknown, views)
    elsewhere = [name for name in features if views[name].source.kind == "feast"]
    if elsewhere:
        raise InvalidInput(
            f"{', '.join(elsewhere)} is kept by Feast.",
            where="features",
            next_step="Ask Feast for it; an application that reads it is answered from it.",
        )
    vectors = [
        f"{name}.{one}" for name, chosen in features.items() for one in chosen or () if one in views[name].models
    ]
    if vectors:
        raise InvalidInput(
            f"{', '.join(vectors)} is a vector, which is not looked up as a value.",
            where="features",
            next_step="Ask for its nearest neighbours.",
        )
    columns: list[Column] = []
    for name in features:
        tags = views[name].tags
        columns += [Column(f"{name}.{one}", tag.sensitivity, tag.purposes) for one, tag in sorted(tags.items())]
        columns += [] if tags else [Column(f"{name}.*")]
    return LookupPlan(
        resource=Resource("features", ",".join(sorted(features)), columns=tuple(columns)),
        views={name: views[name].definition_version for name in features},
        features=features,
        purpose=purpose,
    )


def _unknown(names: Sequence[str], views: Mapping[str, FeatureViewSpec]) -> NotFound:
    if not names:
        return NotFound(
            "No feature is named.", where="features", next_step="Name views or VIEW.FEATURE, or an application."
        )
    known = [*views, *(f"{view.name}.{feature}" for view in views.values() for feature in view.features)]
    close = difflib.get_close_matches(names[0], known, 1)
    return NotFound(
        f"No such feature is applied: {', '.join(names)}.",
        where="features",
        next_step=f"Did you mean {close[0]!r}?" if close else "`antiphon features list` shows the views.",
    )
