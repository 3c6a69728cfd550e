"""Feature lookups of one project, as the gateway, the command line and Python use them.

What is looked up is prepared once: by the live release of an application, or by the applied definitions and the names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from antiphon.catalog.features.definitions import AppliedProject
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.granted import owner_of
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.selection import select_features
from antiphon.governance.policy.request import Resource, application_resource, view_columns
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import deciding
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.remedies import find_remedies
from antiphon.services.governance.granted import granted_names
from antiphon.services.project.store import Store
from antiphon.serving.features.lookup import FeatureLookup
from antiphon.serving.features.lookup_values import DerivedFeatures, Lookup, LookupPlan, LookupRequest

LEASE_SECONDS = 0.25
"""Lease on the applied definitions."""

_MOST_PLANS = 1_000


class Lookups:
    """Plans by name, and the lookups themselves; the catalog is asked at most four times a second. ``live`` tells which
    release of an application answers now."""

    def __init__(self, store: Store, platform: FeaturePlatform, live: LiveReleases) -> None:
        self._store = store
        self._live = live
        self._clock = store.database.clock
        self._applied: dict[Scope, tuple[AppliedProject | None, float]] = {}
        self._plans: dict[tuple[str, tuple[str, ...], str, bool], LookupPlan] = {}
        self._lookup = FeatureLookup(
            platform.published,
            deciding(store),
            self._clock,
            reads_entities=self._reads_entities,
            remedies=find_remedies(store, platform),
            far=platform.far,
            vectors=platform.vectors,
        )

    async def look_up(self, request: LookupRequest) -> Lookup:
        """Looks up what a plan of :meth:`plan` names; raises as ``FeatureLookup.look_up_now``."""
        return await self._lookup.look_up(request)

    def plan(
        self,
        scope: Scope,
        features: Sequence[str] = (),
        application: str | None = None,
        purpose: str = "",
        *,
        computed: bool = False,
    ) -> LookupPlan:
        """Plans the lookup of these names.

        Args:
            features: ``view`` or ``view.feature``, of the applied definitions or of the application.
            application: hold the values against this application's contracts; all its features without a name.
            purpose: what the values are for, which policies may ask; an application has its own.
            computed: all features of an application are its on-demand ones too.

        Raises:
            NotFoundError: a view, a feature or the application is not there; names all that are not.
            InvalidInputError: a view is kept by Feast.
        """
        names = tuple(features)
        if application is None:
            applied = self._current(scope)
            named = dict.fromkeys(name.partition(".")[0] for name in names)
            granted = self._store.granted.views(scope, named)
            version = "" if applied is None else applied.content_hash
            key = (version + "".join(f"{one.definition_version}{one.tags}" for one in granted), names, purpose, False)
            known = self._plans.get(key)
            views = (*(() if applied is None else applied.project.views.values()), *granted)
            on_demand = () if applied is None else applied.project.on_demand.values()
            return known or self._keep(key, lookup_plan(views, on_demand, names, purpose))
        release = self._live.live(scope, application)
        if release is None:
            raise NotFoundError(
                f"No release of an application {application!r} is live.",
                where="application",
                next_step=nearest(application, self._live.applications(scope), "`antiphon releases list` shows them."),
            )
        key = (release.id, names, "", computed)
        known = self._plans.get(key)
        return known or self._keep(key, self._of_application(scope, release.bundle.application, names, computed))

    def _keep(self, key: tuple[str, tuple[str, ...], str, bool], plan: LookupPlan) -> LookupPlan:
        if len(self._plans) >= _MOST_PLANS:
            self._plans = {}
        self._plans[key] = plan
        return plan

    def _of_application(
        self, scope: Scope, application: ApplicationSpec, names: Sequence[str], computed: bool
    ) -> LookupPlan:
        own, store = application.own_features, self._store
        views = [store.definitions.get(scope, name, version) for name, version in own.items()]
        views += store.granted.views(scope, application.features)
        every = [*application.features, *((view.name for view in application.on_demand) if computed else ())]
        plan = lookup_plan(views, application.on_demand, names or every, application.purpose, application.entity_keys)
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

    def _reads_entities(self, request: LookupRequest) -> bool:
        owners = (owner_of(name) for _, name in granted_names(request.plan.resource))
        tenants = {request.scope.tenant, *(owner for owner in owners if owner is not None)}
        return any(
            parts.any_key or bool(parts.keys)
            for parts in (self._store.decider.decider(tenant).parts for tenant in tenants)
        )


def lookup_plan(
    known: Iterable[FeatureViewSpec],
    on_demand: Iterable[OnDemandSpec],
    requested: Sequence[str],
    purpose: str,
    keys: Collection[str] | None = None,
) -> LookupPlan:
    """The plan of some names.

    Args:
        requested: ``view`` or ``view.feature``; a whole view is its columns, without vectors.
        keys: columns that name entities; those of the views that are read by default.

    Raises:
        NotFoundError: a name is not there; names all that are not.
        InvalidInputError: a view is kept by Feast, or has nothing but vectors.
    """
    views = {view.name: view for view in known}
    selected = select_features(requested, views, {view.name: view for view in on_demand}, vectors=False)
    _require_kept_here(selected.views.values())
    read: dict[str, tuple[str, ...] | None] = {}
    vectors: dict[str, tuple[FeatureViewSpec, tuple[str, ...]]] = {}
    for view, spec in selected.views.items():
        if columns := tuple(name for name in spec.features if name not in spec.models):
            read[view] = None if view in selected.whole else columns  # None: all that are columns
        if spec.models:
            vectors[view] = views[view], tuple(f"{view}.{name}" for name in spec.features if name in spec.models)
    derived = DerivedFeatures(
        selected.names, vectors, selected.on_demand, frozenset(selected.keys if keys is None else keys)
    )
    return LookupPlan(
        resource=Resource(
            "features",
            ",".join(sorted({*selected.views, *(view.name for view in selected.on_demand)})),
            columns=tuple(
                column
                for view in dict.fromkeys((*read, *vectors))
                for column in view_columns(views[view], selected.views[view].features)
            ),
        ),
        views={view: views[view].definition_version for view in read},
        features=read,
        purpose=purpose,
        derived=derived if vectors or selected.on_demand else None,
    )


def _require_kept_here(views: Iterable[FeatureViewSpec]) -> None:
    elsewhere = [view.name for view in views if view.source.kind == "feast"]
    if elsewhere:
        raise InvalidInputError(
            f"{', '.join(elsewhere)} is kept by Feast.",
            where="features",
            next_step="Ask Feast for it; an application that reads it is answered from it.",
        )
