"""Describes assets from what the catalog keeps of them: names, versions, columns and counts, and nothing of their
rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.jobs import BatchJob
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.granted import owner_of
from antiphon.services.lineage.naming import DatasetNames, view_columns
from antiphon.services.lineage.values import AssetReference, Column, LineageDataset
from antiphon.services.project.store import Store

_OPENAI = "openai"
_LISTED = 20
"""Files of an export that are told one by one."""
_INLINE = "blob:"
"""Begins the input of a job whose rows came in the order itself."""


class Assets:
    """The assets of one scope, as datasets.

    What is not in the catalog, or no longer, is described by its id alone, so that a run is told of whatever became of
    what it read.
    """

    def __init__(self, store: Store, names: DatasetNames) -> None:
        self._store = store
        self.names = names

    def inputs(self, scope: Scope, references: Iterable[AssetReference]) -> tuple[LineageDataset, ...]:
        """The datasets that a run with these inputs read, each once."""
        return self._described(scope, references, self._job_inputs)

    def outputs(self, scope: Scope, references: Iterable[AssetReference]) -> tuple[LineageDataset, ...]:
        """The datasets that a run with these outputs wrote, each once."""
        return self._described(scope, references, self._job_outputs)

    def _described(
        self,
        scope: Scope,
        references: Iterable[AssetReference],
        of_job: Callable[[Scope, str], Iterator[LineageDataset]],
    ) -> tuple[LineageDataset, ...]:
        found: dict[tuple[str, str, str | None], LineageDataset] = {}
        for reference in references:
            for one in of_job(scope, reference.id) if reference.kind == "job" else self._each(scope, reference):
                found.setdefault((one.namespace, one.name, one.version), one)
        return tuple(found.values())

    def _each(self, scope: Scope, reference: AssetReference) -> Iterator[LineageDataset]:
        if reference.kind == "source":
            yield from self._sources(scope, reference.id)
            return
        if reference.kind == "file":
            yield self.names.place("file", reference.id)
            return
        if reference.kind == "export":
            yield from self._export(scope, reference.id)
            return
        known: dict[str, Callable[[Scope, str], LineageDataset]] = {
            "view": self.view,
            "snapshot": self.snapshot,
            "dataset": self._dataset,
            "model": self._model,
            "release": self._release,
            "evaluation": self._evaluation,
            "safety-report": self._safety_report,
            "regression-run": self._regression_run,
            "trial": self._trial,
            "answers": self._answers,
        }
        describe = known.get(reference.kind)
        try:
            if describe is not None:
                yield describe(scope, reference.id)
                return
        except NotFoundError:
            pass
        yield self.names.own(reference.kind, reference.id)

    def view(self, scope: Scope, key: str) -> LineageDataset:
        """A definition version ``VIEW@VERSION``, whatever its data."""
        return msgspec.structs.replace(self.names.own("view", key), columns=self._columns(scope, key, None))

    def snapshot(self, scope: Scope, snapshot: str) -> LineageDataset:
        """The data of a view at a moment."""
        manifest = self._store.snapshots.get(scope, snapshot)
        return msgspec.structs.replace(
            self.names.own("view", manifest.key, manifest.id),
            kind="snapshot",
            columns=self._columns(scope, manifest.key, manifest),
            rows=manifest.rows_out,
            bytes=sum(file.bytes for file in manifest.files),
            files=len(manifest.files),
        )

    def _sources(self, scope: Scope, id: str) -> Iterator[LineageDataset]:
        """The sources of a snapshot, with what was read of them, or of a definition version."""
        manifest = self._store.snapshots.find(scope, None if "@" in id else id)
        key = id if manifest is None else manifest.key
        try:
            source = self._store.definitions.of(scope, key).source
        except NotFoundError:
            return
        found = list(self.names.sources(source))
        if manifest is None:
            yield from found
            return
        quality = manifest.source_quality
        columns = tuple(Column(*one) for one in sorted(quality.kinds.items())) if quality is not None else ()
        for one in found:
            # The hash and the counts are of everything that was read: of several parts they are none's.
            version = manifest.source_hash if len(found) == 1 else None
            if one.name.startswith("source/stream/"):
                version = None if manifest.stream_offset is None else f"offset {manifest.stream_offset}"
            yield msgspec.structs.replace(
                one,
                version=version,
                columns=columns if not source.over else (),
                rows=manifest.rows_in if len(found) == 1 else None,
                files=len(manifest.read.files) or None,
            )

    def _columns(self, scope: Scope, key: str, manifest: SnapshotManifest | None) -> tuple[Column, ...]:
        view, _, version = key.partition("@")
        if owner_of(view) is not None:
            return ()
        try:
            spec = self._store.definitions.get(scope, view, version)
        except NotFoundError:
            return ()  # computed from the request, which keeps no version by itself
        quality = None if manifest is None else manifest.source_quality
        return view_columns(spec, {} if quality is None else quality.kinds)

    def _dataset(self, scope: Scope, id: str) -> LineageDataset:
        dataset = self._store.datasets.get(scope, id)
        named = self.names.own("dataset", f"{dataset.spec.application}/{dataset.spec.kind}", dataset.id)
        columns = tuple(Column(name, "unknown") for name in dataset.columns)
        return msgspec.structs.replace(named, columns=columns, rows=dataset.rows, files=1)

    def _model(self, scope: Scope, id: str) -> LineageDataset:
        model = self._store.models.get(scope, id)
        size = model.adapter.size + model.weights.size
        return msgspec.structs.replace(self.names.own("model", model.application, model.id), bytes=size, files=2)

    def _release(self, scope: Scope, id: str) -> LineageDataset:
        release = self._store.releases.get(scope, id)
        return self.names.own("release", release.bundle.application.name, release.id)

    def _evaluation(self, scope: Scope, id: str) -> LineageDataset:
        found = self._store.evaluations.get(scope, id)
        return msgspec.structs.replace(self.names.own("evaluation", found.application, found.id), rows=found.rows)

    def _safety_report(self, scope: Scope, id: str) -> LineageDataset:
        found = self._store.safety_reports.get(scope, id)
        return msgspec.structs.replace(
            self.names.own("safety-report", found.application, found.id), rows=found.requests
        )

    def _regression_run(self, scope: Scope, id: str) -> LineageDataset:
        found = self._store.regressions.run(scope, id)
        named = self.names.own("regression-run", found.regression_set, found.id)
        return msgspec.structs.replace(named, rows=len(found.results))

    def _trial(self, scope: Scope, id: str) -> LineageDataset:
        found = self._store.trials.get(scope, id)
        return msgspec.structs.replace(self.names.own("trial", found.application, found.id), rows=len(found.answers))

    def _answers(self, scope: Scope, id: str) -> LineageDataset:
        application, _, job = id.partition("@")
        return self.names.own("answers", application, job or None)

    def _export(self, scope: Scope, id: str) -> Iterator[LineageDataset]:
        """A version of an export, and its files by their places: of more than some their folder."""
        export, _, version = id.rpartition("@")
        files = self._store.exported_files.list(scope, export, version)
        rows, size = sum(one.rows for one in files), sum(one.bytes for one in files)
        counted = {"rows": rows, "bytes": size, "files": len(files)} if files else {}
        yield msgspec.structs.replace(self.names.own("export", export, version), **counted)
        places = {one.path: one for one in files}
        if len(places) > _LISTED:
            folder = min(places).partition("?")[0].rpartition("/")[0]
            yield msgspec.structs.replace(self.names.place("file", f"{folder}/"), **counted)
            return
        for path, one in sorted(places.items()):
            written = msgspec.structs.replace(self.names.place("file", path), version=one.sha256)
            yield msgspec.structs.replace(written, rows=one.rows, bytes=one.bytes)

    def _job_inputs(self, scope: Scope, id: str) -> Iterator[LineageDataset]:
        job = self._find_job(scope, id)
        if job is None:
            return
        if job.kind == _OPENAI:
            yield self.names.own("file", job.input)
        elif job.input.startswith(_INLINE):
            yield msgspec.structs.replace(self.names.own("source", f"order/{job.id}"), rows=job.total)
        elif job.input:
            yield msgspec.structs.replace(self.names.place("source", job.input), rows=job.total)
        for release in job.releases:
            yield from self._each(scope, AssetReference("release", release))
            yield from self._views(scope, release)

    def _job_outputs(self, scope: Scope, id: str) -> Iterator[LineageDataset]:
        job = self._find_job(scope, id)
        if job is None:
            return
        answers = self.names.own("answers", job.application or "models", job.id)
        yield msgspec.structs.replace(answers, rows=job.rows_done)
        if job.kind == _OPENAI:
            batch = Batches(self._store.database).get(scope, id)
            for file in (batch.output_file, batch.error_file):
                if file is not None:
                    yield self.names.own("file", file)
        elif job.output:
            version = job.written[-1] if job.written else None
            written = msgspec.structs.replace(self.names.place("file", job.output), version=version)
            yield msgspec.structs.replace(written, rows=job.rows_done)

    def _views(self, scope: Scope, release: str) -> Iterator[LineageDataset]:
        try:
            pinned = self._store.releases.get(scope, release).bundle.application.pinned
        except NotFoundError:
            return
        for view, version in sorted(pinned.items()):
            yield self.view(scope, f"{view}@{version}")

    def _find_job(self, scope: Scope, id: str) -> BatchJob | None:
        try:
            return self._store.jobs.get(scope, id)
        except NotFoundError:
            return None
