"""Durable runs under several workers, of two tenants at times: steps, transactions, retries, cancellation; clients ask
until they hear."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial
from typing import Any

from tests.simulation.audit_checks import check_log
from tests.simulation.process import Process, Violation
from tests.simulation.run_checks import RunObserver, read
from tests.simulation.world import World

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.durable.abandoned_runs import WORKERS, AbandonedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog
from antiphon.orchestration.duties import Duties, LeaseHolder

SCOPE, RIVAL, SECRET = Scope(), Scope("rival"), b"s" * 32
LEASE = timedelta(seconds=6)


class RunsScenario:
    """Workers, gateways and clients of runs.

    Attributes:
        one_host: workers hold their names under leases, and see of each other that they have ended; else two of one
            name may work at once.
        rivals: the last of the workers is another tenant's, and some of the runs. Those of the workflow ``work`` are
            done by their tenant's worker alone, those of ``shared`` by every one.
        submitted: run by key, of submissions that were acknowledged.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.one_host = random.Random(f"host {world.seed}").random() < 0.5
        self.tenancy = random.Random(f"tenants {world.seed}")
        self.rivals = self.tenancy.random() < 1 / 3
        self.scopes: dict[str, Scope] = {}
        self.submitted: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.plans: dict[str, list[tuple[str, Any]]] = {}
        self.outside: dict[str, str] = {}

    async def play(self) -> None:
        world, observer = self.world, RunObserver(self.world)
        orders = [partial(self.client, f"order-{number}") for number in range(self.random.randint(2, 4))]
        workers = self.random.choice((2, 2, 3))
        await observer.work_off(workers, partial(self.worker, f"worker-{workers - 1}"), self.gateway, orders)
        self.check_effects(world.boot("check"))

    async def worker(self, last: str, process: Process) -> None:
        scope = RIVAL if self.rivals and process.name.startswith(last) else SCOPE
        registry, named = WorkflowRegistry(), f"{scope.tenant}/{process.name}"
        registry.add("work", partial(self.own_work, scope, process))
        registry.add("shared", partial(self.work, process), shared=True)
        executor = Executor(process.database, registry, named, scope, concurrency=2, lease=LEASE, grace=3.0)
        if not self.one_host:
            await executor.run_until(process.stop)
            return
        abandoned = AbandonedRuns(process.database, SCOPE.environment, self.ended, every=2.0, listed_every=2.0)
        leases = ProcessLeases(process.database, SCOPE.environment)
        name, seconds = f"{WORKERS}{named}", LEASE.total_seconds()
        holder = LeaseHolder(leases, process.label, self.ended, seconds=seconds, monotonic=self.world.loop.time)
        duties = Duties(name, [executor, abandoned], holder)
        await duties.run_until(process.stop)

    def ended(self, holder: str) -> bool:
        """Tells of a process, by its label, whether it has died."""
        return not any(one.label == holder and one.alive for one in self.world.processes)

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    async def client(self, key: str) -> None:
        await asyncio.sleep(self.random.random() * 6)
        self.plans[key] = self.drawn_plan()
        scope = self.scopes[key] = RIVAL if self.rivals and self.tenancy.random() < 0.5 else SCOPE
        submission = scope, "shared" if self.tenancy.random() < 0.3 else "work", {"key": key}, key
        run = await self.world.told("gateway", lambda process: process.call(Runs(process.database).submit, *submission))
        self.submitted[key] = run
        if self.random.random() < 0.25:
            await asyncio.sleep(self.random.random() * 4)
            self.cancelled.add(run)
            await self.world.told("gateway", lambda process: process.call(Runs(process.database).cancel, scope, run))

    def drawn_plan(self) -> list[tuple[str, Any]]:
        plan: list[tuple[str, Any]] = []
        for number in range(self.random.randint(1, 4)):
            kind = self.random.choice(("step", "transaction", "transaction", "sleep", "sleep"))
            plan.append((kind, self.random.random() * 3 if kind == "sleep" else f"{kind}-{number % 2}"))
        if self.random.random() < 0.3:
            at = self.random.randint(0, len(plan))
            plan.insert(at, self.random.choice((("flaky", 1), ("flaky", 2), ("poison", None), ("hopeless", None))))
        return plan

    async def own_work(
        self, scope: Scope, process: Process, run: RunContext, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """As a refresh, which needs the definitions and stores of its tenant's project."""
        if run.scope != scope:
            raise InvalidInputError(f"The run belongs to {run.scope}, not to {scope}.")
        return await self.work(process, run, arguments)

    async def work(self, process: Process, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        key, log, told = arguments["key"], AuditLog(process.database, SECRET), []
        for kind, detail in self.plans[key]:
            match kind:
                case "step":
                    told.append(await run.step(detail, self.put, f"{key}/{detail}", process.label))
                case "transaction":
                    act = partial(log.append, run.scope, process.name, "sim.effect", f"{key}/{len(told)}")

                    def effect(connection: Any, act: Any = act) -> str:
                        act(within=connection)
                        return process.label

                    told.append(await run.transaction(detail, effect))
                case "sleep":
                    await asyncio.sleep(detail)
                case "flaky" if run.attempt <= detail:
                    raise UnavailableError("The engine is away.")
                case "poison":
                    raise InvalidInputError("This can never be done.")
                case "hopeless":
                    raise UnavailableError("The engine stays away.")
        return {"told": told}

    def put(self, name: str, content: str) -> str:
        """An effect outside of the catalog, which may be repeated."""
        return self.outside.setdefault(name, content)

    def check_effects(self, process: Process) -> None:
        """Nothing that was acknowledged is lost, and nothing was done twice."""
        runs, database = Runs(process.database), self.world.connection()
        found = read(
            database, "SELECT subject, count(*) FROM audit_entries WHERE action = 'sim.effect' GROUP BY subject"
        )
        effects = dict(found)
        keys = dict(read(database, "SELECT key, id FROM runs"))
        for key, run in self.submitted.items():
            if keys.get(key) != run:
                raise Violation(f"the submission of {key} was acknowledged as {run} and is {keys.get(key)}")
        for key, name in keys.items():
            scope = self.scopes[key]
            run = runs.get(scope, name)
            steps = {(step.name, step.occurrence): step.result for step in runs.steps(scope, name)}
            self.check_run(key, run, steps, effects)
        if twice := [subject for subject, number in effects.items() if number > 1]:
            raise Violation(f"done twice: {twice}")
        for scope in (SCOPE, RIVAL) if self.rivals else (SCOPE,):
            check_log(process, scope, SECRET)

    def check_run(self, key: str, run: Run, steps: dict[tuple[str, int], Any], effects: dict[str, int]) -> None:
        seen: dict[str, int] = {}
        told, place = [], 0
        for kind, detail in self.plans[key]:
            if kind in ("step", "transaction"):
                occurrence = seen.get(detail, 0)
                seen[detail] = occurrence + 1
                recorded = (detail, occurrence) in steps
                if kind == "transaction" and recorded != bool(effects.get(f"{key}/{place}")):
                    raise Violation(f"{key}: step {detail} is recorded: {recorded}, and its effect is not so")
                told.append(steps.get((detail, occurrence)))
                place += 1
        kinds = {kind for kind, _ in self.plans[key]}
        if run.status == "succeeded":
            if run.result != {"told": told} or kinds & {"poison", "hopeless"}:
                raise Violation(f"{key} succeeded with {run.result}, its steps say {told}")
        elif run.status == "failed":
            if "poison" not in kinds and run.attempts < run.max_attempts:
                raise Violation(f"{key} failed after {run.attempts} attempts: {run.error}")
            if run.error and "Error: " in run.error:
                raise Violation(f"{key} failed unexpectedly: {run.error}")
        elif run.status != "cancelled" or run.id not in self.cancelled:
            raise Violation(f"{key} is {run.status} and nobody asked for it")


async def play(world: World) -> None:
    """The scenario."""
    await RunsScenario(world).play()
