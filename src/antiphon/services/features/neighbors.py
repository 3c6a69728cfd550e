"""Nearest neighbors in one project: of views as they are applied, for those whom policy lets ask."""

from __future__ import annotations

from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.definitions.sensitivity import Tags
from antiphon.features.embedding.neighbors import NeighborLookup, NeighborQuery, Neighbors
from antiphon.features.selection import unknown_views
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import PolicyColumn, Resource
from antiphon.services.project.store import Store


class ProjectNeighbors:
    """Answers for the project's own scope; of another scope there are no views here."""

    def __init__(self, store: Store, lookup: NeighborLookup) -> None:
        self._store = store
        self._lookup = lookup

    def find(
        self, scope: Scope, principal: Principal, view: str, question: NeighborQuery, *, purpose: str, see_keys: bool
    ) -> Neighbors:
        """The entities of a view whose texts are nearest.

        Raises:
            NotFoundError: this scope has no such view, feature, publication or entity.
            ForbiddenError: the feature is too sensitive for the principal, or not for this purpose.
            InvalidInputError, EmbeddingModelMismatchError, FeatureUnavailableError, SetupError: as
                :meth:`NeighborLookup.find`.
        """
        views = self._store.applied.project(scope).views if scope == self._store.scope else {}
        spec = views.get(view)
        if spec is None:
            raise unknown_views([view], views, "view")
        tags = spec.tags.get(question.feature, Tags())
        require_feature(self._store, principal, f"{view}.{question.feature}", tags, purpose)
        return self._lookup.find(spec, question, see_keys=see_keys)


def require_feature(store: Store, principal: Principal, feature: str, tags: Tags, purpose: str) -> None:
    """Require that policy allows an answer made from one feature alone; raises ``ForbiddenError``."""
    column = PolicyColumn(feature, tags.sensitivity, tags.purposes)
    resource = Resource("view", feature.partition(".")[0], columns=(column,))
    context = {"environment": store.settings.project.environment, "purpose": purpose, "path": "online"}
    if store.decider.require(principal, "answer", resource, context).masked:
        raise ForbiddenError(
            f"Policy hides {feature} from {principal.id}.", where="policy", next_step="Ask an administrator."
        )
