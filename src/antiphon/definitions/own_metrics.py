"""Metrics of the user's own: functions of a request, its output and what came true, and judge models with a rubric."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import OutcomeShape

F = TypeVar("F", bound=Callable[..., object])

_DECLARED = "__antiphon_metric__"


class OwnMetric(msgspec.Struct, frozen=True):
    """A metric of the user's own.

    Attributes:
        name: in evaluations and gates.
        function: ``module:function``, called with request, output and outcome.
        direction: whether ``higher`` or ``lower`` is better.
        low, high: bounds of its values; a value outside of them is none.
        unit: in which people read it.
        arguments: of a function of Antiphon's own (``definitions.shipped_metrics``), by name.
    """

    name: str
    function: str
    direction: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    # Unset for none, so that releases keep their hashes over an upgrade.
    arguments: dict[str, str] | msgspec.UnsetType = msgspec.UNSET

    @property
    def higher(self) -> bool:
        """True when more is better."""
        return self.direction == "higher"

    @property
    def deciding_title(self) -> str:
        """As people read it where it decides in shadow."""
        return self.name

    @property
    def span(self) -> float:
        """The distance of its worst value from the best."""
        return self.high - self.low

    def loss(self, value: float) -> float:
        """The distance of a value from the best, as a share of the span."""
        return (self.high - value if self.higher else value - self.low) / self.span

    def in_unit(self, loss: float) -> float:
        """A loss from 0 to 1 as a value."""
        return self.high - loss * self.span if self.higher else self.low + loss * self.span


ShadowMeasure = OutcomeShape | OwnMetric
"""The metric by which the pairs of a shadow are compared: that of an outcome's form, or one of the answers alone."""


class JudgeMetric(msgspec.Struct, frozen=True):
    """A judge model's score of an answer by a rubric, from 1 to 5, corrected by people's scores.

    People score answers by ``antiphon prompts annotate PREDICTION --score CRITERION=N``, where the criterion is the
    metric's name, from the second version of the rubric on ``NAME@VERSION``. What the judge says of those answers is
    compared with them, and its mean over all answers is corrected by the difference. With fewer than ``least`` scores
    the metric is uncalibrated: shown as that, and no gate on it passes.

    Attributes:
        name: in evaluations and gates.
        rubric: what is scored, in words.
        version: of the rubric; it changes with the rubric (`antiphon plan` refuses other words under a version that was
            released), for scores by another one say nothing of this.
        engine: ``ENGINE`` or ``ENGINE/MODEL`` that judges; empty: the engine and model that answer.
        trials: times that the judge is asked about each answer; their mean counts. More than one are sampled.
        property: the property of the output that is judged; empty: all of it.
        least: scores of people without which it is uncalibrated.
        timeout: seconds within which the judge must answer each time.
    """

    name: str
    rubric: str
    version: str = "1"
    engine: str = ""
    trials: int = 1
    property: str = ""
    least: int = 30
    timeout: float = 60.0

    def criterion(self) -> str:
        """The criterion of annotations that score by this rubric."""
        return self.name if self.version == "1" else f"{self.name}@{self.version}"


def metric(
    *,
    direction: Literal["higher", "lower"] = "higher",
    bounds: tuple[float, float] = (0.0, 1.0),
    unit: str = "",
    name: str = "",
) -> Callable[[F], F]:
    """Makes a function a metric: ``function(request, output, outcome)`` returns a number within the bounds.

    ``request`` is a mapping with ``entity``, ``question``, ``features`` as printed and ``documents``, the texts of the
    chunks that were retrieved and of what tools gave back; ``output`` is the decoded output, or the text of an
    application without a schema; ``outcome`` maps the name of each known outcome to its value as a text. Evaluations
    call it for each row, trials of prompts for both answers, regression cases for the answer that they ask for, in a
    thread; ``[project] guard_modules`` must name its module on each host.
    One that raises, takes longer than a second or returns no number within the bounds is counted, and never passes a
    gate.
    """

    def declare(function: F) -> F:
        named = name or function.__name__
        place = f"{function.__module__}:{function.__qualname__}"
        setattr(function, _DECLARED, OwnMetric(named, place, direction, float(bounds[0]), float(bounds[1]), unit))
        return function

    return declare


def own_metrics(given: Sequence[Any]) -> tuple[OwnMetric, ...]:
    """The declared metrics of functions; raises ``InvalidInputError`` for one that is none."""
    found = [getattr(one, _DECLARED, one) for one in given if not isinstance(one, JudgeMetric)]
    for one in found:
        if not isinstance(one, OwnMetric):
            raise InvalidInputError(f"{one!r} is no function under @metric and no JudgeMetric.", where="metrics")
    return tuple(found)


def judge_metrics(given: Sequence[Any]) -> tuple[JudgeMetric, ...]:
    """The declared metrics of judge models."""
    return tuple(one for one in given if isinstance(one, JudgeMetric))


def names_of(given: Sequence[Any]) -> tuple[str, ...]:
    """The names of all of them."""
    return (*(one.name for one in own_metrics(given)), *(one.name for one in judge_metrics(given)))


def own_metric_mistakes(given: Any, taken: Sequence[str], properties: Collection[str]) -> Iterator[str]:
    """Mistakes of an application's own metrics, one sentence each; ``taken`` are names of other metrics, ``properties``
    those of its output."""
    try:
        found = own_metrics(given)
    except (InvalidInputError, TypeError) as error:
        yield f"metrics: {error.what if isinstance(error, InvalidInputError) else error}"
        return
    names = names_of(given)
    for name in names:
        if names.count(name) > 1 or name in taken:
            yield f"metrics: the name {name!r} is taken."
        if not name.isidentifier():
            yield f"metrics: {name!r} is no name such as 'politeness'."
    for judge in judge_metrics(given):
        if judge.property and judge.property not in properties:
            yield f"metrics: {judge.name}: the output has no property {judge.property!r}."
        if not judge.rubric.strip():
            yield f"metrics: {judge.name}: a rubric says what is scored."
        if not 1 <= judge.trials <= 9 or judge.least < 2 or not judge.timeout > 0:
            yield f"metrics: {judge.name}: 1 to 9 trials, at least 2 scores of people, and a timeout above 0 s."
    for one in found:
        if one.direction not in ("higher", "lower"):
            yield f"metrics: {one.name}: direction is 'higher' or 'lower', not {one.direction!r}."
        if not (math.isfinite(one.low) and math.isfinite(one.high) and one.low < one.high):
            yield f"metrics: {one.name}: bounds are two numbers that rise, not {one.low} and {one.high}."
        if "<" in one.function or one.function.startswith(("__", "antiphon_project_definitions:")):
            yield f"metrics: {one.name}: its function must stand in a module of its own, at the top."
