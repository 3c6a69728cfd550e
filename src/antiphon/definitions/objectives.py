"""Objectives of an application: which share of its requests, or of the time, must be good over a window, or which
mean its answers must keep to.

An objective is declared beside its application and is no part of it, so that no release changes with one. An
application that declares none has those of :func:`usual_objectives`, by its service level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import Application, ApplicationSpec
from antiphon.definitions.learning import Outcome
from antiphon.definitions.outcome_shape import OutcomeShape, shape_of
from antiphon.definitions.place import caller, declared

ObjectiveKind = Literal["first_byte", "latency", "errors", "freshness", "quality", "calibration", "cost"]
"""``first_byte``, ``latency``: answers whose first or last byte came in time. ``errors``: requests that the platform
did not fail. ``freshness``: the time in which no feature was older than its contract allows. Of means: ``quality``: 1
less the mean loss by the first outcome; ``calibration``: 1 less the distance of the mean probability from how often it
came true; ``cost``: what an answer costs."""

KINDS: tuple[ObjectiveKind, ...] = get_args(ObjectiveKind)
USUAL: tuple[ObjectiveKind, ...] = ("first_byte", "latency", "errors", "freshness")
TIMED = ("first_byte", "latency")
JUDGED = ("quality", "calibration")
"""Kinds that are measured by the application's first outcome."""

USUAL_TARGET = 0.99
USUAL_WINDOW = "28d"
_LONGEST_WINDOW = parse_duration("90d")
_SHORTEST_WINDOW = parse_duration("1d")


class ObjectiveSpec(msgspec.Struct, frozen=True):
    """A declared objective.

    Attributes:
        target: the share that must be good, or 1 less the mean that is allowed; the rest is the error budget of a
            ``window``. ``None`` of cost.
        within: the bound of what is timed.
        most: of cost, the most that an answer may cost on average, in the currency of the prices.
        shape: the outcome by which answers are judged.
    """

    name: str
    application: str
    kind: ObjectiveKind
    target: float | None = USUAL_TARGET
    window: str = USUAL_WINDOW
    within: str | None = None
    most: float | None = None
    shape: OutcomeShape | None = None

    @property
    def budget(self) -> float:
        """The share of bad ones, or the mean, that is allowed; of cost the whole of ``most``."""
        return 1.0 if self.target is None else 1 - self.target

    @property
    def sentence(self) -> str:
        """Such as ``99 % of answers begin within 800ms, over 28d``."""
        if self.most is not None:
            return f"an answer costs {self.most:g} or less on average, over {self.window}"
        if self.shape is not None:
            return f"{self._judged(self.shape)} on average, over {self.window}"
        assert self.target is not None
        goods = {
            "first_byte": f"of answers begin within {self.within}",
            "latency": f"of answers are whole within {self.within}",
            "errors": "of requests are answered",
            "freshness": "of the time no feature is older than its contract allows",
        }
        return f"{self.target * 100:g} % {goods[self.kind]}, over {self.window}"

    def measured(self, mean: float, currency: str) -> str | None:
        """A mean of the history in the unit that people know it by; ``None`` of a kind that counts good and bad."""
        if self.most is not None:
            return f"{mean * self.most:.6g} {currency} an answer"
        if self.shape is None:
            return None
        if self.kind == "calibration":
            return f"bias {mean:+.3f}"
        return f"{self.shape.deciding_title} {self.shape.in_unit(mean):.3g}"

    def _judged(self, shape: OutcomeShape) -> str:
        if self.kind == "calibration":
            return f"probabilities are within {self.budget * 100:g} points of how often they come true,"
        order = "less" if shape.form in ("label", "number") else "more"
        return f"the {shape.deciding_title} is {shape.in_unit(self.budget):.3g} or {order}"


class Objective:
    """Declares an objective of an application.

    Args:
        application: or its name.
        kind: one of :data:`KINDS`.
        target: the share that must be good, such as 0.995: by default 0.99. Of quality and calibration 1 less the mean
            loss or bias that is allowed, which has no default.
        most: of cost, the most that an answer may cost on average.
        within: the bound of what is timed; by default that of the application's ``slo``.
        window: of the error budget, from a day to 90.
        name: ``APPLICATION-KIND`` by default.
    """

    def __init__(
        self,
        application: Application | str,
        kind: ObjectiveKind,
        *,
        target: float | None = None,
        within: str | None = None,
        most: float | None = None,
        window: str = USUAL_WINDOW,
        name: str | None = None,
    ) -> None:
        self.place = caller()
        self.application_name = application if isinstance(application, str) else str(getattr(application, "name", ""))
        self.kind: Any = kind
        self.target: Any = target
        self.most: Any = most
        self.within = within
        self.window = window
        self.name = f"{self.application_name}-{kind}" if name is None else name
        declared(self)

    def spec(self, applications: Mapping[str, ApplicationSpec]) -> ObjectiveSpec:
        """The frozen value; a project checks it before."""
        application, within, target = applications[self.application_name], self.within, self.target
        if within is None and self.kind in TIMED:
            within = _bound(application, self.kind)
        if target is None and self.kind != "cost":
            target = USUAL_TARGET
        return ObjectiveSpec(
            self.name, application.name, self.kind, None if target is None else float(target), self.window, within,
            None if self.most is None else float(self.most), application.shape if self.kind in JUDGED else None,
        )  # fmt: skip

    def mistakes(self, applications: Mapping[str, Application]) -> Iterator[str]:
        """Each mistake in a sentence."""
        if self.application_name not in applications:
            yield f"objective {self.name!r}: there is no application {self.application_name!r}."
        elif self.kind in JUDGED:
            yield from self._judged_mistakes(applications[self.application_name])
        if self.kind not in KINDS:
            yield f"objective {self.name!r}: {self.kind!r} is no kind of objective; there are {', '.join(KINDS)}."
        if self.target is not None and not (_number(self.target) and 0 < self.target < 1):
            yield f"objective {self.name!r}: target is {self.target!r}; it is a share between 0 and 1, such as 0.995."
        yield from self._cost_mistakes()
        if self.within is not None and self.kind in KINDS and self.kind not in TIMED:
            yield f"objective {self.name!r}: within= is of {' and '.join(TIMED)} alone."
        for field, text in (("within", self.within), ("window", self.window)):
            try:
                length = None if text is None else parse_duration(text)
            except InvalidInputError as error:
                yield f"objective {self.name!r}: {field}: {error.what}"
                continue
            if field == "window" and not (length and _SHORTEST_WINDOW <= length <= _LONGEST_WINDOW):
                yield f"objective {self.name!r}: window is {text}; it lasts from 1d to 90d."

    def _judged_mistakes(self, application: Application) -> Iterator[str]:
        label, outcome = f"objective {self.name!r}", application.outcome
        if outcome is None:
            yield (
                f"{label}: {application.name} declares no outcome, and {self.kind} is measured by one; declare "
                "outcome=Outcome(…)."
            )
        elif isinstance(outcome, Outcome) and self.kind == "calibration":
            try:
                form = shape_of(outcome.property, outcome.positive, outcome.name or "", application.output).form
            except InvalidInputError:
                form = "label"  # The application says what is wrong with it.
            if form != "label":
                yield (
                    f"{label}: the first outcome of {application.name} is no label, so that its answers state no "
                    "probabilities; declare an outcome of a property with an enum, or an objective of quality."
                )
        if self.target is None:
            yield (
                f"{label}: there is no target; declare 1 less the {'loss' if self.kind == 'quality' else 'bias'} that "
                "is allowed on average, such as target=0.9: `antiphon evaluations show` has that of a release."
            )

    def _cost_mistakes(self) -> Iterator[str]:
        label = f"objective {self.name!r}"
        if self.kind == "cost":
            if self.target is not None:
                yield f"{label}: cost has no target; declare what an answer may cost on average, such as most=0.002."
            elif not _number(self.most) or not 0 < self.most < math.inf:
                yield f"{label}: most is {self.most!r}; it is what an answer may cost on average, such as 0.002."
        elif self.most is not None:
            yield f"{label}: most= is of cost alone."


def usual_objectives(application: ApplicationSpec) -> tuple[ObjectiveSpec, ...]:
    """Those of an application that declares none: its service level's bounds for 99 of 100 answers, 99 of 100 requests
    answered, and, where features have contracts, 99 % of the time within them."""
    kinds = [kind for kind in USUAL if kind != "freshness" or application.freshness]
    return tuple(
        ObjectiveSpec(
            f"{application.name}-{kind}", application.name, kind,
            within=_bound(application, kind) if kind in TIMED else None,
        )
        for kind in kinds
    )  # fmt: skip


def _bound(application: ApplicationSpec, kind: str) -> str:
    return application.slo.ttft_p99 if kind == "first_byte" else application.slo.latency_p99


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
