"""The workflow of a playbook's run: each step checked, taken and recorded, or undone when the run fails.

Invariants:
- What a step is about to change is recorded before it is taken, and a step that was taken has a record: a worker that
  is killed anywhere goes on without doing it twice.
- The record of a step, its line in the incident's timeline and its evidence in the audit log are one transaction.
- A run that fails is rolled back by the executor, which calls this workflow again to learn how its steps are undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.incidents import TimelineEntry
from antiphon.catalog.playbooks import PlannedStep, PlaybookRun, StepOutcome
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.services.playbooks.actions import PlaybookActions, principal_of
from antiphon.services.project.store import Store

TIMELINE = "playbook"
"""Kind of the entries of an incident's timeline."""


class PlaybookArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a run: the playbook's run, and whether it is the end, at which steps are undone."""

    playbook_run: str
    ending: bool = False


class PlaybookWorkflow:
    """Takes the steps of playbooks."""

    def __init__(self, store: Store, actions: PlaybookActions) -> None:
        self._store = store
        self._actions = actions

    async def run(self, context: RunContext, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Take the steps in their order, or undo at the end what is to be undone then."""
        order = msgspec.convert(arguments, PlaybookArguments)
        found = await asyncio.to_thread(self._store.playbook_runs.get, self._store.scope, order.playbook_run)
        if order.ending:
            return await self._end(context, found)
        for planned in found.plan:
            await self._wait(context, planned)
            seen = await context.step(f"check {planned.label}", self._actions.check, found, planned)
            if "unneeded" in seen:
                return {"stopped": seen["unneeded"]}
            undo = None if planned.step.undone == "never" else partial(self._undo, found, planned)
            done = await context.step(planned.label, self._actions.act, found, planned, seen, undo=undo)
            await context.transaction(f"note {planned.label}", partial(self._note, found, planned, done, False))
        return {}

    async def _wait(self, context: RunContext, planned: PlannedStep) -> None:
        if planned.step.wait == "0s":
            return
        clock = self._store.database.clock
        begun = await context.step(f"wait before {planned.label}", lambda: clock.now().isoformat())
        left = datetime.fromisoformat(begun) + parse_duration(planned.step.wait) - clock.now()
        if left.total_seconds() > 0 and not context.is_rolled_back:
            await asyncio.sleep(left.total_seconds())

    async def _end(self, context: RunContext, found: PlaybookRun) -> dict[str, Any]:
        results = {} if found.run is None else await asyncio.to_thread(self._results, found.run)
        for planned in reversed(found.plan):
            if planned.step.undone == "at_end" and planned.label in results:
                undone = await context.step(
                    f"end {planned.label}", self._actions.undo, found, planned, results[planned.label]
                )
                await context.transaction(
                    f"note end {planned.label}", partial(self._note, found, planned, undone, True)
                )
        return {}

    def _results(self, run: str) -> dict[str, Any]:
        return {one.name: one.result for one in self._store.runs.steps(self._store.scope, run)}

    def _undo(self, found: PlaybookRun, planned: PlannedStep, done: Mapping[str, Any]) -> None:
        undone = self._actions.undo(found, planned, done)
        with self._store.database.transaction() as connection:
            self._note(found, planned, undone, True, connection)

    def _note(
        self, run: PlaybookRun, planned: PlannedStep, done: Mapping[str, Any], undo: bool, within: Connection
    ) -> None:
        """Write a step down: in the playbook's run, the incident's timeline and the audit log."""
        store, scope, now = self._store, self._store.scope, self._store.database.clock.now()
        by, sentence = principal_of(run, scope.tenant).id, str(done["sentence"])
        current = store.playbook_runs.get(scope, run.id, within=within)
        outcome = StepOutcome(planned.number, planned.step.action, planned.target, now, sentence, undo)
        if any(
            (one.number, one.target, one.undo) == (outcome.number, outcome.target, undo) for one in current.outcomes
        ):
            return
        changed = msgspec.structs.replace(current, outcomes=(*current.outcomes, outcome), updated_at=now)
        store.playbook_runs.put(scope, changed, within=within)
        write_timeline(store, scope, run.incident, sentence, by, within)
        detail = {"action": planned.step.action, "reason": sentence, "number": planned.number}
        store.audit.append(scope, by, "playbook.undo" if undo else "playbook.step", run.id, detail, within=within)


def write_timeline(store: Store, scope: Scope, incident: str, text: str, principal: str, within: Connection) -> None:
    """Add a line to an incident's timeline, unless the incident is gone."""
    now = store.database.clock.now()
    try:
        found = store.incidents.get(scope, incident, within=within)
    except NotFoundError:
        return
    entry = TimelineEntry(now, TIMELINE, text, principal)
    changed = msgspec.structs.replace(found, timeline=(*found.timeline, entry), updated_at=now)
    store.incidents.put(scope, changed, within=within)
