"""A bakery with customers, whose names, orders, questions and answers nobody outside may learn; refreshed, gated, asked
online and over a table, by the workflows of the product."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.harness.refresh import run_refresh

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.orders import TableOrder
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.engine.api.messages import GenerationRequest
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.batches import ProjectTableJobs, batch_context, table_jobs
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer, AnswerRequest
from antiphon.testing.scripted_engine import ScriptedGeneration

BAKER = Principal("baker-principal", "default", "admin", "person", "restricted")
CUSTOMERS = ("Wilhelmina Featherstone", "Bartholomew Quince")
WISHES = ("gooseberry-tartlet", "pistachio-eclair")
QUESTION = "When may my sister Ottilie fetch the parcel?"
REPLY = "Thank you, the carriage is on its way."
DEFINITIONS = """
from antiphon import Application, Entity, Figure, Prompt, Source, col, count, feature_view, last, mean

customer = Entity("customer", keys=["customer"])
orders = Source.table("orders", path="orders.csv", event_time="at", event_id="id")


@feature_view(entity=customer, source=orders)
class Today:
    orders = count(window=None)
    paid = mean(col.paid, window=None, scale="0.01")
    wish = last(col.wish)


Application("replies", features=[Today], entities=[customer], model="{model}", purpose="answer customers",
    figures=[Figure(Today.orders), Figure(Today.wish)],
    prompt=Prompt("{{{{ entity.customer }}}} wants {{{{ features.today.wish }}}}, "
        "{{{{ features.today.orders }}}} orders: {{{{ question }}}}",
        system="You answer customers of a bakery."))
"""
PRIVATE = (*CUSTOMERS, *WISHES, QUESTION, REPLY, "Ottilie", "4711.25", BAKER.id)
"""What no event and no graph may hold."""


def reply(request: GenerationRequest) -> ScriptedGeneration:
    return ScriptedGeneration(REPLY)


class LineageBakery(GatedProject):
    """The bakery's project. ``settings`` are further sections."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        rows = [f"{n},{name},2026-01-0{n + 1}T10:00:00Z,4711.25,{WISHES[n]}" for n, name in enumerate(CUSTOMERS)]
        (folder / "orders.csv").write_text("\n".join(["id,customer,at,paid,wish", *rows]) + "\n")
        super().__init__(folder, reply, settings=settings)

    async def open_shop(self) -> str:
        """Apply, refresh and pass the gates; the run of these."""
        applied = super().apply(DEFINITIONS.format(model=MODEL_NAME), BAKER.id)
        await self.refresh()
        (run,) = applied.checks.values()
        (check,) = await self.work(run)
        assert check.state == "passed", check.sentence
        return run

    async def refresh(self, ends: str = "succeeded") -> str:
        """Refresh the view; the run."""
        await run_refresh(self.store, self.wired.features, ends=ends)
        return self.latest("refresh").id

    async def question(self) -> Answer:
        """A question of the first customer, answered online."""
        return await self.ask(
            AnswerRequest(self.scope, BAKER, "replies", {"customer": CUSTOMERS[0]}, question=QUESTION)
        )

    async def table(self) -> str:
        """Answer a table of all customers; the run."""
        lines = "\n".join(["customer,question", *(f"{name},{QUESTION}" for name in CUSTOMERS)])
        (self.folder / "customers.csv").write_text(lines + "\n")
        orders = ProjectTableJobs(self.store, self.wired.features, confined=False)
        orders.create(self.scope, BAKER, TableOrder("replies", input="customers.csv", output="answers.jsonl"))
        live = LiveReleases(self.store.releases, self.store.database.clock, rollouts=self.store.rollouts)
        answerer = Answerer(serving_services(self.store, self.engine, self.wired.commit, live, self.wired.features))
        jobs = table_jobs(self.store, self.wired.features, answerer.answer, batch_context(self.store, "worker"))
        registry, stop = WorkflowRegistry(), asyncio.Event()
        registry.add(TABLE_JOB, jobs.run, shared=True)
        executor = Executor(self.store.database, registry, "worker", self.scope, poll=0.01)
        working = asyncio.create_task(executor.run_until(stop))
        async with asyncio.timeout(60):
            while self.latest(TABLE_JOB).status not in ENDED:
                await asyncio.sleep(0.01)
        stop.set()
        await working
        run = self.latest(TABLE_JOB)
        assert run.status == "succeeded", run.error
        return run.id

    def latest(self, workflow: str) -> Run:
        """The newest run of a workflow."""
        return self.store.runs.list(self.scope, 1, workflow=workflow)[0]
