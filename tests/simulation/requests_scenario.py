"""Batches of OpenAI's API under several workers: files in, rows once, files out, cancellation at any moment."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from tests.harness.stored_files import batch_context
from tests.simulation.audit_checks import AuditObserver, check_log
from tests.simulation.batch_checks import JobObserver
from tests.simulation.batches_scenario import ASKER, answered
from tests.simulation.process import CooperativeLock, Process, Violation
from tests.simulation.run_checks import RunObserver, read
from tests.simulation.runs_scenario import LEASE, SCOPE, SECRET
from tests.simulation.world import World

from antiphon.batch.batch_job import BatchJobs, LineRequests
from antiphon.batch.files import FileLimits, FileStore
from antiphon.batch.lines import RequestFileLimits
from antiphon.batch.request_batches import WORKFLOW, BatchOrder, RequestBatches
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import Files
from antiphon.catalog.batch.jobs import Jobs
from antiphon.core.clock import ClockAgreement
from antiphon.core.errors import ConflictError, InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.runs import Runs
from antiphon.features.lake.local import LocalLake
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.services.workflows import POLICIES
from antiphon.serving.request import Answer, AnswerRequest

ENDPOINT, MODEL = "/v1/chat/completions", "scripted"


class EndpointStub:
    """Reads a body that names its line, and writes the answer's text."""

    def read(self, endpoint: str, body: bytes, scope: Scope, principal: Principal, request: str) -> LineRequests:
        line = msgspec.json.decode(body)["user"]
        asked = AnswerRequest(scope=scope, principal=principal, application=MODEL, entity={"origin": line})
        return LineRequests((asked,), lambda answers: answers[0].text)

    def refused(self, error: Exception) -> Any:
        return str(error)


class RequestsScenario:
    """Workers of batches, and clients that order and cancel them.

    Attributes:
        ordered: requests of each batch that was acknowledged.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.refused = {str(number) for number in range(12) if self.random.random() < 0.15}
        self.away = self.random.choice((0.0, 0.0, 0.1))
        self.slowest = self.random.choice((0.2, 1.0, 3.0))
        self.folder = world.file.path.parent / "files"
        self.inputs: list[tuple[str, int]] = []
        self.ordered: dict[str, int] = {}
        self.cancelled: set[str] = set()

    async def play(self) -> None:
        world = self.world
        shutil.rmtree(self.folder, ignore_errors=True)
        runs = RunObserver(world)
        JobObserver(world)
        self.prepare(world.boot("setup"))
        AuditObserver(world)
        orders = [partial(self.client, *given) for given in self.inputs]
        await runs.work_off(self.random.choice((1, 2, 2, 3)), self.worker, self.gateway, orders)
        self.check(world.boot("check"))

    def prepare(self, process: Process) -> None:
        healed, self.world.healed = self.world.healed, True
        for _ in range(self.random.choice((1, 1, 2))):
            requests = self.random.randint(1, 8)
            upload = self.files(process).begin(SCOPE, ASKER.id)
            for number in range(requests):
                body = {"model": MODEL, "messages": [{"role": "user", "content": "say"}], "user": str(number)}
                line = {"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body}
                upload.write(msgspec.json.encode(line) + b"\n")
            self.inputs.append((upload.keep("batch", "in.jsonl").id, requests))
        self.world.healed = healed

    def files(self, process: Process) -> FileStore:
        database = process.database
        return FileStore(
            Files(database), Batches(database), LocalLake(self.folder, database.codec), database,
            AuditLog(database, SECRET), process.clock, FileLimits(100_000, 1_000_000, timedelta(days=30)),
            ClockAgreement(process.clock),
        )  # fmt: skip

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    async def worker(self, process: Process) -> None:
        database, registry = process.database, WorkflowRegistry()
        context = batch_context(database)
        context.estimates._lock = CooperativeLock()  # type: ignore[assignment]
        jobs = BatchJobs(
            Batches(database), Jobs(database), self.files(process), database, EndpointStub(), self.answer,
            lambda scope, endpoint: (MODEL,), context, AuditLog(database, SECRET), RequestFileLimits(100, 10_000),
        )  # fmt: skip
        registry.add(WORKFLOW, jobs.run, POLICIES[WORKFLOW])
        executor = Executor(database, registry, process.name, Scope(), concurrency=2, lease=LEASE, grace=3.0)
        await executor.run_until(process.stop)

    async def answer(self, request: Any) -> Answer:
        await asyncio.sleep(self.random.random() * self.slowest)
        if not self.world.healed and self.random.random() < self.away:
            raise UnavailableError("The engine is away.")
        if request.entity["origin"] in self.refused:
            raise InvalidInputError("The engine knows no such origin.")
        return answered(request.entity["origin"])

    async def client(self, file: str, requests: int) -> None:
        await asyncio.sleep(self.random.random() * 3)
        order = BatchOrder(file, endpoint=ENDPOINT, completion_window="24h")
        made = await self.world.told(
            "gateway", lambda process: process.call(self.orders(process).create, SCOPE, ASKER, order)
        )
        self.ordered[made.id] = requests
        if self.random.random() < 0.4:
            await asyncio.sleep(self.random.random() * 5)
            self.cancelled.add(made.id)
            with suppress(ConflictError):  # It is done, or its files are being made.
                await self.world.told(
                    "gateway", lambda process: process.call(self.orders(process).cancel, SCOPE, made.id, ASKER.id)
                )

    def orders(self, process: Process) -> RequestBatches:
        database = process.database
        log = AuditLog(database, SECRET)
        return RequestBatches(
            Batches(database), self.files(process), Runs(database), database, log, process.clock, (ENDPOINT,)
        )

    def check(self, process: Process) -> None:
        """Every batch ended once, with files that hold exactly its rows."""
        database, batches, runs = self.world.connection(), Batches(process.database), Runs(process.database)
        query = "SELECT subject, count(*) FROM audit_entries WHERE action = 'batch.end' GROUP BY subject"
        ends: dict[str, int] = dict(read(database, query))
        made = {row[0] for row in read(database, "SELECT id FROM files WHERE purpose = 'batch_output'")}
        named: set[str] = set()
        for name in (row[0] for row in read(database, "SELECT id FROM batches ORDER BY id")):
            batch = batches.get(SCOPE, name)
            ended = "completed" if name not in self.cancelled else batch.status
            if batch.status != ended or not batch.ended or ends.get(name) != 1:
                raise Violation(f"{name} is {batch.status}, its end is recorded {ends.get(name)} times: {batch.errors}")
            rows = {number: bool(bad) for number, bad in read(
                database, "SELECT line, failed FROM job_rows WHERE job = ? ORDER BY line", name
            )}  # fmt: skip
            requests = self.ordered.get(name, batch.job.total)
            if batch.status == "completed" and list(rows) != list(range(requests or 0)):
                raise Violation(f"{name} of {requests} requests is completed with rows {list(rows)}")
            for file, failed in ((batch.output_file, False), (batch.error_file, True)):
                lines = self.lines(process, file)
                if lines != [f"r{number}" for number, bad in rows.items() if bad is failed]:
                    raise Violation(f"a file of {name} holds {lines}, its rows are {rows}")
            if wrong := [number for number, bad in rows.items() if bad != (str(number) in self.refused)]:
                raise Violation(f"rows {wrong} of {name} failed or did not, against what the engine said")
            named |= {file for file in (batch.output_file, batch.error_file) if file is not None}
            run = runs.find(SCOPE, f"{WORKFLOW}:{name}")
            if run is None or (run.result or {}).get("status") != batch.status:
                raise Violation(f"{name} is {batch.status}, its run tells of {run and run.result}")
        if made != named:
            raise Violation(f"files {sorted(made)} are there, batches name {sorted(named)}")
        if lost := sorted(self.ordered.keys() - ends.keys()):
            raise Violation(f"batches were acknowledged and are gone: {lost}")
        check_log(process, SCOPE, SECRET)

    def lines(self, process: Process, file: str | None) -> list[str]:
        if file is None:
            return []
        store = self.files(process)
        with store.open(store.records.get(SCOPE, file)) as content:
            return [msgspec.json.decode(line)["custom_id"] for line in content.read().splitlines()]


async def play(world: World) -> None:
    """The scenario."""
    await RequestsScenario(world).play()
