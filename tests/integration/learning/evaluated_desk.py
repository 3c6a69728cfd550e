"""A small desk that learns, with a dataset of its past in a lake: what evaluations are tested on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
from tests.harness.embedders import WORDS
from tests.harness.small_desk import DESK, SCOPE, START, SmallDesk

from antiphon.catalog.learning.datasets import Dataset, Datasets, DatasetSpec
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.models import ModelFile, ModelVersion, ModelVersions
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import Gates, MetricGate, Outcome
from antiphon.engine.api.messages import Alternative, Branch, GenerationRequest
from antiphon.engine.api.port import Engine
from antiphon.features.lake.local import LocalLake
from antiphon.learning.evaluation.evaluator import ReleaseEvaluator
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.validation import Validation
from antiphon.learning.registry.files import ModelFiles
from antiphon.serving.answerer import Answerer
from antiphon.serving.answering.deduplication import DeduplicatingEngine
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

LEARNS: ApplicationSpec = msgspec.structs.replace(
    DESK,
    outcome=Outcome("outlook", positive="delayed"),
    gates=Gates(
        slices=("origin",),
        rows=10,
        injected_share=0.5,
        metrics={"brier": MetricGate(advantage=0.0, behind_live=0.02, disparity=0.9)},
    ),
)


def forecasting(request: GenerationRequest) -> ScriptedGeneration:
    """A model that forecasts by the delay its prompt shows, and writes the notice that the figures allow."""
    delay = int(request.prompt.rpartition("delay ")[2].split()[0])
    late = min(0.9, 0.05 + delay / 50)
    label = "delayed" if late > 0.5 else "on_time"
    asked = json.loads(request.json_schema or "{}")["properties"]
    output = {"outlook": label, "notice": f"Delays average {delay} minutes."}
    text = json.dumps({name: value for name, value in output.items() if name in asked})
    options = (Alternative("d", 1, math.log(late)), Alternative("on", 2, math.log(1 - late)))
    return ScriptedGeneration(text, branches=(Branch(13, options),))


def backwards(request: GenerationRequest) -> ScriptedGeneration:
    """The same model with its forecasts turned round."""
    says = forecasting(request)
    late, on_time = (option.logprob for option in says.branches[0].options)
    options = (Alternative("d", 1, on_time), Alternative("on", 2, late))
    return msgspec.structs.replace(says, branches=(Branch(13, options),))


class AskedDesk(SmallDesk):
    """A desk that is asked by an evaluation: ``requests`` notes what, and ``before`` is called with each."""

    def __init__(self, directory: Path, engine: Engine, application: ApplicationSpec) -> None:
        super().__init__(directory, engine, application)
        self._serving = self.services  # A desk that learns has services of that beside them.
        self.before: Callable[[Any], None] = lambda request: None
        self.requests: list[Any] = []

    def answering(self, features: Any, releases: Any, once: bool) -> Any:
        services = msgspec.structs.replace(self._serving, features=lambda scope: features, releases=releases)
        if once:
            services = msgspec.structs.replace(services, engine=DeduplicatingEngine(services.engine))
        answerer = Answerer(services)

        async def answer(request: Any) -> Any:
            self.before(request)
            self.requests.append(request)
            return await answerer.answer(request)

        return answer


class EvaluatedDesk(AskedDesk):
    """A live release, a dataset of ``rows`` flights, an evaluator and a validation over them.

    ``again`` opens what another one left in the directory.
    """

    def __init__(
        self,
        directory: Path,
        engine: Engine | None = None,
        application: ApplicationSpec = LEARNS,
        rows: int = 40,
        again: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__(directory, engine or ScriptedEngine(forecasting), application)
        self.directory = directory
        self.lake = LocalLake(directory / "lake")
        self.datasets = Datasets(self.database)
        self.evaluations = Evaluations(self.database)
        self.models = ModelVersions(self.database)
        self.views = {("congestion", "v1"), ("weather", "v1")}
        self.dataset = self.datasets.list(SCOPE)[-1] if again else self.keep(rows, application)
        self.evaluator = ReleaseEvaluator(
            answering=self.answering,
            releases=self.releases,
            files=self.lake,
            receipts=self.receipts,
            conversations=self.conversations,
            evaluations=self.evaluations,
            texts=self.blobs,
            clock=self.clock,
            scorer=AnswerScorer(self.blobs, embedders=WORDS),
            **{"patience": 0.0, **changes},
        )
        self.validation = Validation(
            transaction=self.database.transaction,
            releases=self.releases,
            evaluations=self.evaluations,
            datasets=self.datasets,
            models=self.models,
            feature_exists=lambda scope, view, version: (view, version) in self.views,
            model_files=ModelFiles(directory / "models"),
            weights_of=lambda scope, pin: None,
        )

    def keep(self, rows: int, application: ApplicationSpec = LEARNS, **changes: Any) -> Dataset:
        """A dataset in the lake and the catalog: the greater the delay, the likelier late; ``changes`` of its spec."""
        late = [index % 8 * 5 > 15 + (index % 3 - 1) * 10 for index in range(rows)]
        columns: dict[str, Sequence[Any]] = {
            "example": [f"flight-{index:04}" for index in range(rows)],
            "moment": [START - timedelta(hours=rows - index) for index in range(rows)],
            "flight": [f"B6 {100 + index}" for index in range(rows)],
            "origin": ["JFK" if index % 2 else "LGA" for index in range(rows)],
            "congestion.delay": [float(index % 8 * 5) for index in range(rows)],
            "congestion.delay.event_time": [START - timedelta(hours=rows - index + 1) for index in range(rows)],
            "weather.wind": [float(index % 4 * 5) for index in range(rows)],
            "weather.wind.event_time": [START - timedelta(hours=rows - index + 1) for index in range(rows)],
            "label": ["delayed" if one else "on_time" for one in late],
            "label_at": [START for _ in range(rows)],
            "origin_of_row": ["history" for _ in range(rows)],
        }
        with self.lake.writing(SCOPE, ".parquet") as draft:
            pyarrow.parquet.write_table(pyarrow.table(dict(columns)), draft)
        path, sha256 = draft.path, draft.sha256
        spec = DatasetSpec(
            application=application.name,
            kind="evaluation",
            property="outlook",
            positive="delayed",
            cutoff=START,
            first=START - timedelta(days=2),
            last=START,
            maturity_seconds=0.0,
            origins=("history",),
            examples=rows,
            seed=0,
            views={"congestion": "v1", "weather": "v1"},
            entity_keys=("flight", "origin"),
        )
        spec = msgspec.structs.replace(spec, **changes)
        dataset = Dataset(
            id=f"data_{len(self.datasets.list(SCOPE)) + 1}",
            scope=SCOPE,
            spec=spec,
            sources=(),
            rows=rows,
            labels={"delayed": sum(late), "on_time": len(late) - sum(late)},
            dropped={},
            columns=tuple(columns),
            path=path,
            sha256=sha256,
            logical_hash=f"hash-{rows}",
            created_at=START,
        )
        self.datasets.add(dataset)
        return dataset

    def candidate(self, **changes: Any) -> Release:
        """A draft that differs from the live release."""
        return self.draft(msgspec.structs.replace(LEARNS, **{"owner": "candidate", **changes}))

    def trained(self, dataset: Dataset, content: bytes = b"weights", number: int = 1) -> ModelVersion:
        """A registered model version with its file of weights."""
        folder = self.directory / "models"
        folder.mkdir(exist_ok=True)
        (folder / f"v{number}.gguf").write_bytes(content)
        import hashlib

        digest = hashlib.sha256(content).hexdigest()
        return self.models.add(model_version(dataset, ModelFile(f"v{number}.gguf", digest, len(content)), number))

    def pinning(self, version: ModelVersion) -> Release:
        """A draft that serves a model version."""
        application = msgspec.structs.replace(LEARNS, model=version.id)
        pin = ModelPin(version.id, version.weights.sha256, version.id)
        return self.releases.add(Bundle(application, pin, self.decider.digest), SCOPE, "author", "trained")


def model_version(dataset: Dataset, weights: ModelFile, number: int = 1, **changes: Any) -> ModelVersion:
    fields: dict[str, Any] = {
        "id": f"desk.v{number}",
        "scope": SCOPE,
        "application": "desk",
        "number": number,
        "base": "smollm2-135m",
        "base_sha256": "b" * 64,
        "dataset": dataset.id,
        "dataset_hash": dataset.logical_hash,
        "replay_datasets": (),
        "parent": None if number == 1 else f"desk.v{number - 1}",
        "recipe": {"rank": 16, "steps": 100 * number, "seed": 0, "precision": "q8_0"},
        "identity": f"identity-{number}",
        "code": "0.1.0+abc",
        "adapter": ModelFile(f"v{number}.safetensors", "a" * 64, 10),
        "weights": weights,
        "losses": ((1, 0.9), (50, 0.6), (100, 0.5)),
        "seconds": 61.5,
        "environment": {"torch": "2.13"},
        "run": None,
        "created_at": START,
    }
    return ModelVersion(**(fields | changes))


def unknown(scope: Scope, name: str) -> None:
    raise NotFoundError(f"There is no {name}.", where=str(scope))
