"""Nodes of the graph of lineage, and finding one by the id or name that a person gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.services.lineage.values import AssetKind, LineageDataset
from antiphon.services.project.store import Store

NodeKind = AssetKind | Literal["run", "prediction", "base-model"]

_PREFIXES: dict[str, NodeKind] = {
    "run_": "run", "pred_": "prediction", "rel_": "release", "job_": "job", "batch_": "job",
}  # fmt: skip
"""Beginnings of ids that say what an id is of."""


class LineageNode(msgspec.Struct, frozen=True):
    """One thing that data goes through.

    Attributes:
        kind: a ``view`` is a definition version, a ``snapshot`` its data.
        name: of the catalog: an id, ``VIEW@VERSION`` or ``APPLICATION.vN``; of a source its name as a dataset.
        label: for people.
    """

    kind: NodeKind
    name: str
    label: str

    @property
    def id(self) -> str:
        """Unique in a graph."""
        return f"{self.kind}:{self.name}"


def source_node(dataset: LineageDataset) -> LineageNode:
    """The node of a source; of a file outside the project its place is not told."""
    place = dataset.placeless().name.removeprefix("file/")
    if dataset.namespace.startswith(("s3:", "postgres:")):
        place = f"{dataset.namespace}/{place}"
    if dataset.alias is None:
        return LineageNode("source", f"{dataset.namespace}/{dataset.name}", place.removeprefix("source/"))
    return LineageNode("source", dataset.alias[1], f"{dataset.alias[1].removeprefix('source/')} ({place})")


def node_named(store: Store, scope: Scope, name: str) -> LineageNode:
    """The node of a run, prediction, release, job, snapshot, dataset, evaluation, model version or view.

    Raises:
        NotFoundError: there is none of this id or name here.
    """
    repositories: dict[NodeKind, Callable[[Scope, str], object]] = {
        "run": store.runs.get,
        "prediction": store.receipts.get,
        "release": store.releases.get,
        "job": store.jobs.get,
        "snapshot": store.snapshots.get,
        "dataset": store.datasets.get,
        "evaluation": store.evaluations.get,
        "safety-report": store.safety_reports.get,
        "model": store.models.get,
    }
    prefixed = next((kind for prefix, kind in _PREFIXES.items() if name.startswith(prefix)), None)
    if prefixed is not None:
        repositories[prefixed](scope, name)
        return labeled(store, scope, LineageNode(prefixed, name, name))
    for kind, get in repositories.items():
        if kind not in _PREFIXES.values():
            with suppress(NotFoundError):
                get(scope, name)
                return labeled(store, scope, LineageNode(kind, name, name))
    return _view(store, scope, name)


def labeled(store: Store, scope: Scope, node: LineageNode) -> LineageNode:
    """The node with a label that says more than its id; one that is gone stays as it is."""
    try:
        if node.kind == "release":
            release = store.releases.get(scope, node.name)
            label = f"{release.bundle.application.name} release {release.number}"
        elif node.kind == "snapshot":
            label = f"{store.snapshots.get(scope, node.name).key} {node.name}"
        elif node.kind == "run":
            run = store.runs.get(scope, node.name)
            label = f"{run.workflow} {run.id}"
        else:
            return node
    except NotFoundError:
        return node
    return LineageNode(node.kind, node.name, label)


def _view(store: Store, scope: Scope, name: str) -> LineageNode:
    if "@" in name:
        spec = store.definitions.of(scope, name)
        return LineageNode("view", spec.key, spec.key)
    applied = store.applied.current(scope)
    views = {} if applied is None else store.applied.project(scope).views
    if name in views:
        return LineageNode("view", views[name].key, views[name].key)
    raise NotFoundError(
        f"There is nothing of the name {name!r} here.",
        where=str(scope),
        next_step=nearest(name, views, "Name a run, prediction, release, model version or view."),
    )
