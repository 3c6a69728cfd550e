"""The lineage of one project as commands, pages and the gateway ask for it."""

from __future__ import annotations

from datetime import datetime

from antiphon.core.scope import Scope
from antiphon.services.lineage.graph import Direction, LineageGraph, walk
from antiphon.services.lineage.neighbors import LineageNeighbors, live_nodes
from antiphon.services.lineage.nodes import LineageNode, node_named
from antiphon.services.lineage.runs import RunLineage
from antiphon.services.lineage.values import LineageEvent
from antiphon.services.project.store import Store


class ProjectLineage:
    """Events and graph of one project."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs = RunLineage(store)

    def events(
        self, scope: Scope, run: str | None = None, *, limit: int = 50, since: datetime | None = None
    ) -> list[LineageEvent]:
        """Events of a run, or of the latest ``limit`` runs, in the order in which they happened.

        Raises:
            NotFoundError: there is no such run here.
        """
        if run is not None:
            return list(self._runs.events(scope, run))
        return self._runs.recent(scope, limit, since)

    def node(self, scope: Scope, name: str) -> LineageNode:
        """The node of an id or a name; raises ``NotFoundError`` when there is none here."""
        return node_named(self._store, scope, name)

    def graph(self, scope: Scope, name: str | None = None, direction: Direction = "both") -> LineageGraph:
        """The graph around a node, or of everything behind the live releases.

        Raises:
            NotFoundError: there is nothing of this id or name here.
        """
        begins = live_nodes(self._store, scope) if name is None else [self.node(scope, name)]
        return walk(LineageNeighbors(self._store), scope, begins, "upstream" if name is None else direction)
