"""A project whose releases are held against their gates by the real workflow, on a scripted engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.releases.releases import Release
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.engine.api.port import GenerationEngine
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import ApplyReport, apply
from antiphon.services.learning.gate_orders import GateCheck, described_check
from antiphon.services.learning.gate_runs import GateWorkflow
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.project.store import Store
from antiphon.services.workflows import GATES
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer, AnswerRequest
from antiphon.testing.scripted_engine import MODEL, Script, ScriptedEngine

MODEL_NAME = "simulated"
SETTINGS = """
[project]
name = "gated"
environment = "{environment}"
{own}
[engine]
kind = "simulated"
models = ["{model}"]
[encryption]
mode = "plaintext"
[worker]
refresh = false
drift = "off"
[features]
skew = "off"
"""


class GatedProject:
    """Definitions that are applied, asked, and held against gates by whoever works; close it when done.

    Args:
        script: what the engine writes for a request, by its prompt.
        settings: further lines of ``[features]``, then further sections. own: further lines of ``[project]``.

    Built-in schedules are off: it has those that a test declares.
    """

    def __init__(
        self, folder: Path, script: Script, environment: str = "dev", settings: str = "", own: str = ""
    ) -> None:
        self.folder = folder
        text = SETTINGS.format(environment=environment, model=MODEL_NAME, own=own)
        (folder / "antiphon.toml").write_text(text + settings)
        self.store = Store.open(folder)
        self.scope = self.store.scope
        self.wired = ProcessServices(self.store, "test")
        self.engine = ScriptedEngine(script, (msgspec.structs.replace(MODEL, name=MODEL_NAME),))

    def apply(self, definitions: str, principal: str = "ann", activate: bool | None = None) -> ApplyReport:
        """Apply definitions, as `antiphon apply` does without waiting."""
        (self.folder / "definitions.py").write_text(definitions)
        return apply(self.store, principal=principal, activate=activate)

    def live(self, application: str) -> Release | None:
        """The release that answers users now."""
        return self.store.releases.live(self.scope, application)

    def live_id(self, application: str) -> str | None:
        """Its id."""
        live = self.live(application)
        return None if live is None else live.id

    def check(self, run: str) -> GateCheck:
        """How far a run of gates is."""
        return described_check(self.store.runs.get(self.scope, run))

    def learning(self, engine: GenerationEngine | None = None) -> LearningPlatform:
        """What releases are measured with, by this project's engine or another."""
        return LearningPlatform(self.store, engine or self.engine, self.wired.commit, self.wired.features)

    async def work(
        self,
        *runs: str,
        engine: GenerationEngine | None = None,
        worker: str = "worker",
        until: asyncio.Event | None = None,
    ) -> list[GateCheck]:
        """Work as a worker does until these runs have ended, or ``until`` is set; how they ended."""
        registry = WorkflowRegistry()
        registry.add(GATES, GateWorkflow(self.learning(engine)).run)
        executor = Executor(self.store.database, registry, worker, self.scope, poll=0.05, grace=0.0)
        stop = asyncio.Event()
        working = asyncio.create_task(executor.run_until(stop))
        try:
            async with asyncio.timeout(60):
                while not (until is not None and until.is_set()) and any(
                    self.store.runs.get(self.scope, run).status not in ENDED for run in runs
                ):
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await working
        return [self.check(run) for run in runs]

    async def ask(self, request: AnswerRequest) -> Answer:
        """Ask as a user does; raises as ``answer()``."""
        live = LiveReleases(self.store.releases, self.store.database.clock, rollouts=self.store.rollouts)
        wired = serving_services(self.store, self.engine, self.wired.commit, live, self.wired.features)
        return await Answerer(wired).answer(request)

    async def close(self) -> None:
        """Let go of the stores."""
        await self.wired.close()
