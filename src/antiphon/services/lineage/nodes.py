"""Nodes of the graph of lineage, and finding one by the id or name that a person gives."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.services.lineage.values import AssetKind, LineageDataset
from antiphon.services.project.store import Store

NodeKind = AssetKind | Literal["run", "prediction", "base-model"]

_PREFIXES: dict[str, tuple[str, str]] = {
    "run_": ("run", "runs"),
    "pred_": ("prediction", "receipts"),
    "rel_": ("release", "releases"),
    "job_": ("job", "jobs"),
}
_PREFIXES["batch_"] = _PREFIXES["job_"]


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
    for prefix, (kind, repository) in _PREFIXES.items():
        if name.startswith(prefix):
            getattr(store, repository).get(scope, name)
            return _labeled(store, scope, LineageNode(kind, name, name))  # type: ignore[arg-type]
    if (snapshot := store.snapshots.find(scope, name)) is not None:
        return LineageNode("snapshot", name, f"{snapshot.key} {name}")
    for kind, repository in (
        ("dataset", store.datasets), ("evaluation", store.evaluations), ("safety-report", store.safety_reports),
        ("model", store.models),
    ):  # fmt: skip
        try:
            repository.get(scope, name)  # type: ignore[attr-defined]
        except NotFoundError:
            continue
        return LineageNode(kind, name, name)  # type: ignore[arg-type]
    return _view(store, scope, name)


def release_node(store: Store, scope: Scope, release: str) -> LineageNode:
    """The node of a release, with its application and number; one that is gone has its id."""
    return _labeled(store, scope, LineageNode("release", release, release))


def _labeled(store: Store, scope: Scope, node: LineageNode) -> LineageNode:
    """The node with a label that says more than its id."""
    try:
        if node.kind == "release":
            release = store.releases.get(scope, node.name)
            label = f"{release.bundle.application.name} release {release.number}"
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
