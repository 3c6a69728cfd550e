"""A help desk whose tickets take minutes and get a reply, or an urgency: what outcomes of every kind are tested on.

No feature: the prompt shows what the customer wrote, and the model writes how long it will take and what to say, or
forecasts how urgent it is. The live release and a candidate answer the same tickets; agents tell later how long each
took and what they wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tests.harness.embedders import WORDS
from tests.harness.outcomes import pair_scorer
from tests.harness.small_desk import BARE, DESK, SCOPE, START
from tests.integration.learning.evaluated_desk import AskedDesk

from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.learning.datasets import Dataset, Datasets
from antiphon.catalog.learning.evaluations import Evaluation, Evaluations
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.evidence import Judgements
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Judgement, RolloutRecord
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.learning import Gates, Outcome, Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import Alternative, Branch, GenerationRequest
from antiphon.features.lake.local import LocalLake
from antiphon.governance.audit.log import AuditLog
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.learning.evaluation.evaluator import ReleaseEvaluator
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.validation import Validation
from antiphon.learning.outcomes.intake import OutcomeJoiner, OutcomeResult
from antiphon.learning.outcomes.matching import OutcomeMatcher
from antiphon.learning.outcomes.monitoring import Monitor
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.learning.registry.files import ModelFiles
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.judge import judge
from antiphon.releases.rollout import RolloutTransitions
from antiphon.serving.request import Answer
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

THINGS = ("printer", "router", "calendar", "invoice", "keyboard", "projector", "mailbox")
SCHEMA = {
    "type": "object",
    "properties": {
        "minutes": {"type": "integer", "minimum": 0, "maximum": 240},
        "reply": {"type": "string", "maxLength": 200},
    },
    "required": ["minutes", "reply"],
    "additionalProperties": False,
}
PLAN = Rollout(shadow=1.0, shadow_pairs=60, quality_margin=0.1)
FREE: dict[str, Any] = {"output_schema": None, "outcome": Outcome(), "more_outcomes": msgspec.UNSET}
"""An application that writes the reply alone, in free text."""

HELP = msgspec.structs.replace(
    DESK,
    **BARE
    | {
        "name": "help",
        "entity_keys": ("customer",),
        "prompt": Prompt("{{ entity.customer }} writes: {{ question }}"),
        "output_schema": json.dumps(SCHEMA),
        "outcome": Outcome("minutes"),
        "more_outcomes": (Outcome("reply", window="3d"),),
        "gates": Gates(slices=("customer",), rows=50),
        "reuse": Reuse(mode="never"),
        "rollout": PLAN,
    },
)


def sorting(*labels: str) -> ApplicationSpec:
    """The help desk with an urgency as its output, one of the labels."""
    urgency = {"type": "string", "enum": list(labels)}
    schema = SCHEMA | {"properties": {"urgency": urgency}, "required": ["urgency"]}
    outcome = Outcome("urgency", positive=labels[-1] if len(labels) == 2 else None)
    return msgspec.structs.replace(
        HELP, output_schema=json.dumps(schema), classes=("urgency",), outcome=outcome, more_outcomes=msgspec.UNSET
    )


SORTS_IN_TWO = sorting("low", "urgent")
SORTS_IN_THREE = sorting("low", "normal", "urgent")


def urgency(number: int, labels: Sequence[str]) -> str:
    """The urgency of a ticket: the first label is the most frequent one."""
    return labels[min(number * 37 % 100 // 45, len(labels) - 1)]


Forecast = Callable[[int, Sequence[str]], dict[str, float]]
"""Probability of each label for ticket number N."""


def forecasts_well(number: int, labels: Sequence[str]) -> dict[str, float]:
    """Sure of what comes true but for every tenth ticket."""
    right = urgency(number if number % 10 else number + 1, labels)
    return {label: 0.9 if label == right else 0.1 / (len(labels) - 1) for label in labels}


def forecasts_shares(number: int, labels: Sequence[str]) -> dict[str, float]:
    """A constant forecaster: how frequent each label is, of every ticket."""
    counted = [urgency(number, labels) for number in range(100)]
    return {label: counted.count(label) / 100 for label in labels}


def forecasts_majority(number: int, labels: Sequence[str]) -> dict[str, float]:
    """A majority forecaster: sure of the most frequent label, of every ticket."""
    return {label: 0.98 if label == labels[0] else 0.02 / (len(labels) - 1) for label in labels}


def forecasts_another(number: int, labels: Sequence[str]) -> dict[str, float]:
    """One that ignores the ticket: a forecast that was right for another one."""
    return forecasts_well(number * 31 % 97, labels)


def took(number: int) -> int:
    """Minutes that a ticket took."""
    return 10 + number * 37 % 200


def replied(number: int) -> str:
    """The reply that an agent wrote."""
    thing = THINGS[number % len(THINGS)]
    return f"Please restart the {thing} number {number * 7919 % 1000}, then open the {THINGS[number % 5]} settings."


Say = Callable[[int], tuple[int, str]]
"""Answers ticket number N: minutes and reply."""


def knowing(number: int) -> tuple[int, str]:
    """An answer that depends on the ticket, and is nearly right: the reply word for word for every second one."""
    reply = replied(number)
    return min(took(number) + number % 11, 240), reply if number % 2 else reply.replace("Please restart", "Restart")


def constant(number: int) -> tuple[int, str]:
    """The same answer to all."""
    return 110, "Please restart the printer, then open the router settings."


def shuffled(number: int) -> tuple[int, str]:
    """An answer that was right for another ticket."""
    return knowing(number * 31 % 97)


def script(
    live: Say | Forecast, candidate: Say | Forecast, application: ApplicationSpec
) -> Callable[[GenerationRequest], ScriptedGeneration]:
    """A model that answers as the live release, or where the prompt has the candidate's word as that."""

    def answer(request: GenerationRequest) -> ScriptedGeneration:
        number = int(request.prompt.rpartition("ticket ")[2].split(":")[0])
        if application.labels:
            return _forecast((candidate if "Candidate" in request.prompt else live)(number, application.labels))
        minutes, reply = (candidate if "Candidate" in request.prompt else live)(number)
        output = json.dumps({"minutes": minutes, "reply": reply})
        return ScriptedGeneration(output if request.json_schema else reply)

    return answer


def _forecast(probabilities: dict[str, float]) -> ScriptedGeneration:
    """The most probable label, and the log-probability of each label's first letter."""
    start = '{"urgency": "'
    options = tuple(
        Alternative(label[0], token, math.log(share)) for token, (label, share) in enumerate(probabilities.items(), 1)
    )
    text = f'{start}{max(probabilities, key=probabilities.__getitem__)}"}}'
    return ScriptedGeneration(text, branches=(Branch(len(start), options),))


class HelpDesk(AskedDesk):
    """A help desk that learns: what is asked of it becomes pairs, datasets and evaluations."""

    def __init__(
        self, directory: Path, live: Say | Forecast, candidate: Say | Forecast, application: ApplicationSpec = HELP
    ) -> None:
        super().__init__(directory, ScriptedEngine(script(live, candidate, application)), application)
        database = self.database
        self.application = application
        self.audit = AuditLog(database, b"s" * 32)
        self.outcomes, self.judgements = Outcomes(database), Judgements(database)
        self.datasets, self.evaluations = Datasets(database), Evaluations(database)
        self.lake = LocalLake(directory / "lake")
        self.transitions = RolloutTransitions(
            database, self.releases, self.rollouts, audit=self.audit, feature_exists=lambda *asked: True
        )
        self.keeper = RolloutKeeper(
            SCOPE, database, self.releases, self.rollouts, self.judgements, self.transitions,
            EvidenceReader(self.exposures, self.pairs, pair_scorer(database), self.outcomes), judge,
        )  # fmt: skip
        matcher = partial(
            OutcomeMatcher,
            receipts=self.receipts,
            texts=self.blobs,
            applications=self.declared,
            subject_key=b"k" * 32,
            clock=self.clock,
        )
        self.joiner = OutcomeJoiner(database, self.outcomes, matcher)
        self.monitor = Monitor(
            outcomes=self.outcomes, receipts=self.receipts, applications=self.declared, clock=self.clock
        )
        rows = DatasetRowBuilder(
            SCOPE, outcomes=self.outcomes, receipts=self.receipts, texts=self.blobs, releases=self.releases,
            definitions=DefinitionVersions(database),
        )  # fmt: skip
        self.builder = DatasetBuilder(rows, self.datasets, self.lake, self.clock)
        self.evaluator = ReleaseEvaluator(
            answering=self.answering, releases=self.releases, files=self.lake, receipts=self.receipts,
            conversations=self.conversations, evaluations=self.evaluations,
            texts=self.blobs, clock=self.clock, scorer=AnswerScorer(self.blobs, embedders=WORDS),
            patience=0.0,
        )  # fmt: skip
        self.validation = Validation(
            transaction=database.transaction, releases=self.releases, evaluations=self.evaluations,
            datasets=self.datasets, models=ModelVersions(database), feature_exists=lambda *asked: True,
            model_files=ModelFiles(directory / "models"), weights_of=lambda scope, pin: None,
        )  # fmt: skip

    def declared(self, scope: Any, name: str) -> ApplicationSpec:
        """The application, as it is applied."""
        return self.application

    def candidate(self) -> Release:
        """A draft whose prompt differs, and so its answers."""
        prompt = Prompt("Candidate: {{ entity.customer }} writes: {{ question }}")
        return self.draft(msgspec.structs.replace(self.application, prompt=prompt))

    def begin(self, release: Release) -> RolloutRecord:
        """Put a release into shadow."""
        return self.transitions.begin(SCOPE, release.id, principal="author", reason="a test", force=True)

    async def ask(self, number: int, **fields: Any) -> Answer:
        """A customer's ticket, answered online."""
        self.clock.advance(timedelta(seconds=30))
        asked = {
            "application": "help",
            "entity": {"customer": ("acme", "blue")[number % 2]},
            "question": f"ticket {number}: my {THINGS[number % len(THINGS)]} fails",
            "as_of": self.clock.now(),
            "exposure_unit": f"user-{number}",
        }
        return await self.answerer.answer(self.request(**asked | fields))

    def tell(self, prediction: str, value: Any, outcome: str | None = None, id: str | None = None) -> OutcomeResult:
        """What an agent tells about a ticket."""
        sent = OutcomeSubmission(application="help", value=value, outcome=outcome, prediction=prediction, id=id)
        return self.joiner.take(SCOPE, "agent", sent)

    def tell_all(self, number: int, prediction: str) -> None:
        """Everything that is declared, of one ticket."""
        values: dict[str, Any] = {"minutes": took(number), "reply": replied(number), "text": replied(number)}
        values["urgency"] = urgency(number, self.application.labels) if self.application.labels else None
        values["output"] = {"minutes": took(number), "reply": replied(number)}
        for shape in self.application.shapes:
            assert self.tell(prediction, values[shape.name], shape.name).status == "joined"

    def dataset(self) -> Dataset:
        """An evaluation set of everything that was asked and has an outcome."""
        spec = self.builder.plan(
            self.application, kind="evaluation", first=START, last=self.clock.now(), cutoff=self.clock.now()
        )
        return self.builder.build(msgspec.structs.replace(spec, maturity_seconds=0.0))

    async def evaluate(self, release: Release, dataset: Dataset, against: str | None = None) -> Evaluation:
        """An evaluation without safety suites."""
        return await self.evaluator.evaluate(release, dataset, with_safety=False, against=against)

    def verdict(self, rollout: RolloutRecord) -> Judgement:
        """What the judge says now."""
        self.keeper.look()
        latest = self.judgements.latest(SCOPE, rollout.id)
        assert latest is not None
        return latest
