"""Orders trainings: everything that can be refused at once is refused before a run is made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import needed_rows
from antiphon.durable.runs import Runs
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.rows import DatasetSurvey
from antiphon.learning.retraining.candidates import recipes
from antiphon.learning.retraining.examples import fine_tune_of
from antiphon.learning.retraining.plan import TrainArguments, TrainingInputs, plain, recipe
from antiphon.learning.retraining.preference_trainer import PreferencePreview, PreferenceTrainer
from antiphon.learning.retraining.rebuild import WORKFLOW as REBUILD
from antiphon.learning.retraining.rebuild import RebuildArguments
from antiphon.learning.retraining.steps import RetrainingServices
from antiphon.learning.retraining.workflow import WORKFLOW as TRAIN
from antiphon.learning.retraining.workflow import Retraining
from antiphon.training.recipe import Arithmetic, require_libraries

NO_PREFERENCES = (
    "Thumbs and corrections from users, `antiphon prompts annotate` and blind comparisons say what is preferred; "
    "`antiphon train APPLICATION --preferences --dry-run` says why what there is was left out."
)

MORE_ROWS = (
    "Train without a rollout, evaluate more rows, or wait for more outcomes; a longer embargo holds out more, and "
    "Gates(rows=…) asks for fewer."
)

TrainingPermission = Callable[[Scope, str, ApplicationSpec, Principal | None], None]
"""Policy about training an application for its purpose: scope, principal, application, orderer.

Raises ``ForbiddenError``. Without an orderer only rules about everyone are checked.
"""


Count = Annotated[int, msgspec.Meta(ge=1)]


class TrainingRequest(msgspec.Struct, frozen=True):
    """Orders a training.

    ``delta`` goes on from the live version with what is new; nothing known later than ``cutoff`` is learned from;
    at most ``examples`` are; ``rows`` are evaluated, ``texts`` of them whole, with at most ``probes`` of each half of a
    safety suite; ``rollout`` begins its rollout when it passes its gates; ``candidates`` are settings with the values
    to try, within a ``budget`` of training. With ``preferences`` it learns what people preferred, and is held against
    its gates by a run of its own. Orders with the same ``key`` are one run.
    """

    application: str
    delta: bool = False
    cutoff: datetime | None = None
    examples: Count | None = None
    rows: Count = 400
    texts: Count = 100
    probes: Count | None = None
    rollout: bool = False
    reason: str = ""
    key: str | None = None
    candidates: dict[str, tuple[float, ...]] | None = None
    budget: str | None = None
    preferences: bool = False


class TrainingPreview(msgspec.Struct, frozen=True):
    """The preview of an order: the examples that it finds, and the steps of the training.

    ``replayed`` counts earlier examples that could be drawn from; ``candidates`` are the recipes that would be tried
    and ``held_out`` the examples that choose among them. ``problems`` say what would be refused.
    """

    application: str
    cutoff: datetime
    parent: str | None
    training: DatasetSurvey
    evaluation: DatasetSurvey
    replayed: int
    steps: int
    batch: int
    problems: tuple[str, ...]
    candidates: tuple[dict[str, float], ...] = ()
    held_out: int = 0


class TrainingOrders:
    """Places orders in one project."""

    def __init__(self, services: RetrainingServices, runs: Runs, permission: TrainingPermission | None = None) -> None:
        self._services = services
        self._runs = runs
        self._permission = permission
        self._retraining = Retraining(services)
        self._tuning = PreferenceTrainer(services)

    def place(self, scope: Scope, principal: str, order: TrainingRequest, by: Principal | None = None) -> str:
        """Submit the run that trains; its id.

        Args:
            by: who orders it, for policy; ``None``: only what holds for everybody is asked.

        Raises:
            NotFoundError: there is no such application.
            InvalidInputError: it does not say how it is fine-tuned or what it learns from, nothing is held out to
                evaluate on, there is no version that a delta could go on from, or a rollout is asked for whose
                evaluation has fewer rows than the gates ask for.
            SetupError: the extra ``train`` is not installed, or the base model was not pulled.
            ConflictError: the key was used for another order.
            ForbiddenError: policy does not let its features be learned from, by this principal or for this purpose.
        """
        request = _arguments(order, principal)
        pinned = (self._tuning if request.preferences else self._retraining).inputs(scope, request)
        if self._permission is not None:
            self._permission(scope, principal, pinned.application, by)
        if not request.preferences:
            _, held_out, *_ = self._retraining.specifications(scope, request, pinned)
            if request.rollout and (few := self._too_few(scope, pinned, self._services.builder.survey(held_out))):
                raise InvalidInputError(few, where=request.application, next_step=MORE_ROWS)
        elif problems := self._tuning.preview(scope, request).problems:
            raise InvalidInputError(" ".join(problems), where=request.application, next_step=NO_PREFERENCES)
        arguments = {name: value for name, value in plain(request).items() if value is not None}
        return self._runs.submit(scope, TRAIN, arguments, order.key)

    def foresee(self, scope: Scope, principal: str, order: TrainingRequest) -> TrainingPreview | PreferencePreview:
        """Previews an order; nothing is written. Raises as :meth:`place`."""
        request = _arguments(order, principal)
        if request.preferences:
            return self._tuning.preview(scope, request)
        pinned = self._retraining.inputs(scope, request)
        specs = self._retraining.specifications(scope, request, pinned)
        training, evaluation, *chosen_by = (self._services.builder.survey(spec) for spec in specs)
        replayed = sum(dataset.rows for dataset in self._retraining.replays(scope, pinned.parent))
        tune, threads = fine_tune_of(pinned.application), self._services.threads
        settings = recipe(tune, new=training.rows, old=replayed, threads=threads, arithmetic=Arithmetic())
        problems = [
            f"The {survey.spec.kind} set would have {_counts(survey)}: two {needed} are needed."
            for survey in (training, evaluation, *chosen_by)
            for needed, found in [_distinct(survey)]
            if found < 2
        ]
        if request.rollout and (few := self._too_few(scope, pinned, evaluation)):
            problems.append(f"{few} {MORE_ROWS}")
        return TrainingPreview(
            application=request.application,
            cutoff=pinned.cutoff,
            parent=pinned.parent,
            training=training,
            evaluation=evaluation,
            replayed=replayed,
            steps=settings.steps,
            batch=settings.batch,
            problems=tuple(problems),
            candidates=recipes(pinned.candidates) if pinned.candidates is not None else (),
            held_out=sum(survey.rows for survey in chosen_by),
        )

    def _too_few(self, scope: Scope, pinned: TrainingInputs, evaluation: DatasetSurvey) -> str:
        """Says that the evaluation has fewer rows than the gates ask for; ``""`` where it has enough."""
        application = pinned.application
        first = self._services.releases.live(scope, application.name) is None
        needed = needed_rows(application.gates, application.ungated or None, first=first)
        if evaluation.rows >= needed:
            return ""
        return (
            f"The evaluation set would have {evaluation.rows} rows and the gates of {application.name} ask for "
            f"{needed}, so what is trained now could not be rolled out."
        )

    def rebuild(self, scope: Scope, principal: str, model: str, key: str | None = None) -> str:
        """Submit the run that trains a version again and compares; its id.

        Raises:
            NotFoundError: there is no such version.
            InvalidInputError: it was imported and not trained here.
            SetupError: the extra ``train`` is not installed.
        """
        require_libraries()
        version = self._services.versions.get(scope, model)
        if version.learned_until is not None:
            imported = version.preferences is None
            why = "was imported" if imported else "learned preferences, which people may have changed since"
            raise InvalidInputError(
                f"{model} {why}: nothing here gives the same training again.",
                where=model,
                next_step="Import its adapter again, or learn preferences again, where its files are lost.",
            )
        arguments = plain(RebuildArguments(model=model, principal=principal))
        return self._runs.submit(scope, REBUILD, arguments, key)


def _arguments(order: TrainingRequest, principal: str) -> TrainArguments:
    arguments = msgspec.structs.asdict(order)
    del arguments["key"]
    return TrainArguments(**arguments, principal=principal)


def _distinct(survey: DatasetSurvey) -> tuple[str, int]:
    """The kind of things that a set must have two of, and how many it has."""
    if survey.spec.shape.form == "label":
        return "labels", len([count for count in survey.labels.values() if count])
    return "examples", survey.rows


def _counts(survey: DatasetSurvey) -> str:
    if survey.rows and not survey.labels:
        return f"{survey.rows} examples"
    counted = [f"{count} {label}" for label, count in sorted(survey.labels.items()) if count]
    return f"{survey.rows} examples ({', '.join(counted)})" if counted else "no example"
