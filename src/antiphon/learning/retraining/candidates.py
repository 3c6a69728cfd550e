"""Candidates of a training: the recipes that are tried, and the choice of the best on held-out examples."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import Candidates, FineTune, in_words
from antiphon.definitions.learning_check import candidate_mistakes
from antiphon.durable.context import RunContext
from antiphon.learning.evaluation.metrics import metric_of
from antiphon.learning.retraining.plan import TrainArguments, TrainingInputs, TriedCandidate
from antiphon.learning.retraining.registration import Registration
from antiphon.learning.retraining.steps import RetrainingError, RetrainingServices
from antiphon.learning.retraining.validation import CandidateValidation

_ADAPTER_SHAPE = ("rank", "alpha")


def declared_candidates(tune: FineTune, request: TrainArguments) -> Candidates | None:
    """The candidates that are asked for, or else the declared ones; ``None`` for a single recipe.

    Raises:
        InvalidInputError: a setting cannot be tried, or a budget is given without candidates.
    """
    declared = tune.candidates or None
    if request.candidates:
        declared = Candidates(request.candidates, None if declared is None else declared.budget)
    if declared is None:
        if request.budget is not None:
            raise InvalidInputError(
                "A budget is shared by candidates, and there is one recipe alone.",
                where="budget",
                next_step="Say what is to be tried, such as --candidates learning_rate=1e-3,5e-4.",
            )
        return None
    if request.budget is not None:
        declared = msgspec.structs.replace(declared, budget=request.budget)
    if mistakes := [*candidate_mistakes(declared), *_not_with_delta(declared, delta=request.delta)]:
        raise InvalidInputError(" ".join(mistakes), where="candidates", next_step="Mend it and order again.")
    return declared


def _not_with_delta(declared: Candidates, *, delta: bool) -> list[str]:
    fixed = [name for name in _ADAPTER_SHAPE if name in declared.settings]
    return [f"candidates: the {name} of a version that is gone on from stays." for name in fixed if delta]


def recipes(declared: Candidates | None) -> tuple[dict[str, float], ...]:
    """The settings of each candidate; of a single recipe none."""
    if declared is None:
        return ({},)
    values = [tuple(dict.fromkeys(each)) for each in declared.settings.values()]
    return tuple(dict(zip(declared.settings, chosen, strict=True)) for chosen in itertools.product(*values))


def with_settings(tune: FineTune, settings: dict[str, float]) -> FineTune:
    """The declaration with a candidate's settings."""
    whole = {name: int(value) if isinstance(getattr(tune, name), int) else value for name, value in settings.items()}
    return msgspec.structs.replace(tune, **whole)


def budget_seconds(declared: Candidates | None) -> float | None:
    """Seconds of training of all together, if there is a bound."""
    return None if declared is None or declared.budget is None else parse_duration(declared.budget).total_seconds()


class CandidateChoice:
    """Chooses among trained candidates by the metric that decides in shadow, each asked as it will be served."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services
        self._registration = Registration(services)

    async def run(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, held_out: Dataset | None,
        tried: Sequence[TriedCandidate], models: Sequence[str | None],
    ) -> dict[str, Any]:  # fmt: skip
        """Drafts a release of the version that goes on; of several, of the best.

        Raises:
            RetrainingError: none was trained within the budget, or none answered.
        """
        if held_out is None:
            (model,) = models
            go_on = partial(self._registration.go_on, run, request, pinned, str(model), {})
            chosen: dict[str, Any] = await run.transaction("register", go_on)
            return chosen
        shape = pinned.application.shape
        assert shape is not None  # fine_tune_of
        metric = metric_of(shape.deciding)
        lines: list[dict[str, Any]] = [
            {"settings": one.settings, "model": model, "seconds": one.seconds, "why": one.why, metric.name: None}
            for one, model in zip(tried, models, strict=True)
        ]
        drafts: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            model = line["model"]
            if model is None:
                continue
            if model in drafts:
                line["why"] = f"its settings train exactly what {model} is"
                continue
            # The engine serves the newest draft of an application: each is drafted when its turn has come.
            trial = partial(self._registration.trial, run, request, pinned, model)
            drafts[model] = str(await run.transaction(f"draft {number}", trial))
            line |= await self._measured(run, number, drafts[model], held_out, metric.name)
        scored = [line for line in lines if line[metric.name] is not None]
        if not scored:
            reasons = "; ".join(
                f"{in_words(one.settings)}: {line['why']}" for one, line in zip(tried, lines, strict=True)
            )
            raise RetrainingError(
                f"No candidate can go on. {reasons}.",
                where="candidates",
                next_step="Give a larger --budget, or train a single recipe.",
            )
        best = max(scored, key=lambda line: line[metric.name] if metric.higher else -line[metric.name])
        why = f"{best['model']} was better in {shape.deciding_title} on held-out examples ({best[metric.name]:.4f})"
        others = {release: why for model, release in drafts.items() if model != best["model"]}
        go_on = partial(self._registration.go_on, run, request, pinned, best["model"], others)
        registered: dict[str, Any] = await run.transaction("register", go_on)
        return {**registered, "candidates": lines, "held_out": held_out.id}

    async def _measured(
        self, run: RunContext, number: int, release: str, held_out: Dataset, metric: str
    ) -> dict[str, Any]:
        drafted = await asyncio.to_thread(self._services.releases.get, run.scope, release)
        if drafted.stage == "rolled_back":
            return {"why": f"its release {release} was rolled back before"}
        validation = CandidateValidation(self._services)
        try:
            evaluation = await validation.evaluate(run, f"compare {number}", drafted, held_out, None, 0)
        except InvalidInputError as error:
            return {"why": error.what}
        found = evaluation.metrics.get(metric)
        return {metric: None if found is None else found.value, "why": "" if found else f"it has no {metric}"}
