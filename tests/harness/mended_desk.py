"""A project with a live release, incidents of it, and the worker's part that mends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
from tests.harness.watched_release import ViewRollbacks, WatchedRelease

from antiphon.catalog.incidents import Incident, IncidentClass, IncidentEvidence, IncidentSymptom, RootCause
from antiphon.catalog.playbooks import PlaybookRun
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookSpec
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.features.publication.rollback import ViewRollback
from antiphon.services.playbooks.actions import PlaybookActions
from antiphon.services.playbooks.orders import PlaybookOrders
from antiphon.services.playbooks.project import ProjectPlaybooks
from antiphon.services.playbooks.workflow import PlaybookWorkflow
from antiphon.services.workflows import PLAYBOOK, POLICIES


class ResumableViews(ViewRollbacks):
    """With dry runs, and holds that end."""

    def view(self, scope: Scope, view: str | None, to: str | int | None, **options: Any) -> Any:
        if not options.pop("dry_run", False):
            super().view(scope, view, to, **options)
        return ViewRollback(None, (), True, str(options["reason"]), str(options["principal"]))

    def resume(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        del self.holds[view]


class MendedDesk(WatchedRelease):
    """Incidents are written as the watch writes them; steps are taken by a real executor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.views = ResumableViews()
        self.actions = PlaybookActions(self.store, self.scope, cast(Any, self.views))
        self.orders = PlaybookOrders(self.store)
        self.playbooks = ProjectPlaybooks(self.store, self.scope, self.actions)

    def declare(self, *playbooks: PlaybookSpec) -> None:
        """Apply the project with these playbooks, and forbid the shipped ones to act."""
        project = self.store.applied.project(self.scope)
        declared = {one.name: one for one in playbooks}
        self.store.applied.apply(self.scope, msgspec.structs.replace(project, playbooks=declared), principal="ada")

    def incident(
        self, component: str, signal: str, class_: IncidentClass, record: str = "", name: str = "inc_1", **fields: Any
    ) -> Incident:
        """Open an incident with one cause, which is its symptom."""
        now = self.clock.now()
        evidence = IncidentEvidence(component, signal, f"{signal} at {component}.", now, record=record)
        made = Incident(
            name, "open", "warning", class_, f"{component}: {signal}", now, now,
            (RootCause(component, class_, (evidence,)),), (IncidentSymptom(signal, component, now, evidence),),
            applications=("desk",),
        )  # fmt: skip
        return self.put(msgspec.structs.replace(made, **fields))

    def put(self, incident: Incident) -> Incident:
        with self.store.database.transaction() as connection:
            self.store.incidents.put(self.scope, incident, within=connection)
        return incident

    def mitigate(self, name: str = "inc_1") -> Incident:
        """End the symptoms of an incident, as the watch does."""
        found, now = self.store.incidents.get(self.scope, name), self.clock.now()
        over = tuple(msgspec.structs.replace(one, until=now) for one in found.symptoms)
        return self.put(msgspec.structs.replace(found, state="mitigated", symptoms=over, updated_at=now))

    def resolve(self, name: str = "inc_1") -> None:
        """End an incident, as the watch does."""
        found = self.mitigate(name)
        self.put(msgspec.structs.replace(found, state="resolved", resolved_at=found.updated_at))

    async def work(self, wrap: Callable[[RunContext], RunContext] = lambda one: one) -> None:
        """Take every step that is ordered, to its end."""
        registry = WorkflowRegistry()
        workflow = PlaybookWorkflow(self.store, self.actions)

        async def run(context: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
            return await workflow.run(wrap(context), arguments)

        registry.add(PLAYBOOK, run, POLICIES[PLAYBOOK])
        stop = asyncio.Event()
        executor = Executor(self.store.database, registry, "w", self.scope, poll=0.01, backoff=timedelta())
        working = asyncio.create_task(executor.run_until(stop))
        async with asyncio.timeout(60):
            while any(one.status not in ENDED for one in self.store.runs.list(self.scope, 100, workflow=PLAYBOOK)):
                await asyncio.sleep(0.01)
        stop.set()
        await working

    def look(self) -> None:
        """Order and settle until nothing changes."""
        while self.orders.look():
            pass

    def run(self, playbook: str, incident: str = "inc_1") -> PlaybookRun:
        return self.store.playbook_runs.get(self.scope, f"{incident}.{playbook}")

    def timeline(self, name: str = "inc_1") -> list[str]:
        return [one.text for one in self.store.incidents.get(self.scope, name).timeline if one.kind == "playbook"]

    def acts(self) -> list[tuple[str, str]]:
        """Principal and action of what playbooks did, as it is in the audit log."""
        entries = sorted(self.store.audit.query(self.scope), key=lambda one: one.sequence)
        return [(str(one.principal), one.action) for one in entries if "playbook" in one.action]
