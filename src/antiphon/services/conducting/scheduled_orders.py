"""Orders of the runs that schedules have due, each in the name of its schedule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

import msgspec
from sqlalchemy.engine import Connection

from antiphon.batch.orders import TableOrder
from antiphon.catalog.asset_parts import PartRecord
from antiphon.catalog.batch.jobs import BatchJob
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.assets import AssetPart
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.schedules import (
    EvaluateWork,
    MonitoringWork,
    PrecomputeWork,
    RefreshWork,
    RetrainWork,
    WorkflowWork,
)
from antiphon.durable.run import Run
from antiphon.governance.identity.principal import Principal, schedule_principal
from antiphon.learning.retraining.orders import TrainingOrders, TrainingRequest
from antiphon.orchestration.conductor.assets import PartOrder, order_of
from antiphon.orchestration.conductor.conductor import Conductor
from antiphon.orchestration.conductor.state import Observation, PlannedRun, ScheduleState
from antiphon.services.conducting.asset_states import asset_states
from antiphon.services.conducting.schedule_states import ScheduleStates
from antiphon.services.conducting.user_workflows import UserWorkflows, WorkflowOrder
from antiphon.services.conducting.windows import put_windows
from antiphon.services.export.scheduled import ScheduledExports
from antiphon.services.governance.policies import may_train
from antiphon.services.learning.evaluation_runs import EvaluationOrder
from antiphon.services.project.store import Store
from antiphon.services.workflows import DRIFT, EVALUATE, REFRESH, SKEW, TABLE_JOB, USER_WORKFLOWS

BEGUN_BY = "begun by "
"""Begin of the cause of a run that was ordered by hand."""

MAKES_ASSETS = (EvaluateWork, ExportWork, PrecomputeWork, WorkflowWork)

PlaceTable = Callable[[Scope, Principal, TableOrder], BatchJob]


class ScheduledOrders:
    """Places the orders of one project's schedules.

    Args:
        trainings: takes orders of trainings. tables: takes orders of table jobs. exports: takes orders of exports.
    """

    def __init__(
        self,
        store: Store,
        trainings: Callable[[], TrainingOrders],
        tables: PlaceTable,
        exports: Callable[[], ScheduledExports],
    ) -> None:
        self._store = store
        self._trainings = trainings
        self._tables = tables
        self._exports = exports

    def place(self, state: ScheduleState, planned: PlannedRun) -> str:
        """Order a schedule's next run, once; its id. What an earlier attempt ordered and did not count is counted.

        Raises:
            AntiphonError: what is ordered cannot be; nothing is counted.
        """
        store, scope, record = self._store, self._store.scope, state.record
        began = store.database.clock.now()
        if planned.order is None and isinstance(state.spec.work, MAKES_ASSETS):
            planned = msgspec.structs.replace(planned, order=self._part(state))
        known = store.runs.find(scope, record.key)
        run = self._ordered(state, planned) if known is None else known.id
        planned = self._as_ordered(state, planned, store.runs.get(scope, run), began)
        with store.database.transaction() as connection:
            now = store.database.clock.now()
            if store.schedules.advance(scope, record, run, now, full=planned.full, within=connection):
                worth = None if state.spec.value == 1.0 else state.spec.value
                store.runs.attribute(
                    scope, run, planned.schedule, planned.cause, planned.deadline, worth, within=connection
                )
                if (made := planned.order) is not None:
                    part = PartRecord(*made.part, run, made.inputs, made.definition, now)
                    store.asset_parts.order(scope, part, within=connection)
                self._record(state, planned, run, connection)
        return run

    def _part(self, state: ScheduleState, partition: str | None = None) -> PartOrder | None:
        """The part that a schedule's run makes, as it stands: a named partition, else the first that is stale.

        Raises:
            NotFoundError: there is no such partition. InvalidInputError: it has none, or one is to be named.
        """
        store, scope = self._store, self._store.scope
        found = asset_states(store, scope, store.applied.project(scope))
        asset, name = found.graph.of_schedule(state.spec.name), state.spec.name
        if asset is None:
            return None
        if asset.partitions is None and partition is not None:
            raise InvalidInputError(f"{asset.key} has no partitions.", where=name, next_step="Leave --partition out.")
        parts = asset.parts(found.at)
        if partition is None:
            stale = (part for part in parts if found.states[part].stage == "stale")
            part = next(stale, None) if asset.partitions is not None else parts[0]
            if part is None:
                raise InvalidInputError(
                    f"No partition of {asset.key} is stale.", where=name, next_step="Name one: --partition NAME."
                )
            return order_of(asset, found.states[part])
        part = AssetPart(asset.key, partition)
        if part not in found.states:
            raise NotFoundError(
                f"There is no partition {partition!r} of {asset.key}.",
                where=name,
                next_step=nearest(partition, [one.partition for one in parts], "A day is one once it is over."),
            )
        return order_of(asset, found.states[part])

    def _as_ordered(self, state: ScheduleState, planned: PlannedRun, run: Run, began: datetime) -> PlannedRun:
        """The plan as its run has it, which an earlier attempt or another process may have ordered for another part, or
        in an earlier period."""
        order, cause, work = planned.order, planned.cause, state.spec.work
        if isinstance(work, RefreshWork):
            return msgspec.structs.replace(planned, deadline=work.period(run.created_at)[1])
        if order is None:
            return planned
        if run.workflow in USER_WORKFLOWS.values():
            own = msgspec.convert(run.arguments, WorkflowOrder).part
            if own is not None and own.part != order.part:
                cause = own.reason
            order = own
        elif run.created_at < began:  # Before a crash, of what there was then.
            order = msgspec.structs.replace(order, inputs={})
        return msgspec.structs.replace(planned, order=order, cause=cause)

    def begin(self, name: str, by: Principal, reason: str, partition: str | None = None) -> str:
        """Order a schedule's run now, whatever its conditions are, on record; its id.

        Args:
            partition: of what it makes, where that is partitioned; the oldest that is stale by default.

        Raises:
            NotFoundError: no schedule of this name is applied, or there is no such partition. ConflictError: its run
                has not ended. InvalidInputError: there is no reason, or no partition is stale. AntiphonError: what is
                ordered cannot be.
        """
        if not reason.strip():
            raise InvalidInputError("A schedule is begun for a reason.", where="--reason", next_step="Say why.")
        states = {one.spec.name: one for one in ScheduleStates(self._store, self._store.scope).read()}
        if name not in states:
            raise NotFoundError(
                f"There is no schedule {name!r}.",
                where=str(self._store.scope),
                next_step=nearest(name, states, "`antiphon schedules list` shows those that are applied."),
            )
        state = states[name]
        if state.problem is not None:  # Whether it has a run open is not known.
            raise ConflictError(
                f"The schedule {name} begins nothing: {state.problem}.",
                where=name,
                next_step="`worker.log` has the error; mend what it names, or apply the definitions again.",
            )
        if state.open_run is not None:
            raise ConflictError(
                f"The schedule {name} has the run {state.open_run}, which is {state.open_status}.",
                where=name,
                next_step=f"Wait for it, or end it: `antiphon runs cancel {state.open_run}`.",
            )
        cause = f"{BEGUN_BY}{by.id}: {reason}"
        # Whatever is observed: by hand it is done under the code that there is.
        state = msgspec.structs.replace(state, observed=Observation())
        return self.place(state, PlannedRun(name, cause, order=self._part(state, partition), by_hand=True))

    def mark_due(self, state: ScheduleState, cause: str) -> None:
        """Note why a schedule is due that waits for a quiet time."""
        self._store.schedules.mark_due(self._store.scope, state.record, cause, self._store.database.clock.now())

    def refuse(self, state: ScheduleState, problem: str) -> None:
        """Note why a schedule could not order its run."""
        self._store.schedules.refuse(self._store.scope, state.record, problem, self._store.database.clock.now())

    def _ordered(self, state: ScheduleState, planned: PlannedRun) -> str:
        try:
            return self._order(state, planned)
        except ConflictError:
            # Another process, which conducted for a moment too, ordered it with a cause of its own.
            if (known := self._store.runs.find(self._store.scope, state.record.key)) is None:
                raise
            return known.id

    def _order(self, state: ScheduleState, planned: PlannedRun) -> str:
        store, scope, spec, key = self._store, self._store.scope, state.spec, state.record.key
        by = schedule_principal(scope.tenant, spec.name)
        match spec.work:
            case RetrainWork() as work:
                live = store.releases.live(scope, spec.application)
                trained = live is not None and live.bundle.model.version is not None
                request = TrainingRequest(
                    spec.application,
                    # A delta goes on from a trained version: the first training is of everything.
                    delta=work.delta and not planned.full and trained,
                    examples=work.examples,
                    rows=work.rows,
                    texts=work.texts,
                    probes=work.probes,
                    rollout=work.rollout,
                    reason=f"{spec.name}: {planned.cause}",
                    key=key,
                )
                return self._trainings().place(scope, by.id, request, by)
            case PrecomputeWork() as work:
                left = None if planned.deadline is None else planned.deadline - store.database.clock.now()
                order = TableOrder(
                    spec.application,
                    work.entities,
                    within=f"{max(left.total_seconds(), 1):.0f}s" if left is not None else None,
                    accept_late=True,
                    precompute=True,
                    key=key,
                    max_failed_rows=work.max_failed_rows,
                )
                job = self._tables(scope, by, order)
                found = store.runs.find(scope, f"{TABLE_JOB}:{job.id}")
                assert found is not None
                return found.id
            case WorkflowWork() as work:
                # What is made because its code changed is made by that code.
                as_applied = state.observed.asset is not None
                return UserWorkflows(store).order(scope, by, work, key, planned.order, as_applied=as_applied)
            case RefreshWork() as work:
                views = list(planned.views or work.views)
                return store.runs.submit(
                    scope, REFRESH, {"views": views, "reason": "schedule", "principal": by.id}, key=key
                )
            case MonitoringWork(of=measured):
                return store.runs.submit(scope, {"drift": DRIFT, "skew": SKEW}[measured], {}, key=key)
            case ExportWork() as work:
                return self._exports().order(scope, by, spec.name, work, key, again=planned.by_hand)
            case EvaluateWork() as work:
                live = store.releases.live(scope, spec.application)
                if live is None:
                    raise NotFoundError(
                        f"No release of {spec.application} is live, so there is none to evaluate.",
                        where=spec.name,
                        next_step="`antiphon apply` makes one.",
                    )
                may_train(store)(scope, by.id, live.bundle.application, by)
                evaluation = EvaluationOrder(spec.application, live.id, work.rows, work.texts, by.id)
                return store.runs.submit(scope, EVALUATE, msgspec.to_builtins(evaluation), key=key)

    def _record(self, state: ScheduleState, planned: PlannedRun, run: str, connection: Connection) -> None:
        if isinstance(state.spec.work, RefreshWork) and not planned.by_hand:
            return  # There are hundreds a day, and the publication of each says who ordered it.
        detail = {"run": run, "reason": planned.cause}
        by = schedule_principal(self._store.scope.tenant, state.spec.name)
        self._store.audit.append(self._store.scope, by.id, "schedule.order", state.spec.name, detail, within=connection)


def conductor(store: Store, orders: ScheduledOrders) -> Conductor:
    """The part of a worker that conducts one project's schedules."""
    environment = store.scope.environment
    return Conductor(
        partial(put_windows, store),
        ScheduleStates(store, store.scope).read,
        orders.place,
        orders.mark_due,
        orders.refuse,
        store.database.clock,
        poll=parse_duration(store.settings.worker.poll).total_seconds(),
        wakeup=store.database.doorbell.wakeup(environment, "features", "releases"),
    )
