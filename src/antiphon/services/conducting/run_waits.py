"""Reasons for which queued runs of one project wait, read from its catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.scope import Scope
from antiphon.durable.claims import WORKERS
from antiphon.durable.policy import DEFAULT_POLICY
from antiphon.durable.ramp import RAMP_SECONDS
from antiphon.durable.run import Run
from antiphon.orchestration.conductor.durations import expected_end
from antiphon.orchestration.conductor.waiting import RunWait, SlotUse, wait_of
from antiphon.services.project.store import Store
from antiphon.services.workflows import GATES, MOST_CHECKS, OPENAI_BATCH, POLICIES

_APART = {GATES, OPENAI_BATCH}
"""Workflows that have slots of their own; all others take those of their class of work."""


class RunWaits:
    """Says why runs wait."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, scope: Scope, runs: Iterable[Run]) -> Mapping[str, RunWait]:
        """The wait of each of these runs that is queued, by its id."""
        queued = [run for run in runs if run.status == "queued"]
        if not queued:
            return {}
        now = self._store.database.clock.now()
        holds = self._store.run_holds.list(scope, now - timedelta(seconds=RAMP_SECONDS))
        limits = [one for one in self._store.run_holds.lasting(scope, limits=True) if one.kind == "limit"]
        slots = self._slots(scope, now)
        return {run.id: wait_of(run, now, (*holds, *limits), slots[_group(run.workflow)]) for run in queued}

    def _slots(self, scope: Scope, now: datetime) -> dict[str, SlotUse]:
        leases = ProcessLeases(self._store.database, self._store.scope.environment)
        workers = len(leases.living(f"{WORKERS}{scope.tenant}/"))
        settings = self._store.settings
        most = settings.worker.slots.by_work | {GATES: MOST_CHECKS, OPENAI_BATCH: settings.batch.batches}
        running: dict[str, list[Run]] = {group: [] for group in most}
        for run in self._store.runs.under_way(scope):
            running[_group(run.workflow)].append(run)
        found = {}
        for group, runs in running.items():
            ends = [end for run in runs if (end := expected_end(run, now)) is not None]
            found[group] = SlotUse(len(runs), most[group] * workers, min(ends, default=None), group)
        return found


def _group(workflow: str) -> str:
    return workflow if workflow in _APART else POLICIES.get(workflow, DEFAULT_POLICY).work
