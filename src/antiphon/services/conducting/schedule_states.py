"""The state of one project's schedules, read from its catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache

import msgspec

from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.errors import UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.logs import described
from antiphon.core.scope import Scope
from antiphon.definitions.assets import Asset
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.schedules import RefreshWork, RetrainWork, ScheduleSpec
from antiphon.definitions.triggers import (
    ExpectedRequests,
    ForgettingLimit,
    NewDrift,
    NewOutcomes,
    NewPublication,
    NewRequests,
    NewStaleness,
    Trigger,
    simple_triggers,
)
from antiphon.durable.run import ENDED, Run
from antiphon.learning.outcomes.drift_runs import DriftReports
from antiphon.learning.retraining.forgetting import ForgettingMeasure, measured_forgetting
from antiphon.orchestration.conductor.assets import AssetWork, work_of
from antiphon.orchestration.conductor.durations import RunDurations, durations_of, expected_end
from antiphon.orchestration.conductor.forecast import LoadForecast
from antiphon.orchestration.conductor.placement import Span
from antiphon.orchestration.conductor.state import Observation, ScheduleState
from antiphon.services.conducting.asset_states import AssetStates, asset_states, settle
from antiphon.services.conducting.built_in_schedules import all_schedules
from antiphon.services.conducting.traffic import TrafficForecasts
from antiphon.services.conducting.windows import occurrences
from antiphon.services.learning.outcomes import drift_reports
from antiphon.services.project.store import Store
from antiphon.services.workflows import WORK

_log = logging.getLogger("antiphon.worker")

Assets = Callable[[], tuple[AssetStates, Mapping[str | None, Asset]]]
"""The states of assets, read at the first call, and the assets by the schedule that makes each."""

MEASURED_RUNS = 50
"""Runs of a schedule, at most, by which the time that its next one takes is predicted."""

MOST_ORDERS = 50
"""Orders of one schedule, at most, that are looked at for which views were refreshed in a period."""

LATEST_TRAININGS = 20
"""Trainings from what is new, at most, among which the last one is looked for that measured what it forgot."""


class ScheduleStates:
    """Reads the state of a tenant's schedules."""

    def __init__(self, store: Store, scope: Scope, traffic: TrafficForecasts | None = None) -> None:
        self._store = store
        self._scope = scope
        self._traffic = traffic or TrafficForecasts(store)
        self._drift = drift_reports(store)
        self._problems: dict[str, str | None] = {}

    def read(self) -> tuple[ScheduleState, ...]:
        """The state of every schedule that is applied or built in, by name; those that are new begin to count, and
        parts whose runs have ended are settled."""
        project = self._store.applied.project(self._scope)
        specs = all_schedules(self._store, self._scope, project)
        if not specs:
            return ()
        known = self._store.schedules.enroll(self._scope, specs)
        if project.schedules:
            settle(self._store, self._scope)
        return self._of(project, specs, known, deciding=True)

    def of(self, project: ProjectSpec) -> tuple[ScheduleState, ...]:
        """The state of the schedules of declarations, as people are told of it; one that is not applied yet counts from
        now."""
        specs = all_schedules(self._store, self._scope, project)
        return self._of(project, specs, self._store.schedules.list(self._scope), deciding=False)

    def _of(
        self,
        project: ProjectSpec,
        specs: Mapping[str, ScheduleSpec],
        known: Mapping[str, ScheduleRecord],
        *,
        deciding: bool,
    ) -> tuple[ScheduleState, ...]:
        """The states of these schedules, by name.

        Args:
            deciding: without what people are told and nothing is decided by: how long earlier runs took, where no
                deadline asks.
        """
        store, scope = self._store, self._scope
        now = store.database.clock.now()
        records = {name: known.get(name) or ScheduleRecord(name, 0, now, now) for name in specs}
        holds = store.run_holds.lasting(scope)
        latest = store.runs.by_id(scope, {one.run for one in records.values() if one.run is not None})

        @cache
        def assets() -> tuple[AssetStates, Mapping[str | None, Asset]]:
            found = asset_states(store, scope, project)
            return found, {one.schedule: one for one in found.graph.assets.values()}

        states = []
        for name, spec in sorted(specs.items()):
            record = records[name]
            try:
                state = self._state(project, spec, record, latest.get(record.run or ""), holds, assets, now, deciding)
            except UnavailableError:
                raise
            except Exception as error:  # Whatever is wrong with one schedule, the others are decided.
                state = ScheduleState(spec, record, problem=f"its state cannot be read: {described(error)}")
                if deciding and self._problems.get(name) != state.problem:  # Not with every look.
                    self._problems[name] = state.problem
                    _log.exception("The state of the schedule %s cannot be read.", name)
            states.append(state)
        return tuple(states)

    def _state(
        self,
        project: ProjectSpec,
        spec: ScheduleSpec,
        record: ScheduleRecord,
        last: Run | None,
        holds: Sequence[RunHold],
        assets: Assets,
        now: datetime,
        deciding: bool,
    ) -> ScheduleState:
        workflows = set(WORK[spec.work_class])
        open_run = last if last is not None and last.status not in ENDED else None
        if isinstance(spec.work, RefreshWork):
            observed = Observation(refreshed={} if open_run else self._refreshed(spec.name, spec.work, last, now))
        else:
            observed = self._observed(project, spec, spec.when, record.since, assets)
        observed_full = self._observed(project, spec, _full_when(spec), record.full_since, assets)
        return ScheduleState(
            spec,
            record,
            open_run.id if open_run else None,
            open_run.status if open_run else "",
            expected_end(open_run, now) if open_run else None,
            "" if last is None else _said_of(last),
            None if last is None else last.ended_at,
            None if last is None else last.deadline,
            observed,
            observed_full,
            self._runtime(self._scope, spec.name) if not deciding or spec.ready_by or spec.within else None,
            tuple(hold for hold in holds if not workflows.isdisjoint(hold.workflows)),
            tuple(_preferred(project, spec, now)),
            self._forecast("") if spec.within else None,
            calm_since=self._calm_since(spec, record, (observed, observed_full), now, deciding)
            if spec.debounce
            else None,
        )

    def _calm_since(
        self,
        spec: ScheduleSpec,
        record: ScheduleRecord,
        observations: tuple[Observation, ...],
        now: datetime,
        deciding: bool,
    ) -> datetime | None:
        """The moment since when nothing new has come; what has come is noted where it is decided by."""
        noted = self._noted(spec, observations)
        if record.observed == noted:
            return record.calm_since
        if deciding:
            self._store.schedules.observe(self._scope, spec.name, noted, now)
        return now

    def _refreshed(self, name: str, work: RefreshWork, last: Run | None, now: datetime) -> Mapping[str, datetime]:
        """The moments at which the views of a refresh were computed, or their run was ordered, in the present period.
        Mostly the last run tells all of them, and nothing else is read."""
        store, scope, (begin, _) = self._store, self._scope, work.period(now)
        found: dict[str, datetime] = {}

        def missing() -> set[str]:
            return set(work.views) - {view for view, at in found.items() if at >= begin}

        if last is not None:
            found = dict.fromkeys(last.arguments["views"], last.created_at)
        for run in store.runs.list(scope, MOST_ORDERS, schedule=name) if missing() else ():
            found |= dict.fromkeys(missing().intersection(run.arguments["views"]), run.created_at)
        if views := missing():
            published = store.publications.snapshots(scope)
            found |= {view: store.snapshots.get(scope, published[view]).as_of for view in views & published.keys()}
        return found

    def _observed(
        self,
        project: ProjectSpec,
        spec: ScheduleSpec,
        trigger: Trigger | None,
        since: datetime,
        assets: Assets,
    ) -> Observation:
        """The events that a trigger asks for; others are not read."""
        scope, kinds = self._scope, _kinds(trigger)
        return Observation(
            self._store.outcomes.arrived(scope, spec.application, since) if NewOutcomes in kinds else 0,
            _drifted(self._drift, scope, spec.application, since) if NewDrift in kinds else (),
            self._published(scope, since) if NewPublication in kinds else (),
            _asset_work(spec, *assets()) if NewStaleness in kinds else None,
            self._requests(scope, spec.application, trigger, since, misses=False),
            self._requests(scope, spec.application, trigger, since, misses=True),
            load=self._forecast(spec.application) if ExpectedRequests in kinds else None,
            forgotten=self._forgotten(project, spec.application, since) if ForgettingLimit in kinds else None,
        )

    def _noted(self, spec: ScheduleSpec, observations: tuple[Observation, ...]) -> str:
        """A hash of what a schedule's conditions observe, which changes with everything that arrives."""
        scope = self._scope
        both = [trigger for trigger in (spec.when, _full_when(spec)) if trigger is not None]
        single = [one for trigger in both for one in simple_triggers(trigger)]
        # Requests are counted as far as is needed, and snapshots are named by their views.
        latest = [
            self._store.receipts.latest_online(scope, spec.application, generated=misses)
            for misses in sorted({one.misses for one in single if isinstance(one, NewRequests)})
        ]
        named = {view for one in single if isinstance(one, NewPublication) for view in one.views}
        published = self._store.publications.snapshots(scope) if named else {}
        work = [None if one.asset is None else one.asset.ready for one in observations]
        counted = [(one.outcomes, one.drifted, one.forgotten) for one in observations]
        views = sorted(one for one in published.items() if one[0].partition("@")[0] in named)
        return content_hash(msgspec.to_builtins([latest, views, work, counted]))

    def _forgotten(self, project: ProjectSpec, application: str, since: datetime) -> ForgettingMeasure | None:
        """The forgetting that an application's trainings measured last, after a moment."""
        shape = project.applications[application].shape
        if shape is None:
            return None
        versions = self._store.models.list(self._scope, application)
        deltas = [one.run for one in versions if one.parent is not None and one.run is not None]
        runs = self._store.runs.by_id(self._scope, deltas[:LATEST_TRAININGS]).values()
        ended = [(run.ended_at, run) for run in runs if run.ended_at is not None and run.ended_at > since]
        for _, run in sorted(ended, key=lambda one: one[0], reverse=True):
            if (found := measured_forgetting(run.id, run.result, shape)) is not None:
                return found
        return None

    def _forecast(self, application: str) -> LoadForecast | None:
        """The forecast of an application's requests, of all without one."""
        return self._traffic.of(self._scope, application)

    def _requests(
        self, scope: Scope, application: str, trigger: Trigger | None, since: datetime, *, misses: bool
    ) -> int:
        """Requests as far as a trigger counts them."""
        counts = [
            one.count
            for one in (() if trigger is None else simple_triggers(trigger))
            if isinstance(one, NewRequests) and one.misses == misses
        ]
        if not counts:
            return 0
        return self._store.receipts.counted(scope, application, since, max(counts), generated=misses)

    def _published(self, scope: Scope, since: datetime) -> tuple[str, ...]:
        publications = self._store.publications
        with self._store.database.read() as connection:  # Of one moment: what came in between is not new.
            before = publications.at(scope, since, within=connection)
            now = publications.snapshots(scope, within=connection)
        then = {} if before is None else before.snapshots
        return tuple(sorted({key.partition("@")[0] for key, snapshot in now.items() if then.get(key) != snapshot}))

    def _runtime(self, scope: Scope, schedule: str) -> RunDurations | None:
        runs = self._store.runs.list(scope, MEASURED_RUNS, status="succeeded", schedule=schedule)
        started = [run.started_at for run in runs if run.started_at is not None]
        return predicted(runs, self._store.run_holds.list(scope, min(started)) if started else ())


def predicted(runs: Sequence[Run], holds: Sequence[RunHold]) -> RunDurations | None:
    """The time that the next run takes, by the runs before, without that in which they were held; ``None`` of none."""
    return durations_of(
        [
            (run.ended_at - run.started_at - _held(run, run.started_at, run.ended_at, holds)).total_seconds()
            for run in runs
            if run.ended_at is not None and run.started_at is not None
        ]
    )


def _held(run: Run, begin: datetime, end: datetime, holds: Sequence[RunHold]) -> timedelta:
    """The part of a span in which a run was held."""
    found, at = timedelta(), begin
    for hold in sorted(holds, key=lambda one: one.begins):
        if run.workflow in hold.workflows and run.exempted_by is None and hold.until > at:
            found += max(min(hold.until, end) - max(hold.begins, at), timedelta())
            at = max(at, min(hold.until, end))
    return found


def _preferred(project: ProjectSpec, spec: ScheduleSpec, now: datetime) -> Iterator[Span]:
    """The occurrences of windows in which work of this class had better run, as far as it may wait."""
    for window in project.windows.values():
        if window.kind == "preferred" and spec.work_class in window.work and spec.within:
            for one in occurrences(window, now, now + timedelta(seconds=spec.within)):
                yield one.begins, one.until


def _asset_work(spec: ScheduleSpec, assets: AssetStates, made: Mapping[str | None, Asset]) -> AssetWork | None:
    asset = made.get(spec.name)
    return None if asset is None else work_of(asset, assets.states, assets.at, timedelta(seconds=spec.settle))


def _kinds(trigger: Trigger | None) -> set[type]:
    return set() if trigger is None else {type(one) for one in simple_triggers(trigger)}


def _full_when(spec: ScheduleSpec) -> Trigger | None:
    return spec.work.full_when if isinstance(spec.work, RetrainWork) else None


def _said_of(run: Run) -> str:
    """A run's status, with its error or note."""
    detail = run.error or run.note
    return f"{run.status}: {detail}" if detail else run.status


def _drifted(reports: DriftReports, scope: Scope, application: str, since: datetime) -> tuple[str, ...]:
    # A variable that had drifted before the last run, and still does, is no new drift.
    found = (one for one in reports.warnings(scope) if one.application == application and one.latest > since)
    return tuple(name for one in found for name in one.variables)
