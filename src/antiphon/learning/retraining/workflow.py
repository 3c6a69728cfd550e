"""Retraining: the durable workflow from new outcomes to a release that passed its gates.

pin → plan → datasets → examples → fine-tune → register and draft → serve → evaluate → gates → rollout if asked for.

Invariants:
- Nothing here touches the live pointer. A run that is refused, fails or dies leaves what is live as it is; only the
  last step, which is asked for, sends a validated release on its way.
- Every step can be done again: datasets and model files are named by content, a version by the identity of what it
  was trained from, and training goes on from its checkpoint. What must not happen twice (the version with its alias
  and its release; the rollout) is in one transaction with the step's record, or is looked for first.
"""

from __future__ import annotations

import asyncio
import shutil
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from antiphon.catalog.learning.datasets import Dataset, DatasetSpec
from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.durable.context import RunContext
from antiphon.learning.datasets.plan import pinned_prompt
from antiphon.learning.evaluation.texts import score_text
from antiphon.learning.retraining.candidates import (
    CandidateChoice,
    budget_seconds,
    declared_candidates,
    recipes,
    with_settings,
)
from antiphon.learning.retraining.examples import fine_tune_of
from antiphon.learning.retraining.plan import (
    ExamplesSummary,
    TrainArguments,
    TrainingInputs,
    TriedCandidate,
    converted,
    only_newer,
    plain,
    recipe,
)
from antiphon.learning.retraining.preference_trainer import PreferenceTrainer
from antiphon.learning.retraining.registration import LATEST, Registration
from antiphon.learning.retraining.steps import (
    CutOffError,
    RetrainingServices,
    clear,
    order_for,
    refusals,
    train_once,
    unchanged_base,
    write_examples,
)
from antiphon.learning.retraining.training_meters import sweep_meters
from antiphon.learning.retraining.validation import CandidateValidation
from antiphon.training.order import TrainingOrder
from antiphon.training.recipe import Arithmetic, require_libraries

WORKFLOW = "train"
"""The workflow's name in the registry."""

MOST_EVALUATIONS = 1_000
"""Evaluations of an application that are searched for one to measure forgetting on."""


SETS = ("training", "evaluation", "held-out")
"""Datasets of a training; the last one chooses among candidates, where there are several."""


class Retraining:
    """The workflow ``train``; :meth:`run` is registered."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Train, release as a draft, evaluate, and validate when the gates are passed.

        Args:
            arguments: :class:`~antiphon.learning.retraining.plan.TrainArguments` as plain values.

        Returns:
            The model version, the release and its stage, the datasets and evaluations, gates with their reasons, what
            was forgotten (of a delta retraining), and the rollout or why there is none.

        Raises:
            InvalidInputError: what is asked for or declared does not fit; a set is empty or has a single class.
            RetrainingError: memory, disk or a library is missing, a file is corrupt, the training diverged.
            UnavailableError, EngineError, OverloadedError, DeadlineExceededError: the engine stayed away.
        """
        request = converted(arguments, TrainArguments, "train arguments")
        if request.preferences:
            await run.step("sweep", self._sweep, run.scope, run.id)
            return await PreferenceTrainer(self._services).run(run, request)
        with refusals():
            pinned = converted(await run.step("pin", self._pin, run, request), TrainingInputs, "pin")
            training, evaluation, *chosen_by = await self._build(run, request, pinned)
            written = await self._write(run, pinned, training)
            arithmetic = await self._choose_arithmetic(run)
            tried = await self._fine_tune(run, pinned, written, arithmetic)
            sets = [training.id, *(one.id for one in chosen_by)]
            models = await run.transaction(
                "register versions", partial(Registration(self._services).versions, run, pinned, sets, tried)
            )
            held_out = chosen_by[0] if chosen_by else None
            registered = await CandidateChoice(self._services).run(run, request, pinned, held_out, tried, models)
            release = await asyncio.to_thread(self._services.releases.get, run.scope, registered["release"])
            if registered["stage"] in ("draft", "validated"):
                shown = await CandidateValidation(self._services).run(run, request, pinned, evaluation, release)
            else:
                shown = _known_release(release.bundle.model.name, registered["stage"])
            await clear(self._services, run)
        return {
            **registered,
            "parent": pinned.parent,
            "training_set": training.id,
            "examples": {
                "new": written.new,
                "replayed": written.old,
                "refused": written.refused,
                "canaries": written.canaries,
                "unwritten": written.unwritten,
                "erased": written.erased,
            },
            "seconds": sum(one.seconds for one in tried),
            "notices": [notice for one in tried if one.output is not None for notice in one.output.notices],
            **shown,
        }

    def inputs(self, scope: Scope, request: TrainArguments) -> TrainingInputs:
        """Returns the inputs of a training as they are declared and live now.

        Raises:
            NotFoundError: there is no such application.
            InvalidInputError: it does not say how it is fine-tuned, or there is no version that a delta could go on
                from.
            SetupError: the extra ``train`` is not installed, or the base model was not pulled.
            CorruptionError: the adapter that a delta goes on from is gone or is another one.
        """
        services = self._services
        if request.texts < 0:
            raise InvalidInputError(
                f"{request.texts} rows cannot be asked for.", where="texts", next_step="Give 0 or more."
            )
        require_libraries()
        application = services.application(scope, request.application)
        if any(shape.form == "reference" for shape in application.shapes):
            score_text("", "")  # Found missing before the training, not after it.
        tune = fine_tune_of(application)
        cutoff = request.cutoff or (_instant(tune.window.cutoff) if tune.window.cutoff is not None else None)
        parent = self._parent(scope, application) if request.delta else None
        pinned = TrainingInputs(
            application=application,
            cutoff=utc(cutoff) if cutoff is not None else services.clock.now(),
            base_sha256=services.base_weights(tune.base)[1],
            parent=None if parent is None else parent.id,
            before=None if parent is None else self._before(scope, parent),
            candidates=declared_candidates(tune, request),
        )
        if parent is not None:
            self._check_parent(scope, pinned, parent)
        return pinned

    def specifications(self, scope: Scope, request: TrainArguments, pinned: TrainingInputs) -> tuple[DatasetSpec, ...]:
        """Plans the training and the evaluation set, and of several candidates the set that chooses among them, with
        everything pinned that could change until they are built; raises ``InvalidInputError`` when nothing is held out
        to evaluate on or to choose by, or nothing is new since the version to go on from."""
        services, application, cutoff = self._services, pinned.application, pinned.cutoff
        tune = fine_tune_of(application)
        window = tune.window if pinned.parent is None else tune.delta_window or tune.window
        training = services.builder.plan(application, window, cutoff=cutoff, examples=request.examples)
        if pinned.parent is not None:
            parent = services.versions.get(scope, pinned.parent)
            training = only_newer(training, services.datasets.get(scope, parent.dataset).spec)
        held_out = services.builder.plan(application, window, kind="evaluation", cutoff=cutoff, examples=request.rows)
        if pinned.candidates is None:
            return training, held_out
        training, choosing = services.builder.split(training, pinned.candidates.held_out)
        return training, held_out, choosing

    def replays(self, scope: Scope, parent: str | None) -> tuple[Dataset, ...]:
        """Datasets of earlier examples: those that the version to go on from was trained on."""
        if parent is None:
            return ()
        return self._services.learned(scope, self._services.versions.get(scope, parent))

    def _pin(self, run: RunContext, request: TrainArguments) -> dict[str, Any]:
        """Fix it in the run's first step, so that a resumed run continues the same training."""
        self._sweep(run.scope, run.id)
        return plain(self.inputs(run.scope, request))

    def _parent(self, scope: Scope, application: ApplicationSpec) -> ModelVersion:
        """The version to go on from: the one that answers now, or the newest."""
        services, name = self._services, application.name
        live = services.releases.live(scope, name)
        if live is not None and live.bundle.model.version is not None:
            return _trained_here(services.versions.get(scope, live.bundle.model.version))
        latest = services.versions.aliased(scope, name, LATEST)
        if latest is None:
            raise InvalidInputError(
                "There is no version to go on from.",
                where=f"application {name}",
                next_step=f"Train once in full: `antiphon train {name}` (without --delta).",
            )
        return _trained_here(latest)

    def _before(self, scope: Scope, parent: ModelVersion) -> str | None:
        """The newest evaluation of a version on moments that nothing will have been trained on."""
        services = self._services
        cutoff = services.datasets.get(scope, parent.dataset).spec.cutoff
        for evaluation in services.evaluations.list(scope, parent.application, limit=MOST_EVALUATIONS):
            if evaluation.model == parent.id and services.datasets.get(scope, evaluation.dataset).spec.last <= cutoff:
                return evaluation.id
        return None

    def _check_parent(self, scope: Scope, pinned: TrainingInputs, parent: ModelVersion) -> None:
        application = pinned.application
        spec = self._services.datasets.get(scope, parent.dataset).spec
        same = {
            "the base model": parent.base_sha256 == pinned.base_sha256,
            "the features": spec.views == application.features,
            "the outcome": application.outcome is not None and spec.property == application.outcome.property,
            "the entity's keys": spec.entity_keys == application.entity_keys,
            # Where prompts are rendered from rows, earlier examples have the new one.
            "the prompt that is learned as it was served": spec.served == pinned_prompt(application),
        }
        differing = [name for name, equal in same.items() if not equal]
        if differing:
            raise InvalidInputError(
                f"Since {parent.id} was trained, {' and '.join(differing)} changed, so it cannot be gone on from.",
                where=f"application {application.name}",
                next_step=f"Train in full: `antiphon train {application.name}` (without --delta).",
            )
        self._services.model_files.verify(scope, parent.adapter, parent.id)

    async def _build(self, run: RunContext, request: TrainArguments, pinned: TrainingInputs) -> list[Dataset]:
        run.progress(0, None, "building the datasets")
        specs = await run.step("plan", self._plan, run.scope, request, pinned)
        found: list[Dataset] = []
        for kind in (one for one in SETS if one in specs):  # A record keeps no order of its names.
            spec = converted(specs[kind], DatasetSpec, "plan")
            dataset = await run.step(f"build {kind} set", lambda spec=spec: self._services.builder.build(spec).id)
            found.append(await asyncio.to_thread(self._services.datasets.get, run.scope, str(dataset)))
        return found

    def _plan(self, scope: Scope, request: TrainArguments, pinned: TrainingInputs) -> dict[str, Any]:
        specs = self.specifications(scope, request, pinned)
        return dict(zip(SETS, map(plain, specs), strict=False))

    async def _write(self, run: RunContext, pinned: TrainingInputs, training: Dataset) -> ExamplesSummary:
        run.progress(0, None, f"rendering {training.rows} examples")
        replays = await asyncio.to_thread(self.replays, run.scope, pinned.parent)
        base = fine_tune_of(pinned.application).base
        return await write_examples(self._services, run, pinned.application, base, training, replays)

    async def _choose_arithmetic(self, run: RunContext) -> Arithmetic:
        """Choose number format and device in a step of its own, so that a resumed run keeps what it began with."""
        run.progress(0, None, "measuring how quickly this machine trains")
        chosen = await run.step("choose arithmetic", lambda: plain(self._services.arithmetic()))
        return converted(chosen, Arithmetic, "choose arithmetic")

    async def _fine_tune(
        self, run: RunContext, pinned: TrainingInputs, written: ExamplesSummary, arithmetic: Arithmetic
    ) -> list[TriedCandidate]:
        """Trains every recipe, each in a step of its own, within what is left of the budget."""
        services, tried, every = self._services, list[TriedCandidate](), recipes(pinned.candidates)
        left = budget_seconds(pinned.candidates)
        for number, settings in enumerate(every, 1):
            single = len(every) == 1
            place = "training" if single else f"training-{number}"
            order = await asyncio.to_thread(self._order, run, pinned, written, arithmetic, settings, place)
            within = None if left is None else max(0.0, left) / (len(every) - number + 1)
            step = partial(self._fine_tune_one, run, pinned, order, settings, within, single=single)
            name = "fine-tune" if single else f"fine-tune {number}"
            tried.append(converted(await run.step(name, step), TriedCandidate, name))
            if left is not None:
                left -= tried[-1].seconds
            if not single:
                await services.checkpoints.forget(run)
                await asyncio.to_thread(shutil.rmtree, order.folder, True)
        return tried

    async def _fine_tune_one(
        self, run: RunContext, pinned: TrainingInputs, order: TrainingOrder, settings: dict[str, float],
        within: float | None, *, single: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Train and keep the files, or find that exactly this was trained before. Of several, one that is cut off or
        diverges is told and not raised."""
        try:
            output, known = await train_once(self._services, run, pinned.application.name, order, within)
        except CutOffError as cut:
            return plain(TriedCandidate(settings, cut.seconds, why=cut.what))
        except InvalidInputError as error:
            if single:
                raise
            return plain(TriedCandidate(settings, 0.0, why=error.what))
        return plain(TriedCandidate(settings, output.seconds if known is None or single else 0.0, output))

    def _order(
        self, run: RunContext, pinned: TrainingInputs, written: ExamplesSummary, arithmetic: Arithmetic,
        settings: dict[str, float], place: str,
    ) -> TrainingOrder:  # fmt: skip
        services, tune = self._services, with_settings(fine_tune_of(pinned.application), settings)
        parent = services.versions.get(run.scope, pinned.parent) if pinned.parent is not None else None
        if parent is not None and parent.candidates:  # Its shape was chosen, and not declared.
            tune = with_settings(tune, {name: parent.recipe[name] for name in ("rank", "alpha")})
        return order_for(
            services,
            self._working(run),
            f"{pinned.application.name} ({run.id})",
            base=unchanged_base(services, pinned.application.name, tune.base, pinned.base_sha256),
            examples_sha256=written.sha256,
            settings=recipe(
                tune,
                new=written.new + written.canaries,
                old=written.old,
                threads=services.threads,
                arithmetic=arithmetic,
            ),
            parent=parent,
            place=place,
        )

    def _working(self, run: RunContext) -> Path:
        return self._services.folder / run.id

    def _sweep(self, scope: Scope, present: str) -> None:
        """Remove what runs that have ended left behind."""
        self._services.checkpoints.sweep(scope, self._services.run_ended)
        sweep_meters(self._services.meters.readings, scope, self._services.run_ended)
        for folder in self._services.folder.glob("run_*"):
            if folder.name != present and self._services.run_ended(scope, folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def _trained_here(version: ModelVersion) -> ModelVersion:
    """A version whose examples are known; raises ``InvalidInputError`` for one that has no dataset."""
    if version.learned_until is not None:
        why = "was imported" if version.preferences is None else "learned preferences"
        raise InvalidInputError(
            f"{version.id} {why}, and what it learned from is not here to be replayed.",
            where=f"application {version.application}",
            next_step=f"Train in full: `antiphon train {version.application}` (without --delta).",
        )
    return version


def _known_release(model: str, stage: str) -> dict[str, Any]:
    """Result of a training whose release is past its gates already."""
    said = f"{model} was trained from exactly this before; its release is {stage}."
    return {"reasons": [said], "evaluation": None, "rollout": None, "no_rollout": said}


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(
            f"{text!r} is no instant.", where="model.window.cutoff", next_step="Write it like 2013-04-01T00:00:00Z."
        ) from None
