"""Learning what people preferred: from thumbs and corrections to a draft release that waits for its gates.

pin → gather and write → fine-tune → register and draft → order its gates, which go on from there.

Invariants: as of ``workflow``. The preferences are read once: what is judged while it trains is for the next time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.learning.models import LearnedPreferences, ModelVersion
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.learning import FineTune, Preferences
from antiphon.durable.context import RunContext
from antiphon.engine.api.messages import ModelDescription
from antiphon.learning.datasets.plan import declared_cutoff, window_bounds
from antiphon.learning.retraining import preferences
from antiphon.learning.retraining.examples import declared_tuning
from antiphon.learning.retraining.plan import (
    JudgedWindow,
    TrainArguments,
    TrainingInputs,
    TriedCandidate,
    converted,
    plain,
)
from antiphon.learning.retraining.preferences import GatheredPreferences
from antiphon.learning.retraining.registration import Registration
from antiphon.learning.retraining.steps import (
    EXAMPLES,
    RetrainingServices,
    clear,
    describe_base,
    order_for,
    refusals,
    train_once,
    unchanged_base,
)
from antiphon.training import examples as example_files
from antiphon.training.folder_seal import folder_seal
from antiphon.training.recipe import PREFERENCES, Arithmetic, Recipe, require_libraries


class PreferencePreview(msgspec.Struct, frozen=True):
    """The preview of an order: its preferences and the steps of training; ``problems`` say what would be refused."""

    application: str
    parent: str | None
    judged_from: datetime
    judged_until: datetime
    preferences: LearnedPreferences
    steps: int
    batch: int
    problems: tuple[str, ...]


class PreferenceTrainer:
    """A training that learns preferences."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    async def run(self, run: RunContext, request: TrainArguments) -> dict[str, Any]:
        """Train, release as a draft, and order its gates.

        Returns:
            The model version, the release and its stage, counts of what was learned, and the run of its gates.

        Raises:
            InvalidInputError: nothing is there to learn from, or what is declared does not fit.
            RetrainingError: as ``workflow.Retraining.run``.
            UnavailableError: the engine, whose chat template the texts need, is away.
        """
        services = self._services
        with refusals():
            pinned = converted(
                await run.step("pin", lambda: plain(self.inputs(run.scope, request))), TrainingInputs, "pin"
            )
            describe = partial(describe_base, services.describe, declared_tuning(pinned.application).base)

            async def written() -> dict[str, Any]:
                return plain(await self._write(run, request, pinned, await describe()))

            recorded = await run.step("write preferences", written)
            learned = converted(recorded, LearnedPreferences, "write preferences")
            run.progress(0, None, "measuring how quickly this machine trains")
            arithmetic = converted(
                await run.step("choose arithmetic", lambda: plain(services.arithmetic())), Arithmetic, "arithmetic"
            )

            async def fine_tune() -> dict[str, Any]:
                await self._ensure_written(run, learned, written)
                return await self._fine_tune(run, pinned, learned, arithmetic)

            tried = converted(await run.step("fine-tune", fine_tune), TriedCandidate, "fine-tune")
            registration = Registration(services)
            versions = partial(registration.versions, run, pinned, (), (tried,), preferences=learned)
            (model,) = await run.transaction("register versions", lambda connection: versions(connection=connection))
            go_on = partial(registration.go_on, run, request, pinned, str(model), {})
            registered: dict[str, Any] = await run.transaction("register", go_on)
            checks = None
            if registered["stage"] in ("draft", "validated"):
                checks = await run.transaction("order checks", partial(self._order_checks, run, request, registered))
            await clear(services, run)
        output = tried.output
        assert output is not None  # train_once
        return {
            **registered,
            "parent": pinned.parent,
            "preferences": msgspec.to_builtins(learned),
            "seconds": output.seconds,
            "notices": list(output.notices),
            "checks": checks,
        }

    def inputs(self, scope: Scope, request: TrainArguments) -> TrainingInputs:
        """Pins an order: the application, the version to go on from, and the window of predictions.

        Raises:
            NotFoundError: there is no such application.
            InvalidInputError: it is not fine-tuned, other options do not go with preferences, or the live version is of
                another base model.
            SetupError: the extra ``train`` is not installed, or the base model was not pulled.
            CorruptionError: the live version's adapter is gone or is another one.
        """
        services = self._services
        if request.delta or request.candidates or request.budget:
            raise InvalidInputError(
                "Preferences are learned by one recipe, and always going on from the live version.",
                where="preferences",
                next_step="Leave --delta, --candidates and --budget out.",
            )
        require_libraries()
        application = services.application(scope, request.application)
        tune = declared_tuning(application)
        now = services.clock.now()
        cutoff = utc(request.cutoff) if request.cutoff is not None else declared_cutoff(tune.window, now)
        window = tune.window
        if application.outcome is None:  # Nothing is held out to be evaluated on.
            window = msgspec.structs.replace(window, embargo=None)
        first, last = window_bounds(window, "training", cutoff)
        assert first is not None, "a training window has bounds"
        assert last is not None
        sha256 = services.base_weights(tune.base)[1]
        parent = self._parent(scope, application.name, sha256)
        if parent is not None and parent.preferences is not None and parent.learned_until is not None:
            first = max(first, parent.learned_until)  # It has learned what was before.
        return TrainingInputs(
            application=application,
            cutoff=cutoff,
            base_sha256=sha256,
            parent=None if parent is None else parent.id,
            judged=JudgedWindow(first, last, known_until=cutoff, said_until=now),
            learned_until=max(last, self._known_until(scope, parent) or last),
        )

    def preview(self, scope: Scope, request: TrainArguments) -> PreferencePreview:
        """Previews an order; nothing is written. Raises as :meth:`inputs`."""
        pinned = self.inputs(scope, request)
        found = self._gathered(request, pinned).counted()
        assert pinned.judged is not None  # inputs
        recipe = _recipe(declared_tuning(pinned.application), found, self._services.threads, Arithmetic(), None)
        problems = () if found.count else ("Nobody has said anything of a prediction that could be learned from.",)
        return PreferencePreview(
            application=request.application,
            parent=pinned.parent,
            judged_from=pinned.judged.first,
            judged_until=pinned.judged.last,
            preferences=found,
            steps=recipe.steps if found.count else 0,
            batch=recipe.batch,
            problems=problems,
        )

    def _parent(self, scope: Scope, application: str, base_sha256: str) -> ModelVersion | None:
        """The version that answers now; ``None`` where that is the base model."""
        live = self._services.releases.live(scope, application)
        if live is None or live.bundle.model.version is None:
            return None
        parent = self._services.versions.get(scope, live.bundle.model.version)
        if parent.base_sha256 != base_sha256:
            raise InvalidInputError(
                f"{parent.id}, which answers now, is of another base model than is declared.",
                where=f"application {application}",
                next_step="Apply the definitions, so that the declared base answers, or declare the base it has.",
            )
        self._services.model_files.verify(scope, parent.adapter, parent.id)
        return parent

    def _known_until(self, scope: Scope, parent: ModelVersion | None) -> datetime | None:
        """The moment up to which the version to go on from has learned."""
        if parent is None or parent.learned_until is not None:
            return None if parent is None else parent.learned_until
        return self._services.datasets.get(scope, parent.dataset).spec.last

    def _gathered(self, request: TrainArguments, pinned: TrainingInputs) -> GatheredPreferences:
        assert pinned.judged is not None  # inputs
        most = request.examples or _settings(declared_tuning(pinned.application)).examples
        return self._services.preferences.gather(pinned.application, pinned.judged, most)

    async def _write(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, model: ModelDescription
    ) -> LearnedPreferences:
        """The file of preferences in the run's folder."""
        services, folder = self._services, self._services.folder / run.id
        run.progress(0, None, "reading what people preferred")

        def write() -> LearnedPreferences:
            seal = folder_seal(folder, services.codec, run.scope)
            return preferences.write(
                folder / EXAMPLES, self._gathered(request, pinned), pinned.application, model, seal
            )

        return await asyncio.to_thread(write)

    async def _ensure_written(
        self, run: RunContext, learned: LearnedPreferences, write: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        """Another host goes on, or the folder was cleared: the same is gathered again, if people still say it."""
        folder = self._services.folder / run.id
        seal = folder_seal(folder, self._services.codec, run.scope)
        if await asyncio.to_thread(example_files.content_sha256, folder / EXAMPLES, seal) == learned.sha256:
            return
        if (await write())["sha256"] != learned.sha256:
            raise InvalidInputError(
                "People have changed what they said since the run began, and the file of it is gone.",
                where=run.id,
                next_step="Order it again.",
            )

    async def _fine_tune(
        self, run: RunContext, pinned: TrainingInputs, learned: LearnedPreferences, arithmetic: Arithmetic
    ) -> dict[str, Any]:
        services, application = self._services, pinned.application
        tune = declared_tuning(application)
        parent = None
        if pinned.parent is not None:
            parent = await asyncio.to_thread(services.versions.get, run.scope, pinned.parent)
        order = await asyncio.to_thread(
            partial(
                order_for, services, services.folder / run.id, f"{application.name} ({run.id})",
                base=unchanged_base(services, application.name, tune.base, pinned.base_sha256),
                examples_sha256=learned.sha256,
                settings=_recipe(tune, learned, services.threads, arithmetic, parent), parent=parent,
            )
        )  # fmt: skip
        output, _ = await train_once(services, run, application.name, order)
        return plain(TriedCandidate({}, output.seconds, output))

    def _order_checks(
        self, run: RunContext, request: TrainArguments, registered: dict[str, Any], connection: Any
    ) -> str:
        release = self._services.releases.get(run.scope, registered["release"], within=connection)
        why = request.reason or f"trained by {run.id}"
        return self._services.order_checks(release, request.rollout, request.principal, why, connection)


def _settings(tune: FineTune) -> Preferences:
    return tune.preferences or Preferences()


def _recipe(
    tune: FineTune, learned: LearnedPreferences, threads: int, arithmetic: Arithmetic, parent: ModelVersion | None
) -> Recipe:
    settings = _settings(tune)
    batch = max(1, min(settings.batch, learned.count))
    shape = parent.recipe if parent is not None else {"rank": tune.rank, "alpha": tune.alpha}
    return Recipe(
        rank=shape["rank"],
        alpha=shape["alpha"],
        batch=batch,
        steps=max(1, math.ceil(learned.count * settings.epochs / batch)),
        learning_rate=settings.learning_rate,
        precision=tune.precision,
        seed=tune.seed,
        threads=threads,
        dtype=arithmetic.dtype,
        device=arithmetic.device,
        method=PREFERENCES,
        beta=settings.beta,
    )
