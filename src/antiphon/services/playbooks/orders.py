"""Orders of playbooks: each incident that is not resolved is held against each playbook once, and what runs is settled.

Invariants:
- A playbook's run for an incident, the order of its steps, the line in the timeline, the evidence and the notification
  are one transaction: a crash leaves all of it or nothing, and the next look of any process goes on.
- A playbook that comes after another one begins only once that one's run for the incident has ended as it takes.
- A playbook acts alone only where it is declared so and trusted: by its backtest, or by an administrator's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.incidents import Incident
from antiphon.catalog.notifications import Notification
from antiphon.catalog.playbooks import ACTED, PlaybookPermission, PlaybookRun, PlaybookRunState, run_id
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookSpec
from antiphon.definitions.shipped_playbooks import all_playbooks, chain
from antiphon.durable.rollbacks import rollback_of
from antiphon.durable.run import ENDED, Run
from antiphon.governance.identity.principal import PLAYBOOK
from antiphon.operations.playbooks.backtest import Backtest, backtest
from antiphon.operations.playbooks.fitting import PlaybookFit
from antiphon.services.playbooks.actions import page
from antiphon.services.playbooks.key_actions import aimed
from antiphon.services.playbooks.workflow import PlaybookArguments, write_timeline
from antiphon.services.project.store import Store
from antiphon.services.workflows import PLAYBOOK as WORKFLOW

LOOK_SECONDS = 2.0

MOST_INCIDENTS = 1_000
"""Recorded incidents that a backtest plays, the latest."""

APPROVAL = "incident.approval"
"""Kind of the notifications that say that a playbook waits."""


class PlaybookOrders:
    """Orders what playbooks of one project are to do. Any number of workers may do so at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def look(self) -> int:
        """Settle what has ended and begin what fits; how many runs of playbooks changed."""
        changed = sum(self._settle(run) for run in self._store.playbook_runs.active(self._store.scope))
        if incidents := self._store.incidents.active(self._store.scope):
            playbooks = all_playbooks(self._store.applied.project(self._store.scope).playbooks)
            changed += sum(self._begin(incident, playbooks) for incident in incidents)
        return changed

    def _begin(self, incident: Incident, playbooks: Mapping[str, PlaybookSpec]) -> int:
        store, scope, begun = self._store, self._store.scope, 0
        # What comes after a playbook that mended it begins though no symptom lasts any more.
        due = [one for one in playbooks.values() if incident.present or (one.after and one.once == "mended")]
        if not due:
            return 0
        known = {one.playbook: one for one in store.playbook_runs.list(scope, incident=incident.id, limit=None)}
        for playbook in due:
            if playbook.name in known or waits_for(playbook, known.get(playbook.after)) is not None:
                continue
            if (found := aimed(store, scope, playbook, incident)) is None or self._cools(playbook, found):
                continue
            alone = playbook.mode == "alone" and trusted(store, scope, playbook, playbooks)
            with store.database.transaction() as connection:
                current = store.incidents.get(scope, incident.id, within=connection)
                id = run_id(incident.id, playbook.name)
                if not current.active or store.playbook_runs.find(scope, id, within=connection) is not None:
                    continue
                begin(store, scope, playbook, current, found, alone=alone, within=connection)
            begun += 1
        return begun

    def _cools(self, playbook: PlaybookSpec, found: PlaybookFit) -> bool:
        """True while it did something about one of the targets of late, in another incident."""
        if playbook.cooldown == "0s":
            return False
        since = self._store.database.clock.now() - parse_duration(playbook.cooldown)
        targets = {one.target for one in found.plan}
        recent = self._store.playbook_runs.list(self._store.scope, playbook=playbook.name, since=since, limit=None)
        return any(one.state in ACTED and one.targets & targets for one in recent)

    def _settle(self, found: PlaybookRun) -> int:
        store, scope = self._store, self._store.scope
        with store.database.transaction() as connection:
            run = store.playbook_runs.get(scope, found.id, within=connection)
            incident = _incident(store, run, connection)
            changed = self._settled(run, incident, connection)
            if changed is None:
                return 0
            now = store.database.clock.now()
            store.playbook_runs.put(scope, msgspec.structs.replace(changed, updated_at=now), within=connection)
        return 1

    def _settled(self, run: PlaybookRun, incident: Incident | None, within: Connection) -> PlaybookRun | None:
        """The run in its next state; ``None`` where it stays as it is."""
        store, scope = self._store, self._store.scope
        over = incident is None or not incident.active
        match run.state:
            case "suggested" | "waiting":
                if not over:
                    return None
                store.notifications.resolve(scope, approval_id(run), store.database.clock.now(), within=within)
                return _to(run, "expired")
            case "ordered" | "ending":
                return self._of_steps(run, incident, within)
            case "done":
                if not over:
                    return None
                arguments = msgspec.to_builtins(PlaybookArguments(run.id, ending=True))
                ending = store.runs.submit(scope, WORKFLOW, arguments, f"playbook-end:{run.id}", within=within)
                return msgspec.structs.replace(run, state="ending", ending_run=ending)
        return None

    def _of_steps(self, run: PlaybookRun, incident: Incident | None, within: Connection) -> PlaybookRun | None:
        store, scope = self._store, self._store.scope
        id = str(run.ending_run if run.state == "ending" else run.run)
        ended = store.runs.by_id(scope, [id]).get(id)
        if ended is not None and ended.status not in ENDED:
            return None
        if ended is not None and ended.status == "succeeded":
            stopped = str((ended.result or {}).get("stopped", ""))
            if run.state == "ending":
                return _to(run, "ended")
            self._tell(run, stopped or "Its steps are done.", within)
            # What was done before it stopped is undone at the end as well.
            undone = any(one.step.undone == "at_end" for one in run.plan) and bool(run.outcomes)
            return msgspec.structs.replace(run, state="stopped" if stopped and not undone else "done", problem=stopped)
        problem = self._problem(ended)
        self._tell(run, f"It failed: {problem}", within)
        if incident is not None:
            text = f"The playbook {run.playbook} failed: {problem}\n`antiphon playbooks runs` tells more."
            store.notifications.append(scope, page(run, incident, f"{run.playbook}.failed", text), within=within)
        detail = {"reason": problem, "run": id}
        by = f"{PLAYBOOK}{run.playbook}"
        store.audit.append(scope, by, "playbook.fail", run.id, detail, outcome="failed", within=within)
        return msgspec.structs.replace(run, state="failed", problem=problem)

    def _problem(self, ended: Run | None) -> str:
        if ended is None:
            return "its run is gone."
        rollback = rollback_of(self._store.runs.steps(self._store.scope, ended.id))
        said = ended.error or (None if rollback is None else rollback.error) or f"it was {ended.status}."
        if rollback is None:
            return said
        left = f" Not undone: {', '.join(rollback.left)}." if rollback.left else ""
        return f"{said} Undone: {', '.join(rollback.undone) or 'nothing'}.{left}"

    def _tell(self, run: PlaybookRun, text: str, within: Connection) -> None:
        write_timeline(
            self._store, self._store.scope, run.incident, f"{run.playbook}: {text}", f"{PLAYBOOK}{run.playbook}", within
        )


def begin(
    store: Store, scope: Scope, playbook: PlaybookSpec, incident: Incident, found: PlaybookFit, *,
    alone: bool, within: Connection, person: str = "", reason: str = "",
) -> PlaybookRun:  # fmt: skip
    """Write a playbook's run for an incident: its steps are ordered where it acts alone or a person begins it,
    otherwise it waits or is suggested."""
    now, by = store.database.clock.now(), f"{PLAYBOOK}{playbook.name}"
    state: PlaybookRunState = "suggested" if playbook.mode == "suggest" else "waiting"
    cause = f"{found.cause} It is {playbook.turn}." if playbook.after else found.cause
    run = PlaybookRun(
        run_id(incident.id, playbook.name), playbook.name, incident.id, state, found.plan, cause, now, now
    )
    if alone or person:
        return order(store, scope, run, person or by, reason or "It is trusted to act alone.", within)
    store.playbook_runs.put(scope, run, within=within)
    what = "waits for an approval" if state == "waiting" else "would fit"
    write_timeline(store, scope, incident.id, f"{playbook.name} {what}: {cause}", by, within)
    if state == "waiting":
        store.notifications.append(scope, _approval(run, playbook, incident), within=within)
    store.audit.append(scope, by, f"playbook.{state}", run.id, {"reason": cause}, within=within)
    return run


def order(store: Store, scope: Scope, run: PlaybookRun, by: str, reason: str, within: Connection) -> PlaybookRun:
    """Order the steps of a run, by whoever decided so."""
    now = store.database.clock.now()
    arguments = msgspec.to_builtins(PlaybookArguments(run.id))
    steps = store.runs.submit(scope, WORKFLOW, arguments, f"playbook:{run.id}", within=within)
    ordered = msgspec.structs.replace(run, state="ordered", run=steps, decided_by=by, reason=reason, updated_at=now)
    store.playbook_runs.put(scope, ordered, within=within)
    store.notifications.resolve(scope, approval_id(run), now, f"{by}: {reason}", within=within)
    write_timeline(store, scope, run.incident, f"{run.playbook} begins: {reason}", by, within)
    store.audit.append(scope, by, "playbook.order", run.id, {"run": steps, "reason": reason}, within=within)
    return ordered


def waits_for(playbook: PlaybookSpec, before: PlaybookRun | None) -> str | None:
    """The sentence that says that a playbook's turn has not come; ``None`` where it has.

    Args:
        before: the run of the playbook that it comes after, for the same incident.
    """
    if not playbook.after or (before is not None and before.end == playbook.once):
        return None
    now = f"it is {before.state}" if before is not None else "it has not met this incident"
    return f"The turn of {playbook.name} is {playbook.turn}; {now}."


def tested(store: Store, scope: Scope, playbook: PlaybookSpec, known: Mapping[str, PlaybookSpec]) -> Backtest:
    """The backtest of a playbook, one of those that are known, on the incidents that are recorded."""
    incidents = store.incidents.list(scope, state="resolved", limit=MOST_INCIDENTS)
    if not playbook.after:
        return backtest(playbook, incidents)
    runs = store.playbook_runs.list(scope, playbook=playbook.after, limit=MOST_INCIDENTS)
    turns = {one.incident for one in runs if one.end == playbook.once}
    return backtest(playbook, incidents, chain(known, playbook.name), turns)


def trusted(
    store: Store, scope: Scope, playbook: PlaybookSpec, known: Mapping[str, PlaybookSpec],
    permissions: Mapping[str, PlaybookPermission] | None = None,
) -> bool:  # fmt: skip
    """Tells whether a playbook may act without a person: by an administrator's word, or else by its backtest."""
    given = store.playbook_permissions.all(scope) if permissions is None else permissions
    if (permission := given.get(playbook.name)) is not None:
        return permission.alone
    return playbook.harmless or tested(store, scope, playbook, known).passed


def approval_id(run: PlaybookRun) -> str:
    """Id of the notification that a run waits."""
    return f"{APPROVAL}:{run.id}"


def _approval(run: PlaybookRun, playbook: PlaybookSpec, incident: Incident) -> Notification:
    steps: Sequence[str] = [f"- {one.label}" for one in run.plan]
    return Notification(
        approval_id(run), APPROVAL, "warning" if incident.severity == "info" else incident.severity, "firing",
        f"{playbook.title} waits for an approval"[:200], run.created_at,
        "\n".join([
            run.cause, *steps, f"`antiphon playbooks approve {run.id} --reason TEXT` begins it, `reject` does not."
        ]),
        incident.applications[0] if len(incident.applications) == 1 else None,
        labels={"incident": run.incident, "playbook": run.playbook}, link="/playbooks",
    )  # fmt: skip


def _to(run: PlaybookRun, state: PlaybookRunState) -> PlaybookRun:
    return msgspec.structs.replace(run, state=state)


def _incident(store: Store, run: PlaybookRun, within: Connection) -> Incident | None:
    try:
        return store.incidents.get(store.scope, run.incident, within=within)
    except NotFoundError:
        return None
