"""Nearest neighbours in one project: of views as they are applied, and keys for those who may see them."""

from __future__ import annotations

from antiphon.app.store import Store
from antiphon.core.errors import NotFound
from antiphon.core.scope import Scope
from antiphon.features.embedding.neighbours import NeighbourLookup, Neighbours, Question


class ProjectNeighbours:
    """Answers for the project's own scope; of another scope there are no views here."""

    def __init__(self, store: Store, lookup: NeighbourLookup) -> None:
        self._store = store
        self._lookup = lookup

    def find(self, scope: Scope, view: str, question: Question, *, see_keys: bool) -> Neighbours:
        """The entities of a view whose texts are nearest.

        Raises:
            NotFound: this scope has no such view, feature, publication or entity.
            InvalidInput, OtherModel, FeatureUnavailable, SetupError: as :meth:`NeighbourLookup.find`.
        """
        applied = self._store.applied.current(scope) if scope == self._store.scope else None
        spec = applied.project.views.get(view) if applied is not None else None
        if spec is None:
            raise NotFound(
                f"There is no view {view!r}.", where="view", next_step="`antiphon features list` shows the views."
            )
        return self._lookup.find(spec, question, see_keys=see_keys)
