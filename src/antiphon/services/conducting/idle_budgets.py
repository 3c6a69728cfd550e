"""The idle budget of the host that a worker runs on, from its project's catalog and engines."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import datetime
from math import inf
from urllib.parse import urlsplit

import msgspec

from antiphon.batch.estimates import Estimates
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.training_pauses import TrainingPauses
from antiphon.core.clock import parse_duration
from antiphon.core.outgoing import is_loopback
from antiphon.durable.run import Run
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineDescription
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.operations.processes import ProcessIdentity
from antiphon.orchestration.conductor.durations import durations_of, expected_end
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.idle_budget import LEASE, BackgroundWork, IdleBudget, IdleState, trains
from antiphon.orchestration.idle_turns import Contender, IdleWork
from antiphon.services.batches import batch_estimates
from antiphon.services.project.store import Store
from antiphon.services.workflows import BACKFILL, REFRESH, TRAIN, WORK

_KNOWN_RUNS = 20
_GENERATING = (*WORK["batch"], *WORK["evaluation"])


class HostWork:
    """Reads the background work of a host: runs of this tenant there, and every training that is announced."""

    def __init__(self, store: Store, estimates: Estimates, pauses: TrainingPauses, host: str, worker: str) -> None:
        self._store = store
        self._estimates = estimates
        self._pauses = pauses
        self._host = host
        self._worker = worker
        self._takes: dict[str, float] = {}

    def read(self) -> BackgroundWork:
        """The work that there is now."""
        store, now = self._store, self._store.database.clock.now()
        holds = store.run_holds.lasting(store.scope)
        refreshes, backfills = (
            [run for run in store.runs.open(store.scope, workflow) if self._computes(run, now, holds)]
            for workflow in (REFRESH, BACKFILL)
        )
        self._takes = {run.id: self._takes[run.id] for run in refreshes if run.id in self._takes}
        features = min((self._refresh(run, now) for run in refreshes), key=_deadline, default=None)
        under_way = (_contender("backfill", run, 0.0) for run in backfills if run.status == "running")
        own = all(run.worker in (None, self._worker) for run in (*refreshes, *backfills))
        backfill = min(under_way, key=_deadline, default=None)
        training = None
        if trains(self._pauses, self._host):
            runs = [
                run for run in store.runs.open(store.scope, TRAIN) if run.status == "running" and self._is_here(run)
            ]
            training = min((_training(run, now) for run in runs), key=_deadline, default=Contender("training"))
            worth = max((run.value or 1.0 for run in runs), default=1.0)
            training = msgspec.structs.replace(training, value=worth)
        if features is None and backfill is None and training is None:
            return BackgroundWork()
        job = self._estimates.pressing()
        batch = Contender("batch", value=store.runs.worth(store.scope, _GENERATING))
        if job is not None:
            batch = msgspec.structs.replace(
                batch, deadline=job.deadline, seconds_left=job.seconds_left, name=f"batch job {job.job}"
            )
        return BackgroundWork(features, backfill, training, batch, own)

    def _refresh(self, run: Run, now: datetime) -> Contender:
        if (takes := self._takes.get(run.id)) is None:
            took = [
                (one.ended_at - one.started_at).total_seconds()
                for one in self._store.runs.list(self._store.scope, _KNOWN_RUNS, workflow=REFRESH, status="succeeded")
                if one.ended_at is not None and one.started_at is not None
            ]
            known = durations_of(took)
            takes = self._takes[run.id] = 0.0 if known is None else known.bound
        begun = (now - (run.claimed_at or now)).total_seconds()
        return _contender("features", run, max(takes - begun, 0.0))

    def _computes(self, run: Run, now: datetime, holds: Sequence[RunHold]) -> bool:
        """Tells if a run is under way here, or about to begin somewhere."""
        if run.status == "running":
            return self._is_here(run)
        held = any(run.workflow in hold.workflows and hold.begins <= now < hold.until for hold in holds)
        free = run.paused_by is None and (run.exempted_by is not None or not held)
        return free and run.not_before <= now

    def _is_here(self, run: Run) -> bool:
        return run.worker is not None and run.worker.partition("@")[2].partition("/")[0] == self._host


def idle_budget(
    store: Store, engine: EngineClient | RoutedEngine, process: ProcessIdentity, worker: str, governor: Governor | None
) -> IdleBudget | None:
    """The part that gives turns on this host; ``None`` where the project wants none, or generation is elsewhere.

    Args:
        governor: of training in this process; ``None``: training goes on whoever is served.
    """
    settings, host, environment = store.settings.worker, socket.gethostname(), store.scope.environment
    if settings.idle_turn == "off" or not _generates_here(store):
        return None

    async def hold(seconds: float) -> EngineDescription:
        if isinstance(engine, RoutedEngine):
            return await engine.hold_batch(seconds, host)
        return await engine.hold_batch(seconds)

    pauses = TrainingPauses(store.database, environment)
    work = HostWork(store, batch_estimates(store), pauses, host, worker)
    budget = IdleBudget(
        work.read,
        engine.describe,
        hold,
        pauses,
        store.database.clock,
        host=host,
        holder=str(process),
        shares=settings.idle_shares.by_work,
        seconds=parse_duration(settings.idle_turn).total_seconds(),
        serving=lambda: governor is not None and governor.serving(host),
        poll=parse_duration(settings.poll).total_seconds(),
        wakeup=store.database.doorbell.wakeup(environment, "runs", "training"),
    )
    if governor is not None:
        governor.listen(budget.wake)
    return budget


def idle_states(store: Store) -> dict[str, IdleState]:
    """The turn on each host where a worker gives them, by the host's name."""
    found = {}
    for lease in ProcessLeases(store.database, store.scope.environment).living(LEASE):
        if lease.detail:
            found[lease.name.removeprefix(LEASE)] = msgspec.json.decode(lease.detail, type=IdleState)
    return found


def _generates_here(store: Store) -> bool:
    """False where batch work is generated at a URL of another machine, with which nothing here competes."""
    engine = store.settings.engine
    host = urlsplit(engine.url or "").hostname
    return engine.kind != "remote" or host is None or is_loopback(host) or host == socket.gethostname()


def _training(run: Run, now: datetime) -> Contender:
    end = expected_end(run, now)
    return _contender("training", run, 0.0 if end is None else (end - now).total_seconds())


def _contender(work: IdleWork, run: Run, seconds_left: float) -> Contender:
    deadline = inf if run.deadline is None else run.deadline.timestamp()
    return Contender(work, deadline, seconds_left, f"run {run.id}")


def _deadline(contender: Contender) -> float:
    return contender.deadline
