"""The lineage of runs, read from the catalog: events of one run or of many, and what each read and made."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.run import ENDED, Run
from antiphon.services.lineage.assets import Assets
from antiphon.services.lineage.events import events_of, job_name
from antiphon.services.lineage.naming import DatasetNames
from antiphon.services.lineage.references import references_of
from antiphon.services.lineage.values import AssetReference, LineageEvent, RunReferences
from antiphon.services.project.store import Store
from antiphon.services.workflows import TABLE_JOB, USER_WORKFLOWS


class RunLineage:
    """Lineage of the runs of one project, derived each time it is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def assets(self, scope: Scope) -> Assets:
        """Describes the assets of a scope, in the namespace of the settings."""
        namespace = self._store.settings.lineage.namespace
        return Assets(self._store, DatasetNames.of(scope, self._store.paths.root, namespace))

    def references(self, run: Run) -> RunReferences:
        """The inputs and outputs of a run, by ids."""
        found = references_of(run, self._store.runs.steps(run.scope, run.id))
        if run.workflow in USER_WORKFLOWS.values():
            return self._with_snapshots(run, found)
        return self._with_application(run, found) if run.workflow == TABLE_JOB else found

    def events(self, scope: Scope, run: str) -> tuple[LineageEvent, ...]:
        """The events of a run so far.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self.of(self._store.runs.get(scope, run))

    def of(self, run: Run) -> tuple[LineageEvent, ...]:
        """The events of a run so far."""
        if run.status == "queued":
            return ()
        references, assets = self.references(run), self.assets(run.scope)
        ended = run.status in ENDED
        return events_of(
            run,
            references,
            assets.inputs(run.scope, references.inputs) if ended else (),
            assets.outputs(run.scope, references.outputs) if ended else (),
            namespace=assets.names.namespace,
            parent_job=self._job_of(run.scope, references.parent),
        )

    def recent(self, scope: Scope, limit: int, since: datetime | None = None) -> list[LineageEvent]:
        """Events of the latest runs, in the order in which they happened."""
        runs = [run for run in self._store.runs.list(scope, limit) if since is None or run.updated_at >= since]
        events = [event for run in runs for event in self.of(run) if since is None or event.at >= since]
        return sorted(events, key=lambda event: (event.at, event.run, event.type != "START"))

    def _with_application(self, run: Run, references: RunReferences) -> RunReferences:
        """The same about the application of a table job, which never changes; a batch learns its model on its way."""
        try:
            application = self._store.jobs.get(run.scope, str(run.arguments["job"])).application
        except NotFoundError:
            return references
        return msgspec.structs.replace(references, subject=application)

    def _with_snapshots(self, run: Run, references: RunReferences) -> RunReferences:
        """The same with the snapshots of the views that a workflow was ordered with, as far as they are known."""
        order = run.arguments.get("part") or {"inputs": {}}
        read = []
        for key, version in sorted(order["inputs"].items()):
            kind, _, view = key.partition("/")
            if kind == "view":
                latest = self._store.snapshots.list(run.scope, view)
                found = (one.id for one in latest if one.logical_hash.startswith(version))
                read += [AssetReference("snapshot", one) for one in found][:1]
        return msgspec.structs.replace(references, inputs=(*references.inputs, *read))

    def _job_of(self, scope: Scope, run: str | None) -> str | None:
        if run is None:
            return None
        try:
            found = self._store.runs.get(scope, run)
        except NotFoundError:
            return None
        return job_name(found, self.references(found).subject)
