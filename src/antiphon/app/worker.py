"""``python -m antiphon.app.worker``: the worker process of one project."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # Until it is ready, as in the gateway.

from antiphon.app.wiring import ProcessServices, batch_executor
from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.catalog.batch.files import Files
from antiphon.catalog.doorbell import Topic
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core import disk, logs
from antiphon.core.clock import ClockAgreement, parse_duration, seconds_since_boot
from antiphon.core.errors import AntiphonError
from antiphon.core.loop_lateness import count_lateness, lateness_counter
from antiphon.core.process_metrics import describe_process, served_metrics
from antiphon.core.scope import Scope
from antiphon.core.supervision import Supervision
from antiphon.definitions.degradation import MAIN
from antiphon.durable.abandoned_runs import AbandonedRuns
from antiphon.durable.claims import WORKERS
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run_metrics import RunMetrics
from antiphon.features.monitoring.skew.selection import WORKFLOW as SKEW
from antiphon.features.offline.refresh import WORKFLOW as REFRESH
from antiphon.learning.datasets.partitions import DatasetPartitions
from antiphon.operations.processes import ProcessIdentity
from antiphon.operations.settings_changes import note_settings
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.idle_budget import LEASE as IDLE_LEASE
from antiphon.orchestration.refreshed_answers import AnswerSources, RefreshedAnswers
from antiphon.orchestration.restarted_parts import BrokenParts, RestartedPart
from antiphon.orchestration.tenant_pause import TenantPause
from antiphon.orchestration.worker import HousekeepingTask, WorkerPart, work
from antiphon.services.apply.workflow import ApplyWorkflow
from antiphon.services.batches import ProjectTableJobs, batch_context, table_jobs
from antiphon.services.budgets.project_budgets import WARN_SECONDS, ProjectBudgets
from antiphon.services.conducting.idle_budgets import idle_budget
from antiphon.services.conducting.scheduled_orders import ScheduledOrders, conductor
from antiphon.services.conducting.user_workflows import UserWorkflows
from antiphon.services.cost.meters import CostMeters
from antiphon.services.cost.prices import ProjectPrices
from antiphon.services.export.scheduled import ScheduledExports
from antiphon.services.features.consumption import stream_consumption
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.features.following import order_first_refreshes, source_followers
from antiphon.services.features.health import healer
from antiphon.services.features.skew import ProjectSkew
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.history import MetricHistory, engine_recorder, rolling_up, tenant_recorder
from antiphon.services.incidents.stand_in import duties_of
from antiphon.services.incidents.watch import ASSESS_SECONDS as INCIDENT_SECONDS
from antiphon.services.incidents.watch import IncidentWatch
from antiphon.services.learning.evaluation_runs import EvaluationRuns
from antiphon.services.learning.gate_runs import GateWorkflow
from antiphon.services.learning.outcomes import dataset_builder, drift_reports, function_scorer, outcome_joiner
from antiphon.services.learning.served_models import ServedModels
from antiphon.services.learning.training import LearningPlatform, TrainingRecords
from antiphon.services.learning.training_pauses import training_governance
from antiphon.services.learning.weights_files import weights_files
from antiphon.services.learning.workbench_orders import forget_ended_searches
from antiphon.services.lineage.delivery import LOOK_SECONDS as LINEAGE_SECONDS
from antiphon.services.lineage.delivery import LineageDelivery
from antiphon.services.moving.following import MoveWatch, open_following
from antiphon.services.notifications.alertmanager import REPEAT_SECONDS
from antiphon.services.notifications.delivery import LOOK_SECONDS, NotificationSender
from antiphon.services.notifications.orders import NotificationOrders
from antiphon.services.notifications.sources import NotificationSources
from antiphon.services.objectives import ASSESS_SECONDS, ProjectObjectives
from antiphon.services.playbooks.actions import PlaybookActions
from antiphon.services.playbooks.orders import LOOK_SECONDS as PLAYBOOK_SECONDS
from antiphon.services.playbooks.orders import PlaybookOrders
from antiphon.services.playbooks.workflow import PlaybookWorkflow
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_keeper
from antiphon.services.watching.watcher import WATCH_SECONDS, ReleaseWatcher
from antiphon.services.workflows import (
    APPLY,
    BACKFILL,
    DATASET,
    DRIFT,
    EVALUATE,
    EXPORT,
    GATES,
    MOST_CHECKS,
    NOTIFY,
    PLAYBOOK,
    POLICIES,
    USER_WORKFLOWS,
)
from antiphon.training.processes import TrainingProcesses

NAME_TAKEN = "this worker claims no run until that one ends: choose another --name, or end one of the two"
"""Said by a worker whose name another one has for longer than a lease lasts."""

REJOIN_SECONDS = 30.0
"""Interval of joining outcomes that came before their prediction."""

FIRST_ROWS_SECONDS = 3.0
"""Interval of the search for views that wait for the first row of a followed place."""

HEALING_SECONDS = 2.0
"""The interval at which online snapshots that are gone or damaged are looked for."""

EXPIRY_SECONDS = 60.0
"""Interval of the search for expired files."""

SETTLED_SECONDS = 600.0
"""For how long the wall clock must not have been set before a file is taken for expired."""


def main(arguments: list[str] | None = None) -> int:
    """Work until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m antiphon.app.worker", description="Run durable work.")
    parser.add_argument("--project", type=Path, default=Path("."))
    parser.add_argument(
        "--name",
        default="worker",
        help="unique among a tenant's workers on this machine; one that is started again under its name takes its runs "
        "back at once, and one whose name is taken stands by",
    )
    options = parser.parse_args(arguments)
    supervision = Supervision.inherited()
    disk.make_private()
    logs.configure()
    try:
        watch = asyncio.run(_work(options.project, options.name, supervision))
    except AntiphonError as error:
        logging.getLogger("antiphon.worker").error("%s", error)
        return error.exit_code
    watch.finish(supervision)
    return 0


async def _work(root: Path, own: str, supervision: Supervision) -> MoveWatch:
    store = open_following(root, "worker")
    logs.bound(store.paths.logs / f"{own}.log", store.settings.telemetry.bounds)
    name, process = f"{own}@{socket.gethostname()}", ProcessIdentity.own()
    worker = f"{store.scope.tenant}/{name}"
    telemetry = store.telemetry("worker", own)
    metrics = describe_process(store.answer_metrics.registry)
    of_runs = RunMetrics(metrics)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    environment = store.scope.environment
    wakeup = partial(store.database.doorbell.wakeup, environment)
    watch = MoveWatch(store, "worker", wakeup=wakeup("moves"))
    note_settings(store.paths.run, own, store.settings, store.database.clock.now())
    wired = ProcessServices(store, "worker")
    settings = store.settings.worker
    poll = parse_duration(settings.poll).total_seconds()
    shared = batch_context(store, worker)
    jobs = table_jobs(store, wired.features, wired.answerer.answer, shared)
    registry = WorkflowRegistry()
    registry.add(TABLE_JOB, jobs.run, POLICIES[TABLE_JOB], shared=True)
    registry.add(REFRESH, wired.features.refresher.refresh, POLICIES[REFRESH])
    registry.add(BACKFILL, wired.features.backfiller.backfill, POLICIES[BACKFILL])
    registry.add(APPLY, ApplyWorkflow(store, wired.features.refresher).run, POLICIES[APPLY])
    registry.add(DATASET, DatasetPartitions(dataset_builder(store)).build, POLICIES[DATASET])
    skew = ProjectSkew(store, wired.features)
    registry.add(SKEW, skew.compare, POLICIES[SKEW])
    registry.add(DRIFT, drift_reports(store).make, POLICIES[DRIFT])
    notifications, notification_orders = NotificationSender(store), NotificationOrders(store)
    registry.add(NOTIFY, notifications.deliver, POLICIES[NOTIFY])
    rollback = FeatureRollback(store, wired.features)
    mending = PlaybookActions(store, store.scope, rollback)
    registry.add(PLAYBOOK, PlaybookWorkflow(store, mending).run, POLICIES[PLAYBOOK])
    training = TrainingProcesses(
        store.database.clock, codec=store.database.codec, scope=store.scope, floor=settings.training_min_share
    )
    # Engines of other hosts do not see this project's folder; they see the lake where it is an object store.
    elsewhere = weights_files(store, wired.features.catalog.lake)
    served = ServedModels.of(store, wired.engine, elsewhere)
    learning = LearningPlatform(
        store, wired.engine, wired.commit, wired.features, run_training=training.run, served=served,
        standbys=wired.standbys,
    )  # fmt: skip
    learning.register(registry)
    for name in USER_WORKFLOWS.values():
        registry.add(name, UserWorkflows(store).run, POLICIES[name])
    registry.add(EVALUATE, EvaluationRuns(learning).run, POLICIES[EVALUATE])
    tables = ProjectTableJobs(store, wired.features, confined=False)
    exports = ScheduledExports(store, wired.features)
    registry.add(EXPORT, exports.run, POLICIES[EXPORT])
    orders = ScheduledOrders(store, lambda: learning.orders, tables.create, lambda: exports)
    lease = parse_duration(settings.lease)
    executor = Executor(
        store.database, registry, worker, store.scope,
        slots=settings.slots.by_work, lease=lease, poll=poll, metrics=of_runs,
    )  # fmt: skip
    rejoin = partial(outcome_joiner(store).rejoin, store.scope)
    agreement = ClockAgreement(store.database.clock, seconds_since_boot)
    leases = ProcessLeases(store.database, environment)
    holder = LeaseHolder(leases, str(process), process.has_ended, seconds=lease.total_seconds())
    held = partial(Duties, holder=holder)
    answering = batch_executor(store, wired.files, wired.answer_line, worker, shared, of_runs)
    consumption = stream_consumption(store, wired.features, name, holder)
    abandoned = AbandonedRuns(store.database, environment, process.sees_end_of, own=str(process))
    # Apart from other runs, for a release may wait long for an engine or for features, which those publish.
    checks = WorkflowRegistry()
    checks.add(GATES, GateWorkflow(learning).run, POLICIES[GATES])
    checking = Executor(
        store.database, checks, f"{worker}/gates", store.scope,
        concurrency=MOST_CHECKS, lease=lease, poll=poll, metrics=of_runs,
    )  # fmt: skip
    broken = BrokenParts()

    def pausing(what: str, parts: list[WorkerPart]) -> TenantPause:
        return TenantPause(store.scope.tenant, what, parts, store.keys.principals.tenants.state, wakeup=wakeup())

    def looking(look: Callable[[], object], every: float, name: str, *topics: Topic) -> HousekeepingTask:
        return HousekeepingTask(look, every=every, name=name, wakeup=wakeup(*topics))

    def kept(*parts: WorkerPart) -> list[WorkerPart]:
        return [RestartedPart(part, broken) for part in parts]

    following = source_followers(
        store,
        wired.features,
        ProjectStreams(store, wired.features).append,
        holder,
        lambda part: RestartedPart(part, broken),
    )
    executors = kept(executor, answering, checking, pausing("its streams", kept(*consumption, following)), abandoned)
    of_all = kept(
        store.trail.checkpointing,
        engine_recorder(store, wired.engine.describe),
        rolling_up(store),
        HousekeepingTask(
            wired.files.expire,
            every=EXPIRY_SECONDS,
            name="Removed files that had expired",
            clock=agreement,
            settled=SETTLED_SECONDS,
        ),
        HousekeepingTask(wired.files.collect, name="Removed contents that no file names", clock=agreement),
    )
    housekeeping = kept(
        HousekeepingTask(lambda: wired.features.prune().summary(), name="Pruned", clock=agreement),
        HousekeepingTask(skew.expire, name="Old lines about skew removed", clock=agreement),
        HousekeepingTask(partial(store.incidents.prune, store.scope), name="Old incidents removed"),
        HousekeepingTask(partial(store.playbook_runs.prune, store.scope), name="Old runs of playbooks removed"),
        HousekeepingTask(notifications.prune, name="Old notifications removed", clock=agreement),
        HousekeepingTask(partial(forget_ended_searches, store), name="Searches that ended without a text forgotten"),
    )
    heals = healer(store, wired.features)
    duties: list[WorkerPart] = [
        conductor(store, orders),
        rollout_keeper(store, function_scorer(store)),
        looking(heals.heal, HEALING_SECONDS, "Healed"),
        HousekeepingTask(
            wired.features.refresher.release_staged,
            every=poll,
            name="Published after an embargo",
            wakeup=wakeup("features"),
            due=partial(store.staged.due_in, store.scope),
        ),
        looking(
            partial(order_first_refreshes, store, wired.features),
            FIRST_ROWS_SECONDS,
            "Ordered a refresh of views whose followed place was empty",
        ),
        looking(
            ProjectObjectives(store, store.scope).assess, ASSESS_SECONDS, "Alerts of objectives that began or ended"
        ),
        looking(ProjectBudgets(store, store.scope).warn, WARN_SECONDS, "Warnings of budgets that began or ended"),
        looking(ReleaseWatcher(store, rollback).look, WATCH_SECONDS, "Decisions about live releases"),
        looking(IncidentWatch(store, wired.features, heals.health).assess, INCIDENT_SECONDS, "Incidents that changed"),
        looking(PlaybookOrders(store).look, PLAYBOOK_SECONDS, "Runs of playbooks that began or ended"),
        HousekeepingTask(rejoin, every=REJOIN_SECONDS, name="Joined outcomes that came early"),
        looking(NotificationSources(store).append_new, LOOK_SECONDS, "Notifications of releases and drift", "releases"),
        looking(notification_orders.order_due, LOOK_SECONDS, "Ordered deliveries of notifications", "notifications"),
        HousekeepingTask(notifications.repeat, every=REPEAT_SECONDS, name="Repeated alerts that last"),
    ]
    notification_orders.begin()  # What is handed over before the first look is sent as well.
    ProjectPrices(store).follow_settings()
    stored = {
        "lake": lambda: sum(size for _, size in wired.features.catalog.lake.sizes(store.scope)),
        "files": lambda: Files(store.database).used(store.scope),
    }
    duties.append(CostMeters(store.database, store.scope, {MAIN: wired.engine, **wired.standbys}, stored))
    if store.settings.lineage.url is not None:
        lineage = LineageDelivery(store)
        lineage.begin()  # What ends before the first look is told as well.
        duties.append(HousekeepingTask(lineage.send_due, every=LINEAGE_SECONDS, name="Sent events of lineage"))
    refreshed = AnswerSources(
        applications=store.releases.applications,
        live=wired.live.live,
        publication=partial(_publication, store),
        receipts=store.receipts,
        texts=store.blobs,
        answer=wired.answerer.answer,
        describe=wired.engine.describe,
    )
    half_life = parse_duration(settings.demand_half_life)
    duties.append(
        RefreshedAnswers(
            store.scope,
            refreshed,
            store.database.clock,
            half_life=half_life,
            poll=poll,
            wakeup=wakeup("features", "releases"),
        )
    )
    governance = training_governance(store, wired.engine, training, worker, process)
    turns = idle_budget(store, wired.engine, process, worker, governance.governor)
    parts: list[WorkerPart] = [
        *([] if turns is None else [held(f"{IDLE_LEASE}{socket.gethostname()}", kept(turns), detail=turns.detail)]),
        held(f"{WORKERS}{worker}", executors, conflict=NAME_TAKEN, detail=broken.detail),
        held(
            duties_of(store.scope.tenant),
            [
                *housekeeping,
                *kept(tenant_recorder(store, wired.features)),
                pausing("its schedules, rollouts and answers", kept(*duties)),
            ],
        ),
        held("duties", of_all),
        *kept(
            MetricHistory(store.measurements, store.database.clock, store.scope.tenant).recorder(metrics, own),
            served,
            TrainingRecords(training, store.paths.run, store.database.clock),
            *governance.parts,
        ),
        watch,
    ]
    late = lateness_counter(metrics)
    beside = [asyncio.create_task(one) for one in (supervision.beat(), count_lateness(late.inc))]
    telemetry.export(metrics)
    telling = served_metrics(metrics, store.paths.run, own) if store.settings.process_metrics else nullcontext()
    gc.freeze()
    gc.enable()
    _say_ready(store.paths.ready(own))
    try:
        with telling:
            await work(parts, stop)
    finally:
        for one in beside:
            one.cancel()
        await wired.close()
    return watch


def _publication(store: Store, scope: Scope) -> int | None:
    current = store.publications.current(scope)
    return None if current is None else current.number


def _say_ready(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.write_text(str(os.getpid()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
