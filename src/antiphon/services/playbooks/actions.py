"""The actions of playbooks' steps: checked by guards, rate and policy, taken by services that people use too, undone.

Invariant: taking an action again, or undoing it again, after a crash changes nothing more: each looks first whether it
was done, by what the check of the step recorded before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any

from antiphon.catalog.incidents import Incident
from antiphon.catalog.notifications import Notification
from antiphon.catalog.playbooks import PlannedStep, PlaybookRun
from antiphon.catalog.releases.releases import activation_stack
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, ConflictError, DeadlineExceededError, NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookAction, PlaybookGuard
from antiphon.definitions.workflows import EXPENSIVE, WorkClass
from antiphon.durable.run import ENDED, Run
from antiphon.features.offline.refresh import WORKFLOW as REFRESH
from antiphon.governance.identity.principal import PLAYBOOK, Limits, Principal, playbook_principal
from antiphon.governance.policy.request import Action
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conducting.windows import held_workflows
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.playbooks.engine_actions import EngineActions
from antiphon.services.playbooks.key_actions import KeyActions
from antiphon.services.precomputed import ProjectPrecomputedModes
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

RIGHTS: Mapping[PlaybookAction, tuple[Action, str]] = {
    "rerun-refresh": ("publish", "view"),
    "freeze": ("release", "application"),
    "limit-batch": ("release", "application"),
    "roll-back-view": ("publish", "view"),
    "roll-back-release": ("release", "application"),
    "restart-engine": ("administer", "process"),
    "drain-engine": ("administer", "process"),
    "serve-precomputed": ("release", "application"),
    "rotate-key": ("administer", "key"),
    "page": ("read", "incident"),
}
"""The action and the kind of resource that policy is asked about, before a step is taken."""

PAGE = "incident.page"
"""Kind of the notifications by which a person is paged."""

_RELEASE = "release/"
_LOOK = 0.5
_RERUN_SECONDS = 1_800.0
_LIMITED: tuple[WorkClass, ...] = ("batch",)
_HOUR = timedelta(hours=1)


class PlaybookActions:
    """Takes the steps of one scope's playbooks, each in the playbook's own name and with its steps' rights alone."""

    def __init__(self, store: Store, scope: Scope, rollback: FeatureRollback) -> None:
        self._store = store
        self._scope = scope
        self._rollback = rollback
        self._engines = EngineActions(store)
        self._keys = KeyActions(store, scope)
        self._precomputed = ProjectPrecomputedModes(store, scope)
        self._schedules = ProjectSchedules(store, scope)
        self._releases = rollout_transitions(store)

    def check(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        """Hold a step against its guards, rate and rights, and observe what it is going to change.

        Returns:
            ``unneeded`` with the sentence why nothing is left to be done; otherwise what :meth:`act` needs.

        Raises:
            ConflictError: a guard does not hold, or it was done too often. ForbiddenError: policy denies it.
            NotFoundError: what it is about is not there.
        """
        incident = self._store.incidents.get(self._scope, run.incident)
        if (sentence := self._unneeded(incident, planned)) is not None:
            return {"unneeded": sentence}
        for guard in planned.step.only_if:
            if (why := self._hindrance(guard, incident)) is not None:
                raise ConflictError(
                    f"The guard {guard} does not hold: {why}", where=planned.label, next_step="A person decides."
                )
        self._require_rate(run, planned)
        seen = self._observed(run, planned, incident)
        action, kind = RIGHTS[planned.step.action]
        by = principal_of(run, self._scope.tenant)
        for name in seen.get("views") or [seen.get("key") or _resource(planned)]:
            self._store.decider.require(by, action, f"{kind}/{name}", {"environment": self._scope.environment})
        return seen

    def hindrances(self, run: PlaybookRun) -> tuple[str, ...]:
        """For each step why it would not be taken now; empty where it would."""
        return tuple(self._hindered(run, planned) for planned in run.plan)

    def _hindered(self, run: PlaybookRun, planned: PlannedStep) -> str:
        try:
            return str(self.check(run, planned).get("unneeded", ""))
        except AntiphonError as error:
            return error.what

    async def act(self, run: PlaybookRun, planned: PlannedStep, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Take a step; ``sentence`` says what was done, the rest is what :meth:`undo` needs."""
        match planned.step.action:
            case "rerun-refresh":
                return await self._rerun(run, planned)
            case "restart-engine":
                return await self._engines.restart(planned.target, seen)
            case "drain-engine":
                by, duration = principal_of(run, self._scope.tenant).id, planned.step.duration
                return await self._engines.drain(by, _reason(run), duration, seen)
            case "freeze" | "limit-batch":
                return await asyncio.to_thread(self._freeze, run, planned)
            case "serve-precomputed":
                return await asyncio.to_thread(self._serve_precomputed, run, planned)
            case "rotate-key":
                own, duration = principal_of(run, self._scope.tenant), planned.step.duration
                return await asyncio.to_thread(self._keys.rotate, run, planned.number, own, duration, seen)
            case "roll-back-view":
                return await asyncio.to_thread(self._roll_back_view, run, planned)
            case "roll-back-release":
                return await asyncio.to_thread(self._roll_back_release, run, planned, seen)
            case "page":
                return await asyncio.to_thread(self._page, run, planned)

    def undo(self, run: PlaybookRun, planned: PlannedStep, done: Mapping[str, Any]) -> dict[str, Any]:
        """Undo a step by its result; ``sentence`` says what was undone."""
        by = principal_of(run, self._scope.tenant).id
        if planned.step.action in ("freeze", "limit-batch"):
            if any(one.id == done["freeze"] for one in self._schedules.holds()):
                with suppress(NotFoundError):  # It ended meanwhile.
                    self._schedules.thaw(by, str(done["freeze"]))
            return {"sentence": f"The {_hold_kind(planned)} {done['freeze']} is over."}
        if planned.step.action == "drain-engine":
            return self._engines.resume(done)
        if planned.step.action == "rotate-key":
            return self._keys.undo(by, _reason(run), done)
        if planned.step.action == "serve-precomputed":
            reason = _reason(run)
            self._precomputed.end(by, planned.target, f"undone: {reason}", of=(by, reason))
            return {"sentence": f"{planned.target} answers as ever."}
        held = self._rollback.held(self._scope).get(planned.target)
        if held is not None and held.reason == _reason(run):
            self._rollback.resume(self._scope, planned.target, reason=f"undone: {_reason(run)}", principal=by)
        return {"sentence": f"Refreshes publish {planned.target} again."}

    def _unneeded(self, incident: Incident, planned: PlannedStep) -> str | None:
        guards = planned.step.only_if
        if "incident-lasts" in guards and not (incident.active and incident.present):
            return f"All signals of {incident.id} are normal."
        if "no-owner" in guards and incident.owner:
            return f"{incident.owner} has taken {incident.id}."
        return None

    def _hindrance(self, guard: PlaybookGuard, incident: Incident) -> str | None:
        store, scope, now = self._store, self._scope, self._store.database.clock.now()
        if guard == "no-freeze":
            holds = (one for one in store.run_holds.lasting(scope) if one.kind == "freeze" and one.begins <= now)
            by_person = next((one for one in holds if not one.principal.startswith(PLAYBOOK)), None)
            return None if by_person is None else f"{by_person.principal} froze work: {by_person.reason}."
        if guard == "no-rollout":
            active = (store.rollouts.active(scope, name) for name in incident.applications)
            under_way = next((one for one in active if one is not None), None)
            return None if under_way is None else f"the rollout {under_way.id} is under way."
        return None

    def _require_rate(self, run: PlaybookRun, planned: PlannedStep) -> None:
        since = self._store.database.clock.now() - _HOUR
        recent = self._store.playbook_runs.list(self._scope, since=since, limit=None)
        times = sum(
            one.action == planned.step.action and not one.undo and one.at >= since
            for other in recent for one in other.outcomes
        )  # fmt: skip
        if times >= planned.step.most_per_hour:
            raise ConflictError(
                f"{planned.step.action} was done {times} times within an hour, which is as often as it may be.",
                where=planned.label,
                next_step="It does not help: find out why.",
            )

    def _observed(self, run: PlaybookRun, planned: PlannedStep, incident: Incident) -> dict[str, Any]:
        store, scope, target = self._store, self._scope, planned.target
        match planned.step.action:
            case "rerun-refresh":
                found = store.runs.get(scope, target)
                if found.workflow != REFRESH:
                    raise ConflictError(
                        f"The run {target} is a {found.workflow}, no refresh.",
                        where=planned.label,
                        next_step=f"A person decides: `antiphon runs retry {target}`.",
                    )
                return {"views": [str(view).partition("@")[0] for view in found.arguments["views"]]}
            case "limit-batch":
                workflows = held_workflows(planned.step.work or _LIMITED)
                return {"under_way": sum(one.workflow in workflows for one in store.runs.under_way(scope))}
            case "roll-back-view":
                held = self._rollback.held(scope).get(target)
                if held is not None:
                    raise ConflictError(
                        f"{held.principal} holds {target}: {held.reason}", where=planned.label,
                        next_step=f"`antiphon features resume {target} --reason TEXT` lets refreshes publish it again.",
                    )  # fmt: skip
                found_view = self._rollback.view(scope, target, None, reason="seen", principal="seen", dry_run=True)
                return {"to": ", ".join(move.snapshot for move in found_view.moves)}
            case "roll-back-release":
                stack = activation_stack(store.releases.history(scope, target))
                if len(stack) < 2:
                    raise ConflictError(
                        f"No release of {target} was live before.", where=planned.label, next_step="Mend it forward."
                    )
                if "release-live" in planned.step.only_if:
                    _require_blamed(incident, planned, stack[-1])
                return {"live": stack[-1], "before": stack[-2]}
            case "restart-engine":
                return self._engines.observe_process(target)
            case "rotate-key":
                return self._keys.observe(target)
            case "serve-precomputed":
                by = principal_of(run, scope.tenant).id
                begun = self._precomputed.require_free(target, by, _reason(run)) is not None
                return {"live": activation_stack(store.releases.history(scope, target))[-1], "begun": begun}
            case "drain-engine":
                return self._engines.observe_engine(target, principal_of(run, scope.tenant).id, _reason(run))
        return {}

    async def _rerun(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        """Order the refresh anew and wait for its end: a run that is tried again goes on with what it read before."""
        store, clock = self._store, self._store.database.clock
        found = await asyncio.to_thread(self._ordered, run, planned)
        until = clock.monotonic() + _RERUN_SECONDS
        while found.status not in ENDED:
            if clock.monotonic() > until:
                raise DeadlineExceededError(f"The run {found.id} has not ended within half an hour.")
            await asyncio.sleep(_LOOK)
            found = await asyncio.to_thread(store.runs.get, self._scope, found.id)
        if found.status != "succeeded":
            # What a refresh failed of may be back in a minute: the step is tried again, with another run.
            raise UnavailableError(
                f"The refresh {found.status} again: {found.error or 'without an error'}",
                where=planned.label,
                next_step=f"`antiphon runs show {found.id}` has its attempts.",
            )
        return {"run": found.id, "sentence": f"The refresh {planned.target} was run again as {found.id}."}

    def _ordered(self, run: PlaybookRun, planned: PlannedStep) -> Run:
        """The newest run that this step ordered, unless it failed; then another one."""
        store, scope = self._store, self._scope
        failed = store.runs.get(scope, planned.target)
        by = principal_of(run, scope.tenant)
        arguments = {"views": failed.arguments["views"], "reason": _reason(run), "principal": by.id}
        for number in count(1):
            key = f"playbook:{run.id}:{planned.label}:{number}"
            known = store.runs.find(scope, key)
            if known is None:
                return store.runs.get(scope, store.runs.submit(scope, REFRESH, arguments, key))
            if known.status not in ("failed", "cancelled"):
                return known
        raise AssertionError

    def _freeze(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        by, reason, step = principal_of(run, self._scope.tenant).id, _reason(run), planned.step
        slots, work = (
            (step.slots, step.work or _LIMITED) if step.action == "limit-batch" else (0, step.work or EXPENSIVE)
        )
        own = by, reason, slots, held_workflows(work)
        holds = self._schedules.holds()
        known = next((one for one in holds if (one.principal, one.reason, one.slots, one.workflows) == own), None)
        if known is None:
            until = self._store.database.clock.now() + parse_duration(step.duration)
            known = self._schedules.freeze(by, reason, until, work, slots=slots)
        what = f"{', '.join(work)} is limited to {slots} at once" if slots else "Work is frozen"
        return {"freeze": known.id, "sentence": f"{what} until {known.until:%H:%M:%S}Z ({known.id})."}

    def _serve_precomputed(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        by, duration = principal_of(run, self._scope.tenant).id, planned.step.duration
        mode = self._precomputed.begin(by, planned.target, _reason(run), duration)
        return {"sentence": f"{mode.application} answers from store alone until {mode.until:%H:%M:%S}Z."}

    def _roll_back_view(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        scope, view, reason = self._scope, planned.target, _reason(run)
        held = self._rollback.held(scope).get(view)
        if held is None or held.reason != reason:
            by = principal_of(run, scope.tenant).id
            self._rollback.view(scope, view, None, reason=reason, principal=by, hold=True)
        return {"sentence": f"The snapshot of {view} before is published again, and held."}

    def _roll_back_release(self, run: PlaybookRun, planned: PlannedStep, seen: Mapping[str, Any]) -> dict[str, Any]:
        store, scope, application = self._store, self._scope, planned.target
        with store.database.transaction() as connection:
            live = store.releases.live(scope, application, within=connection)
            last = store.releases.history(scope, application, within=connection)[-1]
            if live is None or (live.id, last.reason) != (seen["before"], _reason(run)):
                by = principal_of(run, scope.tenant).id
                self._releases.rollback(
                    scope, application, principal=by, reason=_reason(run), expected=str(seen["live"]),
                    within=connection,
                )  # fmt: skip
        return {"sentence": f"{application} went back from {seen['live']} to {seen['before']}."}

    def _page(self, run: PlaybookRun, planned: PlannedStep) -> dict[str, Any]:
        incident = self._store.incidents.get(self._scope, run.incident)
        said = page(run, incident, f"{run.playbook}.{planned.number}", f"Nobody has mended it: {incident.title}")
        self._store.notifications.append(self._scope, said)
        return {"sentence": "A person was paged."}


def principal_of(run: PlaybookRun, tenant: str) -> Principal:
    """The identity of a playbook, limited to what its steps take."""
    rights = [RIGHTS[one.step.action] for one in run.plan]
    actions = tuple(sorted({action for action, _ in rights}))
    return playbook_principal(tenant, run.playbook, Limits(actions, tuple(sorted({f"{kind}/*" for _, kind in rights}))))


def page(run: PlaybookRun, incident: Incident, name: str, text: str) -> Notification:
    """The notification by which a person is paged about a playbook's run."""
    return Notification(
        f"{PAGE}:{run.incident}:{name}", PAGE, "critical", "firing", f"A person is needed: {incident.title}"[:200],
        run.updated_at, text, incident.applications[0] if len(incident.applications) == 1 else None,
        ended_at=run.updated_at, labels={"incident": run.incident, "playbook": run.playbook},
        link=f"/incidents/{run.incident}",
    )  # fmt: skip


def _require_blamed(incident: Incident, planned: PlannedStep, live: str) -> None:
    """Refuse to roll back a release other than the one that the incident blames, which the live one may have replaced
    meanwhile: the guard ``release-live``, held against the same look that the rollback expects."""
    named = [
        one for root in incident.roots if root.component == f"release/{planned.target}"
        for one in root.evidence if one.signal == "released" and one.record.startswith(_RELEASE)
    ]  # fmt: skip
    blamed = max(named, key=lambda one: one.since).record.removeprefix(_RELEASE) if named else None
    if blamed != live:
        why = "no release is blamed" if blamed is None else f"blamed is {blamed}"
        raise ConflictError(
            f"The guard release-live does not hold: {why}, and {live} is live.",
            where=planned.label,
            next_step=f"A person decides: `antiphon rollback {planned.target} --reason TEXT`.",
        )


def _reason(run: PlaybookRun) -> str:
    return f"{run.playbook} for {run.incident}"


def _resource(planned: PlannedStep) -> str:
    return "*" if planned.step.action in ("rerun-refresh", "freeze", "limit-batch", "page") else planned.target


def _hold_kind(planned: PlannedStep) -> str:
    return "freeze" if planned.step.action == "freeze" else "limit"
