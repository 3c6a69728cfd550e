"""A small desk that trains: everything is the product's own but the model, the child process and where rows come from.

:class:`PastFlights` stands for the dataset builder (its own tests are elsewhere): one flight an hour, the greater the
delay the likelier late. :class:`WritingTrainer` stands for the training process and writes files that follow from the
order alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
from tests.harness.small_desk import SCOPE, START
from tests.integration.learning.evaluated_desk import LEARNS, EvaluatedDesk

from antiphon.catalog.learning.annotations import Annotations
from antiphon.catalog.learning.datasets import Dataset, DatasetSpec
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune, Gates, MetricGate, Rollout, TrainingWindow
from antiphon.definitions.prompt import Prompt
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.governance.audit.log import AuditLog
from antiphon.learning.datasets import plan as dataset_plan
from antiphon.learning.datasets.rows import DatasetSurvey, RowPolicyDecision
from antiphon.learning.registry.files import ModelFiles
from antiphon.learning.retraining.checkpoints import CheckpointStore
from antiphon.learning.retraining.orders import TrainingOrders, TrainingRequest
from antiphon.learning.retraining.preferences import PreferenceReader
from antiphon.learning.retraining.rebuild import WORKFLOW as REBUILD
from antiphon.learning.retraining.rebuild import ModelRebuild
from antiphon.learning.retraining.steps import RetrainingServices
from antiphon.learning.retraining.training_meters import TrainingMeters
from antiphon.learning.retraining.workflow import WORKFLOW as TRAIN
from antiphon.learning.retraining.workflow import Retraining
from antiphon.releases.rollout import RolloutTransitions
from antiphon.services.workflows import POLICIES
from antiphon.testing.scripted_engine import MODEL
from antiphon.training.order import TrainedFile, TrainingOrder, TrainingProgress, TrainingResult
from antiphon.training.processes import TrainingUsage
from antiphon.training.recipe import Arithmetic, code_identity, libraries

TRAINS: ApplicationSpec = msgspec.structs.replace(
    LEARNS,
    fine_tune=FineTune(
        base="scripted",
        targets={"notice": "Delays average {{ features.congestion.delay }} minutes."},
        prompt=Prompt("delay {{ features.congestion.delay }} minutes at {{ entity.origin }}", system="Say."),
        window=TrainingWindow(history="60h", maturity="1s", embargo="30h"),
        examples=40,
        batch=8,
        replay=0.5,
    ),
    rollout=Rollout(canary=(50,), step_units=10),
    # Whole texts and safety suites are evaluation's own tests; here they would only take time.
    gates=Gates(
        rows=10,
        metrics={"brier": MetricGate(advantage=0.0, behind_live=0.02)},
        valid_share=None,
        false_share=None,
        injected_share=None,
        leaked_share=None,
        pii_share=None,
        toxic_share=None,
    ),
)
ORDER = TrainingRequest("desk", rows=20, texts=0)


class PastFlights:
    """Plans and builds datasets of flights, one an hour."""

    def __init__(self, desk: LearningDesk) -> None:
        self._desk = desk
        self.changed: str | None = None
        """What a rebuild is told to have changed."""
        self.label: Callable[[int], bool] = lambda hour: hour % 8 * 5 > 15 + (hour % 3 - 1) * 10
        self.built = 0

    def plan(self, application: ApplicationSpec, window: TrainingWindow | None = None, **wishes: Any) -> DatasetSpec:
        return dataset_plan.plan(application, window, now=self._desk.clock.now(), **wishes)

    def split(self, spec: DatasetSpec, share: float) -> tuple[DatasetSpec, DatasetSpec]:
        boundary = spec.last - (spec.last - spec.first) * share
        return msgspec.structs.replace(spec, last=boundary), msgspec.structs.replace(
            spec, first=boundary, kind="evaluation", examples=round(spec.examples * share)
        )

    def survey(self, spec: DatasetSpec) -> DatasetSurvey:
        chosen = self._chosen(spec)
        late = sum(self.label(hour) for hour, _ in chosen)
        return DatasetSurvey(spec, len(chosen), {"delayed": late, "on_time": len(chosen) - late}, {}, None, None)

    def build(self, spec: DatasetSpec) -> Dataset:
        self.built += 1
        chosen = self._chosen(spec)
        if not chosen:
            raise InvalidInputError("There is no example.", where="training set", next_step="Take a longer history.")
        return self._desk.datasets.add(self._dataset(spec, sorted(chosen)))

    def rebuild(self, dataset: str) -> Dataset:
        known = self._desk.datasets.get(SCOPE, dataset)
        if self.changed is not None:
            raise ConflictError(f"The dataset {dataset} does not come out the same: {self.changed} changed.")
        return self.build(known.spec)

    def _chosen(self, spec: DatasetSpec) -> list[tuple[int, datetime]]:
        moments = [START + timedelta(hours=hour) for hour in range(-200, 200)]
        inside = [(hour, moment) for hour, moment in enumerate(moments) if spec.first < moment <= spec.last]
        return sorted(inside, key=lambda one: content_hash([spec.seed, one[0]]))[: spec.examples]

    def _dataset(self, spec: DatasetSpec, chosen: list[tuple[int, datetime]]) -> Dataset:
        late = [self.label(hour) for hour, _ in chosen]
        columns: dict[str, Any] = {
            "example": [f"flight-{hour:04}" for hour, _ in chosen],
            "moment": [moment for _, moment in chosen],
            "flight": [f"B6 {hour}" for hour, _ in chosen],
            "origin": ["JFK" if hour % 2 else "LGA" for hour, _ in chosen],
            "congestion.delay": [float(hour % 8 * 5) for hour, _ in chosen],
            "congestion.delay.event_time": [moment for _, moment in chosen],
            "weather.wind": [float(hour % 4 * 5) for hour, _ in chosen],
            "weather.wind.event_time": [moment for _, moment in chosen],
            "label": ["delayed" if one else "on_time" for one in late],
            "label_at": [moment for _, moment in chosen],
        }
        with self._desk.lake.writing(SCOPE, ".parquet") as draft:
            pyarrow.parquet.write_table(pyarrow.table(columns), draft)
        path, sha256 = draft.path, draft.sha256
        return Dataset(
            id=f"data_{content_hash(spec)[:26]}", scope=SCOPE, spec=spec, sources=(), rows=len(chosen),
            labels={"delayed": sum(late)}, dropped={}, columns=tuple(columns), path=path, sha256=sha256,
            logical_hash=content_hash([late, [hour for hour, _ in chosen]]), created_at=START,
        )  # fmt: skip


class WritingTrainer:
    """Writes files that follow from the order alone, a step at a time.

    Attributes:
        before_step: called before each step; what it raises ends the training.
        waits_after: after so many steps it waits until it is to stop.
        seconds_of_step: of an order's training.
        salt: other weights from the same order, as a machine that computes otherwise would give.
    """

    def __init__(self) -> None:
        self.orders: list[TrainingOrder] = []
        self.steps: list[int] = []
        self.before_step: Callable[[int], None] = lambda step: None
        self.waits_after: int | None = None
        self.seconds_of_step: Callable[[TrainingOrder], float] = lambda order: 0.0
        self.salt = ""

    async def run(
        self,
        order: TrainingOrder,
        on_progress: Callable[[TrainingProgress], None],
        stopping: Callable[[], bool],
        on_usage: Callable[[TrainingUsage], None],
    ) -> TrainingResult:
        self.orders.append(order)
        folder = Path(order.folder)
        checkpoint = folder / "step"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(done, order.recipe.steps):
            self.before_step(step)
            await asyncio.sleep(0)
            self.steps.append(step)
            checkpoint.write_text(str(step + 1))
            seconds = self.seconds_of_step(order) * (step + 1)
            on_progress(
                TrainingProgress("training", step + 1, order.recipe.steps, 1 / (step + 1), seconds=seconds, left=3.0)
            )
            while step + 1 == self.waits_after and not stopping():
                await asyncio.sleep(0.001)
            if stopping():
                raise asyncio.CancelledError
        return TrainingResult(
            identity=order.identity,
            code=code_identity(),
            adapter=self._file(folder / "adapter.safetensors", order),
            weights=self._file(folder / "weights.gguf", order),
            losses=tuple((step, 1 / (step + 1)) for step in range(order.recipe.steps)),
            seconds=1.5,
            environment={**libraries(), "threads": "1"},
        )

    def _file(self, path: Path, order: TrainingOrder) -> TrainedFile:
        content = f"{path.name} of {order.identity}{self.salt}".encode()
        path.write_bytes(content)
        return TrainedFile(str(path), hashlib.sha256(content).hexdigest(), len(content))


class LearningDesk(EvaluatedDesk):
    """The desk with its training workflows."""

    def __init__(self, directory: Path, application: ApplicationSpec = TRAINS, **changes: Any) -> None:
        super().__init__(directory, application=application, **changes)
        self.application = application
        self.versions = ModelVersions(self.database)
        self.rollouts = Rollouts(self.database)
        self.flights = PastFlights(self)
        self.trainer = WritingTrainer()
        self.arithmetic = Arithmetic()
        self.serving_fails: Exception | None = None
        self.outcomes, self.annotations = Outcomes(self.database), Annotations(self.database)
        self.withheld: RowPolicyDecision = lambda scope, name, keys, rows: ("", [None] * len(rows))
        self.ordered_checks: list[tuple[str, bool, str, str]] = []
        self.audit = AuditLog(self.database, b"s" * 32)
        self.transitions = RolloutTransitions(
            self.database,
            self.releases,
            self.rollouts,
            audit=self.audit,
            feature_exists=lambda scope, view, version: (view, version) in self.views,
        )
        self.retraining = RetrainingServices(
            clock=self.clock,
            folder=directory / "training",
            model_files=ModelFiles(directory / "models"),
            threads=1,
            arithmetic=lambda: self.arithmetic,
            policy_digest=self.decider.digest,
            application=self._declared,
            builder=self.flights,  # type: ignore[arg-type]
            datasets=self.datasets,
            lake=self.lake,
            base_weights=lambda name: (directory / "base.gguf", "b" * 64),
            describe=self.engine.describe,
            run_training=self.trainer.run,
            versions=self.versions,
            releases=self.releases,
            texts=self.blobs,
            serve=self._serve,
            evaluations=self.evaluations,
            evaluator=self.evaluator,
            validation=self.validation,
            rollouts=self.rollouts,
            begin_rollout=self.transitions.begin,
            run_ended=lambda scope, run: self.runs.get(scope, run).status in ENDED,
            run_regressions=self._run_regressions,
            audit=self.audit,
            preferences=PreferenceReader(
                SCOPE,
                outcomes=self.outcomes,
                annotations=self.annotations,
                receipts=self.receipts,
                texts=self.blobs,
                releases=self.releases,
                withheld=lambda *asked: self.withheld(*asked),
            ),
            order_checks=self._order_checks,
            checkpoints=CheckpointStore(TrainingCheckpoints(self.database), self.lake, self.clock),
            meters=TrainingMeters(self.database),
        )
        self.orders = TrainingOrders(self.retraining, self.runs)

    def _order_checks(self, release: Release, rollout: bool, principal: str, reason: str, connection: Any) -> str:
        self.ordered_checks.append((release.id, rollout, principal, reason))
        return "run_checks"

    async def _run_regressions(self, release: Release, author: str) -> None:
        """Nothing: its applications name no regression sets."""

    async def train(self, order: TrainingRequest = ORDER, **changes: Any) -> Run:
        """Order a training and work until it has ended."""
        return await self.work(self.orders.place(SCOPE, "me", msgspec.structs.replace(order, **changes)))

    async def work(self, run: str, until: Callable[[Run], bool] = lambda run: run.status in ENDED) -> Run:
        """Work until the run is as wished, for at most 90 s; then the worker stops."""
        registry = WorkflowRegistry()
        registry.add(TRAIN, Retraining(self.retraining).run, POLICIES[TRAIN])
        registry.add(REBUILD, ModelRebuild(self.retraining).run, POLICIES[REBUILD])
        stop = asyncio.Event()
        executor = Executor(
            self.database,
            registry,
            "worker",
            SCOPE,
            clock=self.clock,
            poll=0.005,
            backoff=timedelta(0),
            grace=5.0,
        )
        working = asyncio.create_task(executor.run_until(stop))
        try:
            async with asyncio.timeout(90):
                while not until(self.runs.get(SCOPE, run)):
                    await asyncio.sleep(0.005)
        finally:
            stop.set()
            await working
        return self.runs.get(SCOPE, run)

    def live(self) -> Release:
        release = self.releases.live(SCOPE, "desk")
        assert release is not None
        return release

    def _declared(self, scope: Any, name: str) -> ApplicationSpec:
        if name != self.application.name:
            raise NotFoundError(f"There is no application {name!r}.", where="application")
        return self.application

    async def _serve(self, release: Release) -> None:
        if self.serving_fails is not None:
            raise self.serving_fails
        name = release.bundle.model.served_name(release.scope.tenant)
        if name not in {model.name for model in self.engine.models}:
            self.engine.models = (*self.engine.models, msgspec.structs.replace(MODEL, name=name))
