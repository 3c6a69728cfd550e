"""Steps shared by training a version and rebuilding it: dependencies, the file of examples, the child process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.learning.datasets import Dataset, Datasets
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.models import ModelVersion, ModelVersions
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.releases.rollouts import RolloutRecord, Rollouts
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import Clock
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.disk import FULL
from antiphon.core.errors import AntiphonError, CorruptionError, InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.durable.context import RunContext
from antiphon.engine.api.messages import EngineDescription, ModelDescription
from antiphon.features.lake.content import Lake
from antiphon.governance.audit.log import AuditLog
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.reader import read_rows
from antiphon.learning.evaluation.evaluator import ReleaseEvaluator
from antiphon.learning.evaluation.safety.canaries import canary_examples
from antiphon.learning.evaluation.validation import Validation
from antiphon.learning.registry.files import ModelFiles
from antiphon.learning.retraining.checkpoints import CheckpointStore, RunCheckpoints
from antiphon.learning.retraining.examples import fine_tune_of, render_all
from antiphon.learning.retraining.plan import (
    ExamplesSummary,
    TrainingOutput,
    converted,
    minutes,
    plain,
    replayed,
    together,
)
from antiphon.learning.retraining.preferences import PreferenceReader
from antiphon.learning.retraining.training_meters import TrainingMeter, TrainingMeters
from antiphon.training import examples as example_files
from antiphon.training.checkpoint import FOLDER, Checkpoints
from antiphon.training.folder_seal import folder_seal
from antiphon.training.order import ParentAdapter, TrainingOrder, TrainingProgress, TrainingResult
from antiphon.training.processes import TrainingUsage
from antiphon.training.recipe import Arithmetic, Recipe

EXAMPLES = "examples.jsonl"
"""The file of examples in a run's folder."""


RunTraining = Callable[
    [TrainingOrder, Callable[[TrainingProgress], None], Callable[[], bool], Callable[[TrainingUsage], None]],
    Awaitable[TrainingResult],
]
"""Runs an order, reports progress, asks whether to stop, and says what its processes used."""

OrderChecks = Callable[[Release, bool, str, str, Connection], str]
"""Orders the checks of a release in a transaction: whether its rollout begins when it passes, by whom, and why."""


class RetrainingError(AntiphonError):
    """The run cannot be finished by trying again; the live release is unchanged."""

    http_status = 422
    code = "retraining_failed"


class CutOffError(AntiphonError):
    """A training needed more than its part of a budget; ``seconds`` it had."""

    code = "training_cut_off"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what)
        self.seconds = seconds


@dataclass(frozen=True)
class RetrainingServices:
    """Dependencies of the retraining workflows.

    Attributes:
        folder: working folders of runs. ``model_files``: of model versions.
        threads: of a training. ``arithmetic``: measures the number format in which this machine trains fastest.
        policy_digest: of the policy in force.
        application: returns an application as it is applied.
        base_weights: path and SHA-256 of a base model; raises ``SetupError`` when it was not pulled.
        describe: the engine's description of itself.
        run_training: runs a training in a process of its own, reporting progress, until it is done or to stop.
        texts: where receipts keep prompts.
        serve: returns once the engine serves what a release pins; raises ``UnavailableError``.
        begin_rollout: begins the rollout of a validated release (``releases.rollout.RolloutTransitions.begin``).
        run_regressions: runs a release on the regression sets that its gates name, in an author's name.
        run_ended: tells whether a run has ended.
        preferences: what people preferred, as it is known now.
        order_checks: has a draft release held against its gates by a run of its own, and begins its rollout if asked
            for; returns that run.
        checkpoints: of trainings under way, for whichever host goes on with one. meters: of what they use.
        codec: seals the examples in a run's folder.
    """

    clock: Clock
    folder: Path
    model_files: ModelFiles
    threads: int
    arithmetic: Callable[[], Arithmetic]
    policy_digest: str
    application: Callable[[Scope, str], ApplicationSpec]
    builder: DatasetBuilder
    datasets: Datasets
    lake: Lake
    base_weights: Callable[[str], tuple[Path, str]]
    describe: Callable[[], Awaitable[EngineDescription]]
    run_training: RunTraining
    versions: ModelVersions
    releases: Releases
    texts: Blobs
    serve: Callable[[Release], Awaitable[None]]
    evaluations: Evaluations
    evaluator: ReleaseEvaluator
    validation: Validation
    rollouts: Rollouts
    begin_rollout: Callable[..., RolloutRecord]
    run_ended: Callable[[Scope, str], bool]
    run_regressions: Callable[[Release, str], Awaitable[None]]
    audit: AuditLog
    preferences: PreferenceReader
    order_checks: OrderChecks
    checkpoints: CheckpointStore
    meters: TrainingMeters
    codec: Codec = field(default_factory=PlainCodec)

    def learned(self, scope: Scope, version: ModelVersion) -> tuple[Dataset, ...]:
        """Returns the datasets that a version was trained on: its own, then those of earlier examples."""
        return tuple(self.datasets.get(scope, one) for one in (version.dataset, *version.replay_datasets))


async def describe_base(describe: Callable[[], Awaitable[EngineDescription]], base: str) -> ModelDescription:
    """The base model as the engine describes it: its chat template is that of every version made from it.

    Raises:
        UnavailableError: the engine cannot be reached, or does not serve it.
        InvalidInputError: the engine has a chat template of its own, so the prompts to train on are not known.
    """
    model = next((model for model in (await describe()).models if model.name == base), None)
    if model is None:
        raise UnavailableError(
            f"The engine does not serve the base model {base!r}, whose chat template the examples need.",
            where="engine",
            next_step="Add it to [engine] models in antiphon.toml and start `antiphon up` again.",
        )
    if not model.chat_template:
        raise InvalidInputError(
            f"The engine does not say how it writes a chat for {base!r}, so that cannot be trained for.",
            where="engine",
            next_step='Train where [engine] kind = "llamacpp".',
        )
    return model


def ensure_examples(
    services: RetrainingServices,
    folder: Path,
    application: ApplicationSpec,
    model: ModelDescription,
    training: Dataset,
    replays: Sequence[Dataset],
    known: ExamplesSummary | None = None,
) -> ExamplesSummary:
    """The file of examples in a run's folder: the dataset's rows, and those of earlier ones that are replayed.

    Args:
        known: what it was before; a file of that hash stays, and a missing one must come out the same.

    Raises:
        InvalidInputError: a template fails, or there is nothing, or one label or text only, to learn from.
        CorruptionError: a dataset's file is gone or damaged, or the examples come out otherwise than before.
    """
    path = folder / EXAMPLES
    seal = folder_seal(folder, services.codec, training.scope)
    if known is not None and example_files.content_sha256(path, seal) == known.sha256:
        return known
    tune, text_of = fine_tune_of(application), partial(services.texts.get, training.scope)
    new = render_all(read_rows(training, services.lake), application, model, text_of)
    earlier = [row for dataset in replays for row in read_rows(dataset, services.lake)] if tune.replay > 0 else []
    old = render_all(replayed(earlier, tune.seed, tune.examples), application, model, text_of, old=True)
    planted = canary_examples(tune.canaries, model, tune.text_weight)
    examples = together((*new.examples, *planted), old.examples)
    example_files.check(examples)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sha256 = example_files.write(path, examples, seal)
    fresh = len(new.examples)
    written = ExamplesSummary(
        sha256=sha256,
        new=fresh,
        old=len(examples) - fresh - len(planted),
        refused=new.refused + old.refused,
        canaries=len(planted),
        unwritten=new.unwritten + old.unwritten,
        erased=new.erased + old.erased,
    )
    if known is not None and written.sha256 != known.sha256:
        raise CorruptionError(
            "The examples came out otherwise than before the interruption.",
            where=training.id,
            next_step="Order the training again: the engine's base model changed, or a prompt was erased.",
        )
    return written


async def write_examples(
    services: RetrainingServices,
    run: RunContext,
    application: ApplicationSpec,
    base: str,
    training: Dataset,
    replays: Sequence[Dataset],
) -> ExamplesSummary:
    """Writes the file of examples into a run's folder, as a step; raises as :func:`describe_base` and
    :func:`ensure_examples`."""
    model = await describe_base(services.describe, base)
    write = partial(ensure_examples, services, services.folder / run.id, application, model, training, replays)
    written = converted(await run.step("write examples", write), ExamplesSummary, "write examples")
    # The folder may have been cleared between two attempts: what was recorded is looked at again, not trusted.
    return await asyncio.to_thread(write, written)


def order_for(
    services: RetrainingServices,
    folder: Path,
    name: str,
    *,
    base: tuple[Path, str],
    examples_sha256: str,
    settings: Recipe,
    parent: ModelVersion | None,
    place: str = "training",
) -> TrainingOrder:
    """Builds the order of a training process, in a folder within ``folder``; raises ``CorruptionError`` when the
    adapter that it goes on from is gone or is another one."""
    going_on = None
    if parent is not None:
        path = services.model_files.verify(parent.scope, parent.adapter, parent.id)
        going_on = ParentAdapter(str(path), parent.adapter.sha256)
    (folder / place).mkdir(parents=True, exist_ok=True, mode=0o700)
    return TrainingOrder(
        folder=str(folder / place),
        name=name,
        base_path=str(base[0]),
        base_sha256=base[1],
        examples_path=str(folder / EXAMPLES),
        examples_sha256=examples_sha256,
        recipe=settings,
        parent=going_on,
    )


async def train(
    services: RetrainingServices, order: TrainingOrder, run: RunContext, within: float | None = None
) -> TrainingResult:
    """Train in a child process, saying how far it is, from the latest checkpoint that any host has kept; a worker that
    stops gives the run back to the queue.

    Args:
        within: seconds of training, pauses left out, after which it is cut off.

    Raises:
        CutOffError: it was.
    """
    reached = TrainingProgress("loading", 0, order.recipe.steps)
    checkpoints = await asyncio.to_thread(run_checkpoints, services, order, run)
    meter = TrainingMeter(services.meters, run)
    await checkpoints.fetch()

    def report(progress: TrainingProgress) -> None:
        nonlocal reached
        reached = progress if progress.seconds else reached
        run.progress(progress.step, progress.steps, progress_text(progress))
        checkpoints.look()

    def stopping() -> bool:
        return run.stopping or (within is not None and reached.seconds > within and reached.step < reached.steps)

    try:
        training = services.run_training(order, report, stopping, meter.read)
        return await checkpoints.keep_while(meter.enter_while(training))
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if run.stopping or not stopping() or (current is not None and current.cancelling()):
            raise
        raise CutOffError(
            f"The training was cut off after {minutes(reached.seconds)}, at step {reached.step} of {reached.steps}",
            reached.seconds,
        ) from None


async def train_once(
    services: RetrainingServices, run: RunContext, application: str, order: TrainingOrder, within: float | None = None
) -> tuple[TrainingOutput, ModelVersion | None]:
    """Train and keep the files, or find the version that was trained from exactly this; raises as :func:`train`."""
    known = await asyncio.to_thread(_known_version, services, run.scope, application, order.identity)
    if known is not None:
        run.progress(1, 1, f"{known.id} was trained from exactly this")
        return msgspec.convert(known, TrainingOutput, from_attributes=True), known
    trained = await train(services, order, run, within)
    place = f"{application}/{trained.identity[:20]}"
    kept = await asyncio.to_thread(services.model_files.keep, run.scope, place, trained)
    stored = {"recipe": plain(order.recipe), **msgspec.structs.asdict(kept)}
    return TrainingOutput(**msgspec.structs.asdict(trained) | stored), None


def _known_version(services: RetrainingServices, scope: Scope, application: str, identity: str) -> ModelVersion | None:
    """The version that was trained from exactly these things, when its files are whole."""
    for version in services.versions.list(scope, application):
        if version.identity == identity:
            try:
                for file in (version.adapter, version.weights):
                    services.model_files.verify(scope, file, version.id)
            except CorruptionError:
                return None
            return version
    return None


def unchanged_base(services: RetrainingServices, application: str, base: str, sha256: str) -> tuple[Path, str]:
    """The base model's weights; raises ``CorruptionError`` when they changed since the run began."""
    path, found = services.base_weights(base)
    if found != sha256:
        raise CorruptionError(
            f"The weights of {base} changed since the run began.",
            where=str(path),
            next_step=f"Order the training again: `antiphon train {application}`.",
        )
    return path, found


def run_checkpoints(services: RetrainingServices, order: TrainingOrder, run: RunContext) -> RunCheckpoints:
    """The checkpoints of a run's training."""
    seal = folder_seal(Path(order.examples_path).parent, services.codec, run.scope)
    local = Checkpoints(Path(order.folder) / FOLDER, order.identity, lambda notice: None, seal)
    return RunCheckpoints(services.checkpoints, run, local, order.identity)


async def clear(services: RetrainingServices, run: RunContext) -> None:
    """Remove what a training that is done needs no more: its checkpoints, wherever they are, and its folder here."""
    await services.checkpoints.forget(run)
    await asyncio.to_thread(shutil.rmtree, services.folder / run.id, True)


def progress_text(progress: TrainingProgress) -> str:
    """Describes progress: ``training: loss 0.412, 3 min left``, and after a semicolon what else is to be known."""
    words = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    words += [f"{minutes(progress.left)} left"] if progress.left is not None else []
    said = f"{progress.stage}: {', '.join(words)}" if words else progress.stage
    return f"{said}; {progress.notice}" if progress.notice else said


@contextmanager
def refusals() -> Iterator[None]:
    """Turns errors that a retry would not mend into ``RetrainingError``, which ends the run."""
    try:
        yield
    except AntiphonError as error:
        if error.transient or error.http_status < 500:
            raise
        raise RetrainingError(error.what, where=error.where, next_step=error.next_step) from error
    except MemoryError as error:
        raise RetrainingError(
            "There is not enough memory.", where="training", next_step="Train on fewer examples, or free memory."
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RetrainingError(
            f"The disk is full: {error.strerror}.",
            where=str(error.filename or "disk"),
            next_step="Free disk space and order the training again.",
        ) from error
