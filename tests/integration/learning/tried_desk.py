"""A desk whose production requests are tried again: what the workbench is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from tests.harness.embedders import WORDS
from tests.harness.small_desk import BARE, DESK, SCOPE, SmallDesk

from antiphon.catalog.features.definitions import AppliedProjects
from antiphon.catalog.learning.annotations import Annotations
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.regressions import RegressionSets
from antiphon.catalog.learning.trials import Trials
from antiphon.catalog.releases.releases import Release
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.api.port import Engine
from antiphon.learning.evaluation.asking import EvaluatedReleases
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.workbench.trials import SampleQuery, TrialRunner
from antiphon.serving.services import Services
from antiphon.serving.user_functions import UserFunctions
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

METRICS = "tests.integration.learning.help_metrics"
"""A module of functions that applications declare as metrics."""

TRIAGE: ApplicationSpec = msgspec.structs.replace(
    DESK,
    name="triage",
    **BARE
    | {
        "prompt": Prompt("Ticket: {{ question }}", system="You sort tickets."),
        "output_schema": json.dumps(
            {
                "type": "object",
                "properties": {"urgency": {"enum": ["low", "normal", "urgent"]}, "summary": {"type": "string"}},
                "required": ["urgency", "summary"],
                "additionalProperties": False,
            }
        ),
        "classes": ("urgency",),
    },
)
"""Tickets sorted into one of three, with a summary."""


def sorting(request: GenerationRequest) -> ScriptedGeneration:
    """A model that calls urgent what burns, and whatever it is told to."""
    prompt = request.prompt
    urgent = "fire" in prompt or "Everything is urgent." in prompt
    ticket = prompt.rpartition("Ticket: ")[2].split("\n")[0].strip()
    return ScriptedGeneration(json.dumps({"urgency": "urgent" if urgent else "low", "summary": ticket[:40]}))


class TriedDesk(SmallDesk):
    """One application with a live release, a runner of trials and the workbench's repositories."""

    def __init__(
        self, directory: Path, engine: Engine | None = None, application: ApplicationSpec = TRIAGE, **options: Any
    ) -> None:
        super().__init__(directory, engine or ScriptedEngine(sorting), application, **options)
        self.application = application
        project = ProjectSpec("desk", {}, {application.name: application}, {})
        AppliedProjects(self.database).apply(SCOPE, project, principal="author")
        self.evaluations = Evaluations(self.database)
        self.trials = Trials(self.database)
        self.annotations = Annotations(self.database)
        self.sets = RegressionSets(self.database)
        self.scorer = AnswerScorer(self.blobs, embedders=WORDS, functions=UserFunctions([METRICS]))
        self.runner = TrialRunner(
            services=self.services_of,
            releases=self.releases,
            receipts=self.receipts,
            texts=self.blobs,
            conversations=self.conversations,
            trials=self.trials,
            evaluations=self.evaluations,
            outcomes=Outcomes(self.database),
            scorer=self.scorer,
            clock=self.clock,
            patience=0.0,
        )

    def services_of(self, releases: EvaluatedReleases) -> Services:
        return msgspec.structs.replace(self.services, releases=releases)

    async def ask(self, question: str | None = None, **fields: Any) -> str:
        """Answer a request as production does; its prediction."""
        entity = {"flight": "B6 1", "origin": "JFK"} if self.application.entity_keys else {}
        given = {"application": self.application.name, "entity": entity, "question": question} | fields
        return (await self.answerer.answer(self.request(**given))).prediction

    def text(self, prediction: str) -> str:
        return self.blobs.get(SCOPE, self.receipts.get(SCOPE, prediction).text_blob).decode()

    def told(self, system: str) -> Release:
        """A draft with another system text."""
        prompt = msgspec.structs.replace(self.application.prompt, system=system)
        return self.draft(msgspec.structs.replace(self.application, prompt=prompt))

    async def tried(self, release: Release, query: SampleQuery | None = None) -> Any:
        return await self.runner.run(release, query or SampleQuery(), author="ada")
