"""Schedules that several workers conduct, while outcomes and publications arrive, and people freeze, thaw, pause,
resume, release runs and apply other windows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
from tests.simulation.asset_checks import AssetChecks
from tests.simulation.audit_checks import check_log
from tests.simulation.conductor_project import (
    APPLICATION,
    KEYS,
    MAKE,
    SCOPE,
    SECRET,
    VIEW,
    DriftReportsStub,
    TrainingOrdersStub,
    UserWorkflowsStub,
    drawn_schedules,
    drawn_views,
    place_table_job,
    project_store,
)
from tests.simulation.conductor_rows import ENDED, ConductorObserver, require
from tests.simulation.hold_checks import HoldChecks
from tests.simulation.process import START, Process
from tests.simulation.publications_scenario import OnlineSnapshotsStub
from tests.simulation.refresh_checks import RefreshChecks
from tests.simulation.run_checks import RunObserver, read
from tests.simulation.schedule_checks import LATEST_ORDER, ScheduleChecks
from tests.simulation.world import World
from tests.unit.catalog.examples import manifest

from antiphon.catalog.features.definitions import AppliedProjects
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.clock import microseconds
from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError
from antiphon.definitions.cron import CronTime
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.windows import WindowSpec
from antiphon.durable.claims import WORKERS
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.runs import Runs
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.publication.publish import Publisher
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.worker import work
from antiphon.services.conducting import asset_states, schedule_states, scheduled_orders
from antiphon.services.conducting.built_in_schedules import refresh_schedules
from antiphon.services.conducting.run_waits import RunWaits
from antiphon.services.conducting.scheduled_orders import ScheduledOrders, conductor
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.workflows import REFRESH, TABLE_JOB, TRAIN

LEASE = timedelta(seconds=6)
STALL = 8.0
"""Seconds for which what is slow takes: longer than a lease, and soon over once nothing goes wrong."""

PERSON = "ada"


class ConductorScenario:
    """Workers that conduct and work, a gateway that people speak to, and what arrives meanwhile.

    Attributes:
        frozen: freezes that a person was told of and did not ask to end.
        windows: names of those that are applied.
        looked: when each process conducted last, in the world's seconds.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        world.faults = msgspec.structs.replace(world.faults, stall=STALL)
        self.random = world.random
        self.one_host = self.random.random() < 0.5
        self.specs = drawn_schedules(self.random)
        self.observer = ConductorObserver(world)
        self.runs = RunObserver(world)
        self.holds = HoldChecks(self.observer)
        self.schedules = ScheduleChecks(self.observer, self.holds, self.specs)
        self.assets = AssetChecks(self.observer)
        # Drawn apart, so that the worlds without views are those that there were.
        self.views = drawn_views(Random(f"{world.seed} views"))
        self.refreshes = RefreshChecks(self.observer, self.holds)
        self.observer.checks.append(self.keeps_promises)
        if self.random.random() < 0.6:
            self.assets.files = {f"{key}.csv": "words 0" for key in KEYS}
        self.frozen: dict[str, RunHold] = {}
        self.exempted: set[str] = set()
        self.windows: set[str] = set()
        self.looked: dict[Process, float] = {}

    # --- Processes.

    async def worker(self, process: Process) -> None:
        store, database = project_store(process), process.database
        if not self.world.healed and self.random.random() < 0.2:
            process.away = self.random.randint(5, 80), self.random.random() * 12
        registry = WorkflowRegistry()
        for workflow in (TRAIN, TABLE_JOB, REFRESH):
            registry.add(workflow, partial(self.work, process))
        registry.add(MAKE, partial(self.make, process))
        named = f"{SCOPE.tenant}/{process.name}"
        executor = Executor(database, registry, named, SCOPE, concurrency=3, lease=LEASE, grace=3.0)
        runs: Any = executor._runs
        runs.next_due = self.noted(partial(self.holds.look, process, "runs"), runs.next_due)
        trainings: Any = partial(TrainingOrdersStub, store.runs)
        exports: Any = None  # None of the schedules exports.
        orders = ScheduledOrders(store, trainings, partial(place_table_job, store), exports)
        conducting: Any = conductor(store, orders)
        conducting.look = self.noted(partial(self.conducts, process), conducting.look)
        leases = ProcessLeases(database, SCOPE.environment)
        holder = LeaseHolder(
            leases, process.label, self.gone, seconds=LEASE.total_seconds(), monotonic=self.world.loop.time
        )
        duties = Duties("duties", [conducting], holder)
        await work([duties, Duties(f"{WORKERS}{named}", [executor], holder)], process.stop)

    def noted(self, told: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that the checks are told of before."""

        def noting(*args: Any) -> Any:
            told()
            return call(*args)

        return noting

    def conducts(self, process: Process) -> None:
        self.schedules.look(process)
        if "clean" in self.specs and not self.world.healed and self.random.random() < 0.3:
            self.write_file()  # So that a look after a crash has another plan than the one before.
        now = self.world.loop.time()
        self.looked[process] = now
        if len({one for one, at in self.looked.items() if one.alive and now - at < 1.0}) > 1:
            self.holds.seen.add("two conduct")

    def gone(self, holder: str) -> bool:
        """Whether a process is known to have ended: only on one host that can be seen."""
        return self.one_host and not any(one.label == holder and one.alive for one in self.world.processes)

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    # --- What runs do.

    async def work(self, process: Process, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        plan = Random(f"{self.world.seed} {run.id}")
        steps, temper = plan.randint(1, 4), plan.random()
        slow = plan.randrange(steps) if plan.random() < 0.2 else None
        for number in range(steps):
            takes = plan.uniform(6.0, 15.0) if number == slow else plan.uniform(0.2, 2.5)
            await run.step(f"step-{number % 2}", self.step, process, run.id, takes)
        if temper < 0.1:
            raise InvalidInputError("This can never be done.")
        if temper < 0.2 and (temper < 0.12 or run.attempt == 1):
            raise UnavailableError("The engine is away.")
        return {"steps": steps}

    async def make(self, process: Process, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make a part of an asset of what there is now, which may be newer than what it was ordered with; one of two
        changes of a file changes nothing of it."""
        plan = Random(f"{self.world.seed} {run.id}")
        await run.step("make", self.step, process, run.id, plan.uniform(0.1, 3.0))
        order = self.assets.order_of(run.id)
        if plan.random() < 0.15:
            raise InvalidInputError("This can never be made.")
        if plan.random() < 0.1 and run.attempt == 1:
            raise UnavailableError("The disk is full.")
        words = self.assets.files.get(f"{order.part[1]}.csv", "") if order.part[1] else run.id
        self.holds.seen.add(f"made {order.part[0]}")
        return {"result": words[:-1]}

    async def step(self, process: Process, run: str, takes: float) -> None:
        self.holds.step(process, run)
        await asyncio.sleep(takes)

    # --- What people do.

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.world.loop.time())

    async def person(self) -> None:
        acts: tuple[Callable[[], Awaitable[None]], ...] = (
            self.freeze,
            self.launch,
            self.launch,
            self.launch,
            self.launch,
            self.thaw,
            self.pause,
            self.pause,
            self.resume,
            self.exempt,
            self.apply,
        )
        for _ in range(self.random.randint(3, 6)):
            await asyncio.sleep(self.random.random() * 9)
            await self.random.choice(acts)()

    async def asked(self, act: Callable[[ProjectSchedules], Any]) -> Any:
        """What a person hears at last; ``None`` where it is refused, such as a freeze whose end is past by now."""

        async def ask(process: Process) -> Any:
            return await process.call(lambda: act(ProjectSchedules(project_store(process), SCOPE)))

        try:
            return await self.world.told("gateway", ask)
        except UnavailableError:
            raise
        except AntiphonError:
            return None

    async def freeze(self, lasts: float | None = None, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        until = self.now + timedelta(seconds=self.random.uniform(3, 20) if lasts is None else lasts)
        begins = None if self.random.random() < 0.7 else self.now + timedelta(seconds=self.random.random() * 5)
        classes = self.random.choice(((), ("training",), ("training", "batch")))
        hold = await self.asked(lambda one: one.freeze(PERSON, "the launch", until, classes, begins))
        if hold is not None:
            self.frozen[hold.id] = hold

    async def launch(self) -> None:
        """Order runs and freeze at once: the freeze comes while they are claimed."""
        first = len(self.observer.rows.runs) + 100
        orders = [self.plain_run(first + number, TRAIN) for number in range(3)]
        await asyncio.gather(*orders, self.freeze(after=self.random.random() * 0.05))

    async def thaw(self) -> None:
        if self.frozen:
            name = self.random.choice(sorted(self.frozen))
            del self.frozen[name]  # From now on it may end, or not yet.
            await self.asked(lambda one: one.thaw(PERSON, name))

    async def pause(self) -> None:
        name, until = self.random.choice(sorted(self.specs)), self.now + timedelta(seconds=self.random.uniform(5, 40))
        self.schedules.told.pop(name, None)
        await self.changed(name, lambda one: one.pause(PERSON, name, "the launch", until))

    async def resume(self) -> None:
        name = self.random.choice(sorted(self.specs))
        self.schedules.told.pop(name, None)
        await self.changed(name, lambda one: one.resume(PERSON, name))

    async def changed(self, name: str, act: Callable[[ProjectSchedules], Any]) -> None:
        record: ScheduleRecord | None = await self.asked(act)
        if record is not None:
            until = record.paused_until
            self.schedules.told[name] = None if until is None else microseconds(until)

    async def exempt(self) -> None:
        waiting = sorted(run.id for run in self.observer.rows.runs.values() if run.status not in ENDED)
        if waiting:
            run = self.random.choice(waiting)
            await self.asked(lambda one: one.exempt(PERSON, run, "it is urgent"))
            self.exempted.add(run)

    async def apply(self, *, schedules: bool = True, windows: bool = True) -> None:
        """Apply the project, with windows of a few seconds in the minutes to come."""
        minutes = self.random.sample((1, 2), self.random.choice((0, 1, 2))) if windows else []
        made = {}
        for minute in minutes:
            lasts = float(self.random.randint(3, 20))
            classes: Any = self.random.choice((("training",), ("training", "batch")))
            begins = CronTime(f"{minute} 12 * * *")
            made[f"window-{minute}"] = WindowSpec(f"window-{minute}", begins, lasts, work=classes)
        # The second view is declared later, often within a period in which the first was refreshed.
        views = self.views[: 2 if self.refreshes.applied else 1] if schedules else ()
        project = ProjectSpec(
            "desk", {view.name: view for view in views}, {}, {}, self.specs if schedules else {}, made
        )

        async def act(process: Process) -> Any:
            applied = AppliedProjects(process.database)
            return await process.call(partial(applied.apply, SCOPE, project, principal=PERSON))

        if not schedules:
            self.refreshes.follow(None)
        await self.world.told("gateway", act)
        self.windows = {*made}
        for spec in refresh_schedules(views).values():
            self.refreshes.follow(spec)

    # --- What arrives.

    async def arrivals(self) -> None:
        kinds: tuple[Callable[[int], Awaitable[None]], ...]
        kinds = self.outcome, self.outcome, self.publication, self.plain_run, self.file, self.file
        for number in range(self.random.randint(3, 8)):
            await asyncio.sleep(self.random.random() * 7)
            await self.random.choice(kinds)(number)

    async def outcome(self, number: int) -> None:
        record = OutcomeRecord(f"outcome-{number}", SCOPE, APPLICATION, "label", "joined", "late", self.now, self.now)

        def add(store: Any) -> None:
            if not store.outcomes.find(SCOPE, [record.id]):
                store.outcomes.add(record)

        await self.world.told("gateway", lambda process: process.call(add, project_store(process)))

    async def file(self, number: int) -> None:
        self.write_file()

    def write_file(self) -> None:
        """A file comes, or becomes another."""
        self.assets.files[f"{self.random.choice(KEYS)}.csv"] = f"words {self.random.randint(0, 19)}"

    async def publication(self, number: int) -> None:
        made = manifest(f"snapshot-{number}", SCOPE, START + timedelta(minutes=number), view=VIEW)
        given: Any = [(made, SimpleNamespace(key=made.key))]
        lake: Any = None
        online: Any = OnlineSnapshotsStub()

        async def act(process: Process) -> Any:
            publisher = Publisher(FeatureCatalog(process.database, SCOPE, lake), online)
            return await process.call(partial(publisher.publish, given, reason=made.id, principal="client"))

        await self.world.told("gateway", act)

    async def plain_run(self, number: int, workflow: str = "") -> None:
        workflow = workflow or self.random.choice((TRAIN, TABLE_JOB, REFRESH))
        submission = SCOPE, workflow, {}, f"plain-{number}"
        await self.world.told("gateway", lambda process: process.call(Runs(process.database).submit, *submission))

    # --- What must hold.

    def keeps_promises(self, process: Process, past: Any, rows: Any) -> None:
        """Freezes and releases that a person was told of are there."""
        held = {hold.id: hold for hold in rows.holds.values()}
        for name, hold in self.frozen.items():
            row = held.get(name)
            require(row is not None, f"{name}, which a person was told of, is gone")
            assert row is not None
            require(row.until == microseconds(hold.until), f"{name} ends at another time than a person was told")
        for name in self.exempted:
            run = rows.runs[name]
            require(run.status in ENDED or run.exempted_by == PERSON, f"{name} was exempted, and is so no more")

    async def watch(self, process: Process) -> None:
        """Asks now and then why runs wait: every queued one has a reason, and begins in no hold."""
        store = project_store(process)
        while True:
            try:
                queued = store.runs.list(SCOPE, 100, status="queued")
                waits, now = RunWaits(store).of(SCOPE, queued), self.now
            except UnavailableError:
                queued, waits = [], {}
            except Exception as error:  # A watcher that died would find nothing any more.
                self.world.violate(f"runs that wait cannot be told of: {type(error).__name__}: {error}")
                return
            for run in queued:
                wait = waits.get(run.id)
                if wait is None or not wait.reason:
                    self.world.violate(f"{run.id} waits for no reason")
                    continue
                row = self.observer.rows.runs[run.id]
                if self.observer.rows.holding(row, microseconds(wait.earliest)):
                    self.world.violate(f"{run.id} is said to begin at {wait.earliest}, inside of a hold")
                held = self.observer.rows.holding(row, microseconds(now))
                if bool(held) != (wait.kind == "held") or wait.earliest < max(now, run.not_before):
                    self.world.violate(f"{run.id} is {'held' if held else 'free'}, and said to wait so: {wait}")
            await asyncio.sleep(8.0)

    # --- The play.

    async def play(self) -> None:
        world = self.world
        await asyncio.sleep(self.random.random() * 55)  # Minutes of the clock come early and late.
        for number in range(self.random.choice((2, 2, 2, 3))):
            world.keep_up(f"worker-{number}", self.worker)
        world.keep_up("gateway", self.gateway)
        reader = world.boot("reader")
        reader.points_left = 1 << 60
        watching = reader.spawn(self.watch(reader))
        await self.apply()
        doing = [asyncio.ensure_future(one()) for one in (self.person, self.arrivals)]
        if self.random.random() < 0.2:
            doing.append(asyncio.ensure_future(world.start_twin("worker-0", self.worker)))
        await self.until(lambda: all(one.done() for one in doing), 45.0)
        self.heal()
        await asyncio.gather(*doing)
        await self.until(lambda: self.holds.calm, 60.0)
        if self.views:
            await self.apply()
        await self.freeze(12.0)
        await asyncio.sleep(6.0)
        await self.exempt()
        await self.until(lambda: False, LATEST_ORDER + 1.0)
        if "clean" in self.specs:
            await self.until(self.assets.rests, 400.0)
        self.check_windows()
        self.schedules.specs = {}
        await self.apply(schedules=False, windows=False)
        await self.until(self.runs.all_ended, 400.0)
        watching.cancel()
        if not world.violations:
            self.check(world.boot("check"))

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds, or is violated: what never rests would take long."""
        await self.world.until(lambda: condition() or bool(self.world.violations), seconds)

    def check_windows(self) -> None:
        """The windows that are written are those that were applied last."""
        held = {hold.name for hold in self.observer.rows.holds.values() if hold.kind == "window"}
        lasting = {one.name for one in self.observer.rows.holds.values() if one.until > microseconds(self.now)}
        require(held & lasting == self.windows, f"{held & lasting} hold runs, and {self.windows} are applied")

    def heal(self) -> None:
        world, faults = self.world, self.world.faults
        world.heal()
        for process in world.processes:
            process.away = None
        late = 2 * faults.stall if faults.slow or faults.pause else 0.0
        self.holds.calm_from = world.loop.time() + max(late, LEASE.total_seconds()) + 4.0

    def check(self, process: Process) -> None:
        self.runs.check_end()
        recorded = "SELECT subject, count(*) FROM audit_entries WHERE action = 'schedule.order' GROUP BY subject"
        found: Any = read(self.observer.database, recorded)
        self.schedules.check_end(dict(found))
        if "clean" in self.specs:
            self.assets.check_end()
        check_log(process, SCOPE, SECRET)
        self.world.note(None, f"seen: {', '.join(sorted(self.holds.seen))}")


async def play(world: World) -> None:
    """The scenario."""
    scenario = ConductorScenario(world)
    with (
        mock.patch.object(schedule_states, "drift_reports", return_value=DriftReportsStub()),
        mock.patch.object(scheduled_orders, "UserWorkflows", UserWorkflowsStub),
        mock.patch.object(asset_states, "file_version", scenario.assets.version),
    ):
        await scenario.play()
