"""Metrics of the user's own: functions of a request, its output and what came true."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from antiphon.core.errors import InvalidInputError

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
    """

    name: str
    function: str
    direction: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""

    @property
    def higher(self) -> bool:
        """True when more is better."""
        return self.direction == "higher"


def metric(
    *,
    direction: Literal["higher", "lower"] = "higher",
    bounds: tuple[float, float] = (0.0, 1.0),
    unit: str = "",
    name: str = "",
) -> Callable[[F], F]:
    """Makes a function a metric: ``function(request, output, outcome)`` returns a number within the bounds.

    ``request`` is a mapping with ``entity``, ``question`` and ``features`` as printed, ``output`` the decoded output,
    or the text of an application without a schema, ``outcome`` maps the name of each known outcome to its value as a
    text. Evaluations call it for each row, in a thread; ``[project] guard_modules`` must name its module on each host.
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
    found = [getattr(one, _DECLARED, one) for one in given]
    for one in found:
        if not isinstance(one, OwnMetric):
            raise InvalidInputError(f"{one!r} is no function under @metric.", where="metrics")
    return tuple(found)


def own_metric_mistakes(given: Any, taken: Sequence[str]) -> Iterator[str]:
    """Mistakes of an application's own metrics, one sentence each; ``taken`` are names of other metrics."""
    try:
        found = own_metrics(given)
    except (InvalidInputError, TypeError) as error:
        yield f"metrics: {error.what if isinstance(error, InvalidInputError) else error}"
        return
    names = [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1 or one.name in taken:
            yield f"metrics: the name {one.name!r} is taken."
        if not one.name.isidentifier():
            yield f"metrics: {one.name!r} is no name such as 'politeness'."
        if one.direction not in ("higher", "lower"):
            yield f"metrics: {one.name}: direction is 'higher' or 'lower', not {one.direction!r}."
        if not (math.isfinite(one.low) and math.isfinite(one.high) and one.low < one.high):
            yield f"metrics: {one.name}: bounds are two numbers that rise, not {one.low} and {one.high}."
        if "<" in one.function or one.function.startswith(("__", "antiphon_project_definitions:")):
            yield f"metrics: {one.name}: its function must stand in a module of its own, at the top."
