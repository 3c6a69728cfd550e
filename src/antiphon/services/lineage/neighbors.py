"""One step in the graph of lineage, upstream or downstream, from what the catalog keeps of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.granted import owner_of
from antiphon.services.lineage.nodes import LineageNode, NodeKind, labeled, source_node
from antiphon.services.lineage.runs import RunLineage
from antiphon.services.lineage.values import AssetReference
from antiphon.services.project.store import Store

MOST = 20
"""Nodes of one kind beyond a node at most, the latest of them: a view has a snapshot each quarter of an hour."""


class LineageStep(msgspec.Struct, frozen=True):
    """A neighbor; ``run`` is the run that made the later of the two, where it is known."""

    node: LineageNode
    run: str | None = None


class LineageNeighbors:
    """Neighbors of nodes in the catalog of one project."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lineage = RunLineage(store)
        self._upstream: dict[str, Callable[[Scope, str], Iterator[LineageStep]]] = {
            "prediction": self._before_prediction,
            "release": self._before_release,
            "model": self._before_model,
            "dataset": self._before_dataset,
            "view": self._before_view,
            "snapshot": self._before_snapshot,
            "evaluation": self._before_evaluation,
            "safety-report": self._before_safety_report,
            "job": self._before_job,
            "run": self._before_run,
            "workflow": self._before_workflow,
        }
        self._downstream: dict[str, Callable[[Scope, str], Iterator[LineageStep]]] = {
            "source": self._after_source,
            "snapshot": self._after_snapshot,
            "view": self._after_view,
            "dataset": self._after_dataset,
            "model": self._after_model,
            "release": self._after_release,
            "run": self._after_run,
        }

    def upstream(self, scope: Scope, node: LineageNode) -> list[LineageStep]:
        """The nodes that one was made from; none of one that is gone."""
        return self._steps(self._upstream, scope, node)

    def downstream(self, scope: Scope, node: LineageNode) -> list[LineageStep]:
        """The nodes that were made of one, the latest of each kind."""
        return self._steps(self._downstream, scope, node)

    def _steps(
        self, ways: dict[str, Callable[[Scope, str], Iterator[LineageStep]]], scope: Scope, node: LineageNode
    ) -> list[LineageStep]:
        way = ways.get(node.kind)
        if way is None:
            return []
        try:
            return list(way(scope, node.name))
        except NotFoundError:
            return []

    def _before_prediction(self, scope: Scope, prediction: str) -> Iterator[LineageStep]:
        receipt = self._store.receipts.get(scope, prediction)
        if receipt.cache.prediction and receipt.cache.prediction != prediction:
            yield LineageStep(_node("prediction", receipt.cache.prediction))
        if receipt.release.startswith("rel_"):
            yield LineageStep(self._release(scope, receipt.release))
        else:
            yield LineageStep(_node("base-model", receipt.release.removeprefix("model:")))
        read = {one.snapshot: one.name.partition(".")[0] for one in receipt.features if one.snapshot}
        read |= {one.snapshot: one.view for one in receipt.retrievals}
        for snapshot, view in sorted(read.items()):
            yield LineageStep(self._snapshot(scope, snapshot, view))

    def _before_release(self, scope: Scope, release: str) -> Iterator[LineageStep]:
        bundle = self._store.releases.get(scope, release).bundle
        if bundle.model.version is not None:
            yield LineageStep(_node("model", bundle.model.version))
        else:
            yield LineageStep(_node("base-model", bundle.model.name))
        for view, version in sorted(bundle.application.pinned.items()):
            yield LineageStep(_node("view", f"{view}@{version}"))

    def _before_model(self, scope: Scope, model: str) -> Iterator[LineageStep]:
        found = self._store.models.get(scope, model)
        yield LineageStep(_node("base-model", found.base), found.run)
        for dataset in (found.dataset, *found.replay_datasets, found.held_out):
            if dataset:
                yield LineageStep(_node("dataset", dataset), found.run)
        if found.parent is not None:
            yield LineageStep(_node("model", found.parent), found.run)
        if found.preferences is not None:
            yield LineageStep(_answers(found.application), found.run)

    def _before_dataset(self, scope: Scope, dataset: str) -> Iterator[LineageStep]:
        spec = self._store.datasets.get(scope, dataset).spec
        for view, version in sorted(spec.views.items()):
            yield LineageStep(_node("view", f"{view}@{version}"))
        if spec.history is not None:
            for source in self._lineage.assets(scope).names.sources(spec.history):
                yield LineageStep(source_node(source))
        if "receipts" in spec.origins:
            yield LineageStep(_answers(spec.application))

    def _before_view(self, scope: Scope, key: str) -> Iterator[LineageStep]:
        if owner_of(key.partition("@")[0]) is not None:
            return  # The source of a granted view is its owner's.
        published = self._store.publications.snapshots(scope).get(key)
        if published is not None:
            yield LineageStep(self._snapshot(scope, published, key))
            return
        yield from self._sources(scope, key)

    def _before_snapshot(self, scope: Scope, snapshot: str) -> Iterator[LineageStep]:
        yield from self._sources(scope, snapshot, self._store.snapshots.get(scope, snapshot).run)

    def _before_evaluation(self, scope: Scope, evaluation: str) -> Iterator[LineageStep]:
        found = self._store.evaluations.get(scope, evaluation)
        yield LineageStep(self._release(scope, found.release))
        yield LineageStep(_node("dataset", found.dataset))

    def _before_safety_report(self, scope: Scope, report: str) -> Iterator[LineageStep]:
        yield LineageStep(self._release(scope, self._store.safety_reports.get(scope, report).release))

    def _before_job(self, scope: Scope, job: str) -> Iterator[LineageStep]:
        for dataset in self._lineage.assets(scope).inputs(scope, [AssetReference("job", job)]):
            if dataset.kind == "source":
                yield LineageStep(source_node(dataset))
        for release in self._store.jobs.get(scope, job).releases:
            yield LineageStep(self._release(scope, release))

    def _before_workflow(self, scope: Scope, workflow: str) -> Iterator[LineageStep]:
        parts = [one for one in self._store.asset_parts.list(scope) if one.asset == f"workflow/{workflow}"]
        made = sorted((one.made_at, one.made_by) for one in parts if one.made_at is not None and one.made_by)
        for _, run in made[-MOST:]:
            yield LineageStep(labeled(self._store, scope, _node("run", run)), run)

    def _before_run(self, scope: Scope, run: str) -> Iterator[LineageStep]:
        references = self._lineage.references(self._store.runs.get(scope, run))
        for reference in references.inputs:
            if reference.kind == "job":
                yield from self._before_job(scope, reference.id)
            elif reference.kind == "source":
                yield from self._sources(scope, reference.id)
            else:
                yield LineageStep(self._referenced(scope, reference))
        if references.parent is not None:
            yield LineageStep(_node("run", references.parent))

    def _after_source(self, scope: Scope, source: str) -> Iterator[LineageStep]:
        names = self._lineage.assets(scope).names
        for spec in self._store.applied.project(scope).views.values():
            if source in {source_node(one).name for one in names.sources(spec.source)}:
                yield LineageStep(_node("view", spec.key))

    def _after_snapshot(self, scope: Scope, snapshot: str) -> Iterator[LineageStep]:
        manifest = self._store.snapshots.get(scope, snapshot)
        if self._store.publications.snapshots(scope).get(manifest.key) == snapshot:
            yield LineageStep(_node("view", manifest.key))

    def _after_view(self, scope: Scope, key: str) -> Iterator[LineageStep]:
        view, _, version = key.partition("@")
        releases = self._store.releases.list(scope)
        reading = [one for one in releases if one.bundle.application.pinned.get(view) == version]
        for release in reading[:MOST]:
            yield LineageStep(self._release(scope, release.id))
        datasets = self._store.datasets.list(scope, limit=10 * MOST)
        for dataset in [one for one in datasets if one.spec.views.get(view) == version][:MOST]:
            yield LineageStep(_node("dataset", dataset.id))

    def _after_dataset(self, scope: Scope, dataset: str) -> Iterator[LineageStep]:
        spec = self._store.datasets.get(scope, dataset).spec
        for model in self._store.models.list(scope, spec.application):
            if dataset in (model.dataset, *model.replay_datasets):
                yield LineageStep(_node("model", model.id), model.run)
        for evaluation in self._store.evaluations.list(scope, spec.application, limit=10 * MOST):
            if evaluation.dataset == dataset:
                yield LineageStep(_node("evaluation", evaluation.id))

    def _after_model(self, scope: Scope, model: str) -> Iterator[LineageStep]:
        application = self._store.models.get(scope, model).application
        for release in self._store.releases.list(scope, application):
            if release.bundle.model.version == model:
                yield LineageStep(self._release(scope, release.id))

    def _after_release(self, scope: Scope, release: str) -> Iterator[LineageStep]:
        for evaluation in self._store.evaluations.list(scope, release=release, limit=MOST):
            yield LineageStep(_node("evaluation", evaluation.id))
        for report in self._store.safety_reports.list(scope, release=release, limit=MOST):
            yield LineageStep(_node("safety-report", report.id))
        for job in self._store.jobs.list(scope, 10 * MOST):
            if release in job.releases:
                yield LineageStep(_node("job", job.id))

    def _after_run(self, scope: Scope, run: str) -> Iterator[LineageStep]:
        for reference in self._lineage.references(self._store.runs.get(scope, run)).outputs:
            yield LineageStep(self._referenced(scope, reference), run)

    def _sources(self, scope: Scope, id: str, run: str | None = None) -> Iterator[LineageStep]:
        for dataset in self._lineage.assets(scope).inputs(scope, [AssetReference("source", id)]):
            yield LineageStep(source_node(dataset), run)

    def _referenced(self, scope: Scope, reference: AssetReference) -> LineageNode:
        if reference.kind == "release":
            return self._release(scope, reference.id)
        if reference.kind == "file":
            place = self._lineage.assets(scope).names.place("file", reference.id).placeless()
            name = place.name.removeprefix("file/")
            return _node("file", f"{place.namespace}/{name}" if place.namespace.startswith("s3:") else name)
        if reference.kind == "snapshot":
            return self._snapshot(scope, reference.id, "")
        return _node(reference.kind, reference.id)

    def _release(self, scope: Scope, release: str) -> LineageNode:
        return labeled(self._store, scope, _node("release", release))

    def _snapshot(self, scope: Scope, snapshot: str, view: str) -> LineageNode:
        manifest = self._store.snapshots.find(scope, snapshot)
        key = view if manifest is None else manifest.key
        return LineageNode("snapshot", snapshot, f"{key} {snapshot}".strip())


def live_nodes(store: Store, scope: Scope) -> list[LineageNode]:
    """The live releases, from which the whole graph of what is in use is walked."""
    return [labeled(store, scope, _node("release", release.id)) for release in store.releases.live_ones(scope)]


def _node(kind: NodeKind, name: str) -> LineageNode:
    return LineageNode(kind, name, name)


def _answers(application: str) -> LineageNode:
    return LineageNode("answers", application, f"answers of {application}")
