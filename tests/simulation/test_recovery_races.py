"""Five races that journals of durable workflows lost in the field (DBOS Transact), played against ours.

Each is named after its issue there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.process import THREADS, Faults, Process
from tests.simulation.run_checks import RunObserver
from tests.simulation.runs_scenario import LEASE, SCOPE, SECRET
from tests.simulation.world import World

from antiphon.core.scope import Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog


class Race:
    """Two workers of one workflow, which has two effects, in a world where only what a test wants goes wrong."""

    def __init__(self, file: CatalogFile) -> None:
        self.world = World(file, 1, Faults())
        self.begun: list[str] = []

    def play(self, scenario: Callable[[], Any], *, observed: bool = True) -> None:
        async def watched(world: World) -> None:
            observer = RunObserver(world) if observed else None
            await scenario()
            if observer is not None:
                observer.check_end()

        self.world.run(watched)
        assert not self.world.violations, "\n".join([*self.world.violations, *self.world.trace[-40:]])

    def executor(self, process: Process) -> Executor:
        registry = WorkflowRegistry()
        registry.add("work", partial(self.work, process))
        return Executor(process.database, registry, process.name, Scope(), lease=LEASE, poll=0.5, grace=3.0)

    def start(self, process: Process, executor: Executor | None = None) -> asyncio.Task[Any]:
        return process.spawn((executor or self.executor(process)).run_until(process.stop))

    async def work(self, process: Process, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        self.begun.append(f"{process.name} {run.id}")
        log = AuditLog(process.database, SECRET)
        for name in ("first", "second"):
            act = partial(log.append, SCOPE, process.name, "sim.effect", f"{run.id} {name}")
            await run.transaction(name, lambda connection, act=act: act(within=connection))
            await asyncio.sleep(0.5)
        return {"done": True}

    def submit(self, key: str) -> str:
        return Runs(self.world.processes[0].database).submit(SCOPE, "work", {}, key)

    async def ended(self, *runs: str, seconds: float = 60.0) -> list[Run]:
        """These runs, once they have ended."""
        repository = Runs(self.world.processes[0].database)

        def look() -> list[Run]:
            return [repository.get(SCOPE, run) for run in runs]

        await self.world.until(lambda: all(run.ended_at is not None for run in look()), seconds)
        return look()

    def effects(self, run: str) -> list[str]:
        query = "SELECT subject FROM audit_entries WHERE subject LIKE ? ORDER BY sequence"
        return [row[0].split()[1] for row in self.world.connection().execute(query, (f"{run} %",))]


@pytest.mark.parametrize("transaction", range(1, 8))
def test_database_restart_during_recovery(file: CatalogFile, transaction: int) -> None:
    """The catalog goes away at any transaction of a worker that recovers another's run (DBOS #716)."""
    race = Race(file)

    async def scenario() -> None:
        dead, recovering = race.world.boot("dead"), race.world.boot("recovering")
        run = race.submit("a")
        assert Runs(dead.database).claim("dead", ServedRuns("dev"), timedelta(seconds=1)) is not None
        race.world.kill(dead, "the test")
        recovering.away = (transaction, 4.0)
        race.start(recovering)
        race.world.processes.insert(0, race.world.boot("reader"))
        (ended,) = await race.ended(run)
        assert ended.status == "succeeded"
        assert race.effects(run) == ["first", "second"]

    race.play(scenario)


def test_stale_read_runs_a_step_twice(file: CatalogFile) -> None:
    """A worker reads the journal, sleeps past its lease, and goes on with what it read (DBOS #742)."""
    race = Race(file)

    async def scenario() -> None:
        sleeper, other = race.world.boot("sleeper"), race.world.boot("other")
        run, executor = race.submit("a"), race.executor(sleeper)
        steps = executor._runs.steps

        def stale(scope: Scope, held: str) -> Any:
            found, thread = steps(scope, held), THREADS.current
            assert thread is not None
            sleeper.park(thread, 20.0)
            return found

        executor._runs.steps = stale  # type: ignore[method-assign]
        race.start(sleeper, executor)
        await race.world.until(lambda: bool(race.world.commits > 1), 5.0)
        race.start(other)
        (ended,) = await race.ended(run)
        await asyncio.sleep(30.0)
        assert race.begun == [f"other {run}", f"sleeper {run}"]  # It did go on.
        assert (ended.status, ended.attempts) == ("succeeded", 2)
        assert race.effects(run) == ["first", "second"]

    race.play(scenario)


@pytest.mark.parametrize("moment", [number / 10 for number in range(12)])
def test_draining_twin_claims_again(file: CatalogFile, moment: float) -> None:
    """A worker that drains leaves what it holds to its twin and takes nothing more, whenever it is told (DBOS #804)."""
    race = Race(file)

    async def scenario() -> None:
        draining, twin = race.world.boot("draining"), race.world.boot("twin")
        runs = [race.submit(name) for name in "abc"]
        task = race.start(draining)
        await asyncio.sleep(moment)
        draining.stop.set()
        await asyncio.wait({task})
        begun = len(race.begun)
        held = race.world.connection().execute("SELECT count(*) FROM runs WHERE worker IS NOT NULL").fetchone()
        assert held == (0,)
        race.start(twin)
        for ended in await race.ended(*runs):
            assert (ended.status, ended.attempts) == ("succeeded", 1)
            assert race.effects(ended.id) == ["first", "second"]
        assert all(name.startswith("twin") for name in race.begun[begun:])

    race.play(scenario)


def test_stuck_between_steps(file: CatalogFile) -> None:
    """A worker dies at any statement, commit or thread of a run; another brings it to its end (DBOS #805)."""
    point = died = 0
    while died == point:
        point += 1
        race = Race(file)

        async def scenario(race: Race = race, point: int = point) -> None:
            race.world.boot("client")
            mortal = race.world.boot("mortal")
            run = race.submit("a")
            mortal.points_left = point
            race.start(mortal)
            await race.world.until(lambda: not mortal.alive or len(race.effects(run)) == 2, 5.0)
            await asyncio.sleep(1.0)
            race.start(race.world.boot("other"))
            (ended,) = await race.ended(run)
            assert ended.status == "succeeded"
            assert race.effects(run) == ["first", "second"]

        race.play(scenario)
        died += race.world.crashes
    assert died > 20


@pytest.mark.parametrize("damage", ["runs SET arguments", "steps SET result"])
def test_one_bad_dispatch_strands_the_rest(file: CatalogFile, damage: str) -> None:
    """A run that cannot be read ends as failed, or waits; every other run goes on (DBOS #546)."""
    race = Race(file)

    async def scenario() -> None:
        client, worker = race.world.boot("client"), race.world.boot("worker")
        bad = race.submit("bad")
        held = Runs(client.database).claim("client", ServedRuns("dev"), timedelta(seconds=1))
        assert held is not None
        Runs(client.database).record(held, "first", 0, None, client.clock.now())
        race.world.connection().execute(f"UPDATE {damage} = x'00ff'")
        good = [race.submit(name) for name in "abc"]
        task = race.start(worker)
        for ended in await race.ended(*good):
            assert ended.status == "succeeded"
        assert not task.done()
        await asyncio.sleep(60.0)
        query = "SELECT status FROM runs WHERE id = ?"
        assert race.world.connection().execute(query, (bad,)).fetchone() == ("failed",)

    race.play(scenario, observed=False)  # The damage itself is against every rule.
