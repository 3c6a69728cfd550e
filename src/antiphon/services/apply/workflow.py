"""The durable workflow of an apply: materialize what is new, publish it, and only then put definitions and releases in
force.

Invariants:
- The last step is one transaction, and the only one that changes what is answered. Before it the definitions and the
  releases of before are in force, after it the new ones, wherever a process was killed.
- A release goes live only when every definition version that it pins is in the current publication.
- Of several applies the latest counts: it cancels those that have not ended, and a cancelled one changes nothing.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.definitions.project import ProjectSpec
from antiphon.durable.context import RunContext
from antiphon.durable.run import Run
from antiphon.features.offline.refresh import Refresher, RefreshResult
from antiphon.services.apply.compatibility import consequences
from antiphon.services.learning.gate_orders import GateArguments, Goal, cancel_gates, order_gates
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions
from antiphon.services.workflows import APPLY

_LOOK_SECONDS = 1.0
"""The interval at which an embargo is looked at that an apply waits for."""

NOTHING_CHANGED = "Nothing was applied: what was live goes on answering."


class PlannedActivation(msgspec.Struct, frozen=True):
    """A release that is to reach users, in place of the one that was live when this was ordered, once its gates passed.

    ``goal`` is ``validated`` where another person makes it live.
    """

    application: str
    release: str
    instead_of: str | None
    goal: Goal = "live"


class ApplyArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An apply that waits for features.

    Attributes:
        project: the blob with the definitions.
        views: what must be published first, ``view@definition_version`` each.
    """

    project: str
    views: tuple[str, ...]
    activations: tuple[PlannedActivation, ...]
    principal: str
    reason: str


class ApplyResult(msgspec.Struct, frozen=True):
    """Applications whose release went live by an apply, and what else there is to say.

    By application, ``checks`` are the runs of gates after which the others go on, and ``rollouts`` those that began.
    """

    activated: tuple[str, ...]
    notes: tuple[str, ...] = ()
    checks: dict[str, str] = {}
    rollouts: dict[str, str] = {}


class ApplyWorkflow:
    """The workflow with what it needs, for one project."""

    def __init__(self, store: Store, refresher: Refresher) -> None:
        self._store = store
        self._refresher = refresher

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Materialize, publish, put in force; an :class:`ApplyResult` as JSON.

        Raises:
            InvalidInputError: a view's source cannot be read, or its gates block it.
            ConflictError: a view is held, a rollout began meanwhile, or the apply was superseded.
        """
        order = msgspec.convert(arguments, ApplyArguments)
        refresh = {"views": order.views, "reason": order.reason, "principal": order.principal}
        try:
            refreshed = msgspec.convert(await self._refresher.refresh(run, refresh), RefreshResult)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{error.what} {NOTHING_CHANGED}", where=error.where, next_step=_again(error.next_step)
            ) from error
        _require_passed(refreshed)
        while missing := await asyncio.to_thread(self._missing, order.views):
            until = await asyncio.to_thread(self._staged_until, missing)
            run.progress(len(order.views), len(order.views) + 1, f"waits for the embargo until {until:%Y-%m-%d %H:%MZ}")
            if run.stopping:
                raise asyncio.CancelledError
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self._refresher.release_staged, order.views)
        done = await run.transaction("put in force", partial(self._put_in_force, run.id, order))
        # Of the releases that are in use now, whoever calls this again after a kill.
        notes = await asyncio.to_thread(lambda: [*consequences(self._store, self._project(order).views)])
        return {**done, "notes": [*done["notes"], *notes]}

    def _staged_until(self, missing: list[str]) -> datetime:
        """The end of the longest embargo of views that are not published yet.

        Raises:
            ConflictError: one will not be published when its embargo ends: it is held, or is not staged any more.
        """
        staged = {
            f"{one.view}@{one.definition_version}": one.publish_at for one in self._store.staged.list(self._store.scope)
        }
        held = self._store.holds.of(self._store.scope)
        lost = [key for key in missing if key not in staged or key.partition("@")[0] in held]
        if lost and (lost := [key for key in self._missing(tuple(missing)) if key in lost]):  # Not just published.
            raise ConflictError(
                f"{', '.join(lost)} is held, or was withdrawn before it was published. {NOTHING_CHANGED}",
                where="apply",
                next_step="`antiphon features resume VIEW --reason …` sets a view free; `antiphon apply` tries again.",
            )
        known = [staged[key] for key in missing if key in staged]
        return max(known, default=self._store.database.clock.now())

    def _project(self, order: ApplyArguments, within: Connection | None = None) -> ProjectSpec:
        document = self._store.blobs.get(self._store.scope, order.project, within=within)
        return msgspec.json.decode(document, type=ProjectSpec)

    def _missing(self, views: tuple[str, ...], within: Connection | None = None) -> list[str]:
        published = self._store.publications.snapshots(self._store.scope, within=within)
        return [key for key in views if key not in published]

    def _put_in_force(self, run: str, order: ApplyArguments, connection: Connection) -> dict[str, Any]:
        store = self._store
        if store.runs.get(store.scope, run, within=connection).cancel_requested:
            raise ConflictError(
                f"The apply was cancelled. {NOTHING_CHANGED}", where=run, next_step="`antiphon apply` tries again."
            )
        if missing := self._missing(order.views, connection):
            raise ConflictError(
                f"{', '.join(missing)} is not published any more. {NOTHING_CHANGED}",
                where=run,
                next_step="`antiphon apply` tries again.",
            )
        project = self._project(order, connection)
        result = put_in_force(store, project, order.activations, order.principal, order.reason, connection, run)
        found: dict[str, Any] = msgspec.to_builtins(result)
        return found


def put_in_force(
    store: Store,
    project: ProjectSpec,
    activations: tuple[PlannedActivation, ...],
    principal: str,
    reason: str,
    connection: Connection,
    ordered_by: str | None = None,
) -> ApplyResult:
    """Record the definitions as applied, move the live pointers and begin rollouts, in one transaction; a release that
    has not passed its gates is ordered to be held against them. Whether this principal may was asked when it was
    ordered; ``ordered_by`` is the run that does it, if one does.

    Raises:
        ConflictError: a release is to go live at once while a rollout of its application is under way.
    """
    scope, transitions = store.scope, rollout_transitions(store)
    store.applied.apply(scope, project, principal=principal, within=connection)
    cancel_gates(store, frozenset(one.release for one in activations), connection)
    activated: list[str] = []
    checks: dict[str, str] = {}
    rollouts: dict[str, str] = {}
    notes: list[str] = []
    for one in activations:
        live = store.releases.live(scope, one.application, within=connection)
        if (None if live is None else live.id) != one.instead_of:
            assert live is not None, "a live pointer never goes away"
            release = store.releases.get(scope, one.release, within=connection)
            notes.append(
                f"{one.application}: release {release.number} stays a draft, because release {live.number} went live "
                f"meanwhile. `antiphon releases activate {one.application} {one.release} --reason …` makes it live."
            )
            continue
        release = store.releases.get(scope, one.release, within=connection)
        found = transitions.clearance_of(release, within=connection)
        if not found.passed and found.ungated is None:
            gates = GateArguments(
                one.application, one.release, release.number, one.instead_of, one.goal, principal, reason,
                ordered_by=ordered_by,
            )  # fmt: skip
            checks[one.application] = order_gates(store, gates, connection)
        elif one.goal == "rollout":
            try:
                begun = transitions.begin(scope, one.release, principal=principal, reason=reason, within=connection)
                rollouts[one.application] = begun.id
            except AntiphonError as error:
                notes.append(
                    f"{one.application}: the rollout of release {release.number} does not begin: {error.what} "
                    f"`antiphon releases rollout {one.release}` sends it on its way."
                )
        elif one.goal == "live":
            transitions.activate(
                scope, one.application, one.release, principal=principal, reason=reason, within=connection
            )
            activated.append(one.application)
    return ApplyResult(tuple(activated), tuple(notes), checks, rollouts)


def open_applies(store: Store, *, within: Connection | None = None) -> list[Run]:
    """Applies that have not ended, the latest first."""
    return store.runs.open(store.scope, APPLY, within=within)


def cancel_open(store: Store, connection: Connection) -> None:
    """Cancel every apply that has not ended: definitions that were applied since take its place."""
    for run in open_applies(store, within=connection):
        store.runs.cancel(store.scope, run.id, within=connection)


def order(store: Store, project: ProjectSpec, arguments: ApplyArguments, connection: Connection) -> str:
    """Queue an apply in place of every other that has not ended, and return its run; the one under way for the same
    goes on."""
    scope = store.scope
    document = store.blobs.put(scope, canonical(project), within=connection)
    assert document == arguments.project
    what = (arguments.project, arguments.views, arguments.activations)
    same: str | None = None
    for run in open_applies(store, within=connection):
        other = msgspec.convert(run.arguments, ApplyArguments)
        if what == (other.project, other.views, other.activations) and same is None and not run.cancel_requested:
            same = run.id
        else:
            store.runs.cancel(scope, run.id, within=connection)
    if same is not None:
        return same
    published = store.publications.snapshots(scope, within=connection)
    for view in project.views.values():
        if view.key in arguments.views and view.key not in published:
            store.definitions.put(scope, view, within=connection)
    return store.runs.submit(scope, APPLY, msgspec.to_builtins(arguments), within=connection)


def _require_passed(refreshed: RefreshResult) -> None:
    if refreshed.blocked:
        key, reasons = next(iter(refreshed.blocked.items()))
        raise InvalidInputError(
            f"{key.partition('@')[0]} is not published: {' '.join(reasons)} {NOTHING_CHANGED}",
            where=f"view {key}",
            next_step=_again("Mend the source or the rule; `antiphon features history` shows what was found"),
        )
    if refreshed.held:
        name = refreshed.held[0].partition("@")[0]
        raise ConflictError(
            f"The view {name!r} is held, so its new version is not published. {NOTHING_CHANGED}",
            where=f"view {refreshed.held[0]}",
            next_step=f"`antiphon features resume {name} --reason …`, then `antiphon apply` again.",
        )


def _again(step: str | None) -> str:
    first = "" if not step else f"{step.rstrip('. ')}. Then "
    return f"{first}`antiphon apply` tries again."
