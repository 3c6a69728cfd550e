"""Table jobs under several workers: every row once, by the worker that holds the job, however often one dies."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from tests.harness.stored_files import batch_context
from tests.simulation.batch_checks import JobObserver
from tests.simulation.process import CooperativeLock, Process, Violation
from tests.simulation.run_checks import RunObserver, read
from tests.simulation.runs_scenario import LEASE
from tests.simulation.world import World
from tests.unit.catalog.examples import bundle, receipt

from antiphon.batch.table_job import TableJobs
from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.errors import ConflictError, InvalidInputError, UnavailableError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.runs import Runs
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import Answer, AnswerRequest

SCOPE = Scope()
ASKER = Principal("ops", SCOPE.tenant, "admin")


def answered(about: str) -> Answer:
    """An answer about something."""
    usage = UsageReceipt(prompt_tokens=3, engine_seconds=0.1)
    return Answer("pred", "req", f"about {about}", "stop", usage, receipt("pred"), None)


class BatchesScenario:
    """Workers of table jobs, and clients that order and cancel them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.refused = {str(number) for number in range(20) if self.random.random() < 0.1}
        self.away = self.random.choice((0.0, 0.0, 0.1))
        self.slowest = self.random.choice((0.2, 1.0, 3.0))
        self.ordered: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.release = ""

    async def play(self) -> None:
        world, runs = self.world, RunObserver(self.world)
        JobObserver(world)
        self.prepare(world.boot("setup"))
        orders = [partial(self.client, number) for number in range(self.random.randint(1, 2))]
        await runs.work_off(self.random.choice((1, 2, 2, 3)), self.worker, self.gateway, orders)
        self.check(world.boot("check"))

    def prepare(self, process: Process) -> None:
        healed, self.world.healed = self.world.healed, True
        self.release = Releases(process.database).add(bundle(), SCOPE, "author", "why").id
        self.world.healed = healed

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    async def worker(self, process: Process) -> None:
        database, registry = process.database, WorkflowRegistry()
        context = batch_context(database)
        context.estimates._lock = CooperativeLock()
        jobs = TableJobs(
            Jobs(database), Releases(database), Blobs(database), self.answer, concurrency=3, context=context
        )  # fmt: skip
        registry.add("table_job", jobs.run)
        executor = Executor(database, registry, process.name, Scope(), concurrency=2, lease=LEASE, grace=3.0)
        await executor.run_until(process.stop)

    async def answer(self, request: AnswerRequest) -> Answer:
        """An engine that takes its time, is away now and then, and refuses some entities."""
        await asyncio.sleep(self.random.random() * self.slowest)
        if not self.world.healed and self.random.random() < self.away:
            raise UnavailableError("The engine is away.")
        if request.entity["origin"] in self.refused:
            raise InvalidInputError("The engine knows no such origin.")
        return answered(request.entity["origin"])

    async def client(self, number: int) -> None:
        await asyncio.sleep(self.random.random() * 3)
        job, rows = f"job_{number}", self.random.randint(2, 12)

        def place(process: Process) -> None:
            database = process.database
            with database.transaction() as connection:
                table = [{"origin": str(line)} for line in range(rows)]
                blob = Blobs(database).put(SCOPE, canonical(table), within=connection)
                Jobs(database).create(
                    SCOPE, application="desk", release=self.release, input=f"blob:{blob}", output="", principal="ops",
                    total=rows, settings={"principal": msgspec.to_builtins(ASKER)}, job=job, within=connection,
                )  # fmt: skip
                Runs(database).submit(
                    SCOPE, "table_job", {"job": job}, f"table_job:{job}", max_attempts=1_000, within=connection
                )

        await self.world.told("gateway", lambda process: process.call(place, process))
        self.ordered[job] = rows
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.random() * 4)
            self.cancelled.add(job)
            await self.world.told("gateway", lambda process: process.call(partial(self.cancel, process, job)))

    def cancel(self, process: Process, job: str) -> None:
        database = process.database
        with database.transaction() as connection:
            run = Runs(database).find(SCOPE, f"table_job:{job}")
            assert run is not None
            Runs(database).cancel(SCOPE, run.id, within=connection)
            try:
                Jobs(database).set_status(SCOPE, job, "cancelled", within=connection)
            except ConflictError:
                self.cancelled.discard(job)  # It ended before.

    def check(self, process: Process) -> None:
        """Every job ended with its rows, and its run says what they say."""
        database, runs = self.world.connection(), Runs(process.database)
        rows = read(database, "SELECT job, line, failed FROM job_rows ORDER BY job, line")
        status = dict(read(database, "SELECT id, status FROM jobs"))
        for job, total in self.ordered.items():
            lines = [line for owner, line, _ in rows if owner == job]
            failed = {line for owner, line, bad in rows if owner == job and bad}
            expected = {line for line in range(total) if str(line) in self.refused}
            run = runs.find(SCOPE, f"table_job:{job}")
            if run is None:
                raise Violation(f"the order of {job} was acknowledged and has no run")
            if status.get(job) == "cancelled" and job in self.cancelled:
                continue
            if status.get(job) != "completed" or lines != list(range(total)):
                raise Violation(f"{job} of {total} rows is {status.get(job)} with lines {lines}; its run: {run.error}")
            if failed != expected:
                raise Violation(f"rows {sorted(failed)} of {job} failed, {sorted(expected)} were to")
            told = run.result or {}
            if run.status != "cancelled" and (told.get("rows"), told.get("failed")) != (total, len(failed)):
                raise Violation(f"the run of {job}, {run.status}, tells of {told}, there are {total} rows: {run.error}")


async def play(world: World) -> None:
    """The scenario."""
    await BatchesScenario(world).play()
