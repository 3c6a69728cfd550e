"""Learning, wired for one project: datasets, training, evaluation, registry, releases and rollouts."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.safety import SafetyReport
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
from antiphon.catalog.releases.releases import ModelPin, Release
from antiphon.core.clock import Clock, parse_duration
from antiphon.core.errors import InvalidInputError, NotFoundError, UnavailableError
from antiphon.core.paths import cache_directory
from antiphon.core.scope import Scope
from antiphon.definitions.granted import model_owner
from antiphon.durable.executor import WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.engine import weights
from antiphon.engine.api.port import Engine, GenerationEngine
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.reader import DatasetRow, read_rows
from antiphon.learning.evaluation.asking import EvaluatedReleases, Progress
from antiphon.learning.evaluation.validation import Validation, ValidationResult
from antiphon.learning.registry.files import ModelFiles
from antiphon.learning.retraining.checkpoints import CheckpointStore
from antiphon.learning.retraining.orders import TrainingOrders
from antiphon.learning.retraining.rebuild import WORKFLOW as REBUILD
from antiphon.learning.retraining.rebuild import ModelRebuild
from antiphon.learning.retraining.steps import RetrainingServices, RunTraining
from antiphon.learning.retraining.training_meters import TrainingMeters
from antiphon.learning.retraining.workflow import WORKFLOW as TRAIN
from antiphon.learning.retraining.workflow import Retraining
from antiphon.operations.processes import ProcessRecord, boot, started_ticks, statuses, write_record
from antiphon.services.answering import serving_services
from antiphon.services.engines.remote_models import remote_version
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.granted import not_granted
from antiphon.services.governance.policies import may_train, unattended
from antiphon.services.learning.evaluators import ProjectEvaluators
from antiphon.services.learning.gate_orders import order_checks
from antiphon.services.learning.outcomes import dataset_builder, declared_applications, preference_reader
from antiphon.services.learning.prompt_trials import run_gated_sets
from antiphon.services.learning.regressions import failed_regressions
from antiphon.services.learning.safety import honest_requests, plain_release
from antiphon.services.learning.served_models import ServedModels
from antiphon.services.learning.wanted_models import want
from antiphon.services.learning.workbench_orders import WorkbenchWorkflows
from antiphon.services.project.store import Store
from antiphon.services.rollouts import feature_exists, rollout_transitions
from antiphon.services.workflows import POLICIES
from antiphon.serving.services import Services
from antiphon.training.arithmetic import choose, speeds_of_this_machine
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import Arithmetic

LONGEST_LOAD_SECONDS, LOAD_LOOK_SECONDS = 60.0, 0.5
"""For which a command waits until an engine has loaded a model, and between two looks."""

MOST_THREADS = 8
"""More threads make a small model's steps no shorter."""


async def _refuse_training(order: Any, on_progress: Any, stopping: Any, on_usage: Any) -> Any:
    raise UnavailableError("Only the worker trains.", where="training", next_step="Start `antiphon up`.")


@dataclass(frozen=True)
class LearningPlatform:
    """Learning of one project. Everything is made on first use, so that a command pays for what it needs.

    Attributes:
        engine, commit, features: of the process.
        run_training: runs a training in a process of its own; without it trainings are refused.
        served: has the engine load what is evaluated; without one a worker is waited for that does.
        standbys: other engines by name, which judges may be.
    """

    store: Store
    engine: Engine
    commit: GroupCommit
    features: FeaturePlatform
    _: KW_ONLY
    run_training: RunTraining = _refuse_training
    served: ServedModels | None = None
    standbys: Mapping[str, GenerationEngine] = field(default_factory=dict)

    @cached_property
    def builder(self) -> DatasetBuilder:
        return dataset_builder(self.store)

    @cached_property
    def evaluators(self) -> ProjectEvaluators:
        return ProjectEvaluators(self.store, self.engine, self.commit, self.features, self.standbys)

    async def safety(
        self, scope: Scope, release: str, *, entity: Mapping[str, str] | None = None, question: str | None = None,
        probes: int | None = None, progress: Progress | None = None,
    ) -> SafetyReport:  # fmt: skip
        """Evaluate a release without an evaluation set; see ``SafetyEvaluator.evaluate``.

        Args:
            release: its id, or the name of a plain model that the engine serves.
            entity, question: of the honest request; by default those of its latest predictions.

        Raises:
            NotFoundError: there is no such release and no such model.
            InvalidInputError: no honest request is known, or none was answered.
            UnavailableError: the engine does not serve its model.
        """
        store = self.store
        if release.startswith("rel_"):
            candidate = await asyncio.to_thread(store.releases.get, scope, release)
            await asyncio.to_thread(self.validation.require_whole, candidate)
            await self.serve(candidate)
        else:
            candidate = await plain_release(store, self.engine, scope, release)
        reader = self.features.reader(scope)
        requests = await asyncio.to_thread(honest_requests, store, candidate, reader, entity, question)
        return await self.evaluators.on_requests.evaluate(candidate, requests, reader, most=probes, progress=progress)

    @cached_property
    def validation(self) -> Validation:
        store = self.store
        return Validation(
            transaction=store.database.transaction,
            releases=store.releases,
            evaluations=store.evaluations,
            datasets=store.datasets,
            models=store.models,
            feature_exists=feature_exists(store),
            model_files=self.model_files,
            weights_of=self._weights_of,
            remote_version=partial(remote_version, store),
            regressions=partial(failed_regressions, store),
        )

    @cached_property
    def model_files(self) -> ModelFiles:
        """Files of model versions; the lake holds them too where it is an object store, for other hosts."""
        return ModelFiles(self.store.paths.models, self.features.shared_lake)

    @cached_property
    def services(self) -> RetrainingServices:
        """Dependencies of the training workflows."""
        store = self.store
        return RetrainingServices(
            clock=store.database.clock,
            folder=store.paths.directory / "training",
            model_files=self.model_files,
            threads=self._threads,
            arithmetic=self._arithmetic,
            policy_digest=store.decider.digest,
            application=declared_applications(store),
            builder=self.builder,
            datasets=store.datasets,
            lake=self.features.lake,
            base_weights=self._base,
            describe=self.engine.describe,
            run_training=self.run_training,
            versions=store.models,
            releases=store.releases,
            texts=store.blobs,
            serve=self.serve,
            evaluations=store.evaluations,
            evaluator=self.evaluators.on_datasets,
            validation=self.validation,
            rollouts=store.rollouts,
            begin_rollout=unattended(store, rollout_transitions(store)),
            run_ended=self._ended,
            audit=store.audit,
            run_regressions=self.run_regressions,
            preferences=preference_reader(store),
            order_checks=partial(order_checks, store),
            checkpoints=CheckpointStore(TrainingCheckpoints(store.database), self.features.lake, store.database.clock),
            meters=TrainingMeters(store.database),
            codec=store.database.codec,
        )

    @cached_property
    def orders(self) -> TrainingOrders:
        return TrainingOrders(self.services, self.store.runs, may_train(self.store))

    def register(self, registry: WorkflowRegistry) -> None:
        """Let a worker run trainings."""
        registry.add(TRAIN, Retraining(self.services).run, POLICIES[TRAIN])
        registry.add(REBUILD, ModelRebuild(self.services).run, POLICIES[REBUILD])
        WorkbenchWorkflows(self.store, self.recorded, self.evaluators.scorer, self.serve).register(registry)

    def rows(self, dataset: Dataset) -> tuple[DatasetRow, ...]:
        """Returns a dataset's rows; raises ``CorruptionError`` when its file is gone or changed."""
        return read_rows(dataset, self.features.lake)

    async def serve(self, release: Release) -> None:
        """Have the engine serve what the release pins for as long as the present task lives, and return once it does.

        Raises:
            UnavailableError: it does not within :data:`LONGEST_LOAD_SECONDS`. What :meth:`ServedModels.require` raises.
        """
        pin = release.bundle.model
        name = pin.served_name(release.scope.tenant)
        if pin.version is not None:
            await want(self.store.database, release.scope, pin.version)
        if self.served is not None and model_owner(name) is not None:
            await self.served.require(name)
            return
        deadline = time.monotonic() + LONGEST_LOAD_SECONDS
        while name not in {model.name for model in (await self.engine.describe()).models}:
            if pin.version is None or time.monotonic() > deadline:
                raise UnavailableError(
                    f"The engine does not serve {name}.",
                    where="engine",
                    next_step="A worker has it loaded: start `antiphon up`, or see why in the log of its worker.",
                )
            await asyncio.sleep(LOAD_LOOK_SECONDS)

    async def validate(
        self, scope: Scope, release: str, *, principal: str, rows: int, texts: int,
        progress: Callable[[int, int, str], None], probes: int | None = None,
    ) -> ValidationResult:  # fmt: skip
        """Evaluate a release on the moments its training window holds out, and hold it against its gates; ``probes``:
        of each half of a safety suite at most so many.

        Raises:
            NotFoundError, InvalidInputError, CorruptionError: see ``Validation.validate``.
            UnavailableError: the engine does not serve its model.
        """
        candidate = self.store.releases.get(scope, release)
        self.validation.require_whole(candidate)
        await self.serve(candidate)
        dataset = await asyncio.to_thread(self.held_out, scope, candidate, rows)
        live = self.store.releases.live(scope, candidate.bundle.application.name)
        evaluation = await self.evaluators.on_datasets.evaluate(
            candidate, dataset, mode="classes", limit=rows, whole=texts, with_safety=texts > 0, progress=progress,
            probes=probes, against=live.id if live is not None and live.id != release else None,
        )  # fmt: skip
        return await asyncio.to_thread(lambda: self.validation.validate(candidate, evaluation, principal=principal))

    async def run_regressions(self, release: Release, author: str, progress: Progress | None = None) -> None:
        """Run a release on the regression sets that its gates name; raises as ``RegressionRunner.run``."""
        await run_gated_sets(self.store, self.recorded, self.evaluators.scorer, self.serve, release, author, progress)

    def recorded(self, releases: EvaluatedReleases) -> Services:
        """The services behind answers to recorded requests: those of serving, over some releases."""
        return serving_services(self.store, self.engine, self.commit, releases, self.features)

    def held_out(self, scope: Scope, release: Release, rows: int, cutoff: datetime | None = None) -> Dataset:
        """The evaluation set of moments that its version was not trained on, or of those before ``cutoff`` (or now).

        It has twice as many rows, where there are as many: of those that the release has seen others take the place.
        """
        application, version = release.bundle.application, release.bundle.model.version
        window = None
        if version is not None:
            trained = self.store.models.get(scope, version)
            tune = application.fine_tune
            if trained.learned_until is None:
                window = tune.delta_window if tune is not None and trained.parent is not None else None
                cutoff = cutoff or self.store.datasets.get(scope, trained.dataset).spec.cutoff
            elif tune is not None and tune.window.embargo is not None:
                cutoff = cutoff or trained.learned_until + parse_duration(tune.window.embargo)
        spec = self.builder.plan(application, window, kind="evaluation", cutoff=cutoff, examples=2 * rows)
        return self.builder.build(spec)

    @property
    def _threads(self) -> int:
        return self.store.settings.engine.threads or min(os.cpu_count() or 1, MOST_THREADS)

    def _arithmetic(self) -> Arithmetic:
        speeds = speeds_of_this_machine(self._threads, cache_directory())
        return choose(speeds, self.store.settings.worker.training_dtype)

    def _base(self, name: str) -> tuple[Path, str]:
        if self.store.settings.engine.kind == "remote":
            raise InvalidInputError(
                "A remote engine cannot be given a model that was trained here.",
                where="antiphon.toml, [engine] kind",
                next_step='Train where kind = "llamacpp".',
            )
        found = weights.resolve(name)
        return found.path, found.sha256

    def _weights_of(self, scope: Scope, pin: ModelPin) -> Path | None:
        if self.store.granted.is_model(scope, pin.name):
            granted = self.store.granted.model(scope, pin.name)
            if granted is None:
                raise not_granted(pin.name, str(scope))
            return self.model_files.locate(granted.version.scope, granted.version.weights)
        return None if pin.weights_sha256 is None else weights.resolve(pin.name).path

    def _ended(self, scope: Scope, run: str) -> bool:
        try:
            return self.store.runs.get(scope, run).status in ENDED
        except NotFoundError:
            return True


_LOOK_SECONDS = 10.0
_PREFIX = "training"


class TrainingRecords:
    """Keeps ``run/training-NAME.pid`` for each training process of this worker, so that it is shown, and ended when the
    worker could not."""

    def __init__(self, training: TrainingProcesses, run: Path, clock: Clock) -> None:
        self._training = training
        self._run = run
        self._clock = clock
        self._known: dict[str, ProcessRecord] = {}
        self._changed = Wakeup()
        training.listen(self._changed.wake)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Write and remove records until ``stop``."""
        # Of an earlier worker, with which its trainings ended; those of another worker that runs are its own.
        for one in statuses(self._run):
            if one.name.startswith(f"{_PREFIX}-") and not one.alive:
                (self._run / f"{one.name}.pid").unlink(missing_ok=True)
        while not stop.is_set():
            self.look()
            await self._changed.wait_until(stop, _LOOK_SECONDS)
        self._forget({})

    def look(self) -> None:
        """Bring the records up to date with what runs."""
        running = {_name(one.name): one.pid for one in self._training.running}
        self._forget(running)
        for name, pid in running.items():
            known = self._known.get(name)
            if known is not None and known.pid == pid:
                continue
            restarts = 0 if known is None else known.restarts + 1
            ticks, folder = started_ticks(pid) or 0, str(self._run.resolve())
            record = ProcessRecord(name, pid, ticks, self._clock.now(), restarts, boot(), folder)
            write_record(self._run, record)
            self._known[name] = record

    def _forget(self, running: dict[str, int]) -> None:
        for name in [name for name in self._known if name not in running]:
            del self._known[name]
            (self._run / f"{name}.pid").unlink(missing_ok=True)


def _name(training: str) -> str:
    return f"{_PREFIX}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', training)}"
