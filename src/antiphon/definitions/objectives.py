"""Objectives of an application: which share of its requests, or of the time, must be good over a window.

An objective is declared beside its application and is no part of it, so that no release changes with one. An
application that declares none has those of :func:`usual_objectives`, by its service level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import Application, ApplicationSpec
from antiphon.definitions.place import caller, declared

ObjectiveKind = Literal["first_byte", "latency", "errors", "freshness"]
"""``first_byte``, ``latency``: answers whose first or last byte came in time. ``errors``: requests that the platform
did not fail. ``freshness``: the time in which no feature was older than its contract allows."""

KINDS: tuple[ObjectiveKind, ...] = get_args(ObjectiveKind)
TIMED = ("first_byte", "latency")

USUAL_TARGET = 0.99
USUAL_WINDOW = "28d"
_LONGEST_WINDOW = parse_duration("90d")
_SHORTEST_WINDOW = parse_duration("1d")


class ObjectiveSpec(msgspec.Struct, frozen=True):
    """A declared objective.

    Attributes:
        target: the share that must be good; the rest is the error budget of a ``window``.
        within: the bound of what is timed.
    """

    name: str
    application: str
    kind: ObjectiveKind
    target: float = USUAL_TARGET
    window: str = USUAL_WINDOW
    within: str | None = None

    @property
    def sentence(self) -> str:
        """Such as ``99 % of answers begin within 800ms, over 28d``."""
        goods = {
            "first_byte": f"of answers begin within {self.within}",
            "latency": f"of answers are whole within {self.within}",
            "errors": "of requests are answered",
            "freshness": "of the time no feature is older than its contract allows",
        }
        return f"{self.target * 100:g} % {goods[self.kind]}, over {self.window}"


class Objective:
    """Declares an objective of an application.

    Args:
        application: or its name.
        kind: one of :data:`KINDS`.
        target: the share that must be good, such as 0.995.
        within: the bound of what is timed; by default that of the application's ``slo``.
        window: of the error budget, from a day to 90.
        name: ``APPLICATION-KIND`` by default.
    """

    def __init__(
        self,
        application: Application | str,
        kind: ObjectiveKind,
        *,
        target: float = USUAL_TARGET,
        within: str | None = None,
        window: str = USUAL_WINDOW,
        name: str | None = None,
    ) -> None:
        self.place = caller()
        self.application_name = application if isinstance(application, str) else str(getattr(application, "name", ""))
        self.kind: Any = kind
        self.target: Any = target
        self.within = within
        self.window = window
        self.name = f"{self.application_name}-{kind}" if name is None else name
        declared(self)

    def spec(self, applications: Mapping[str, ApplicationSpec]) -> ObjectiveSpec:
        """The frozen value; a project checks it before."""
        within = self.within
        if within is None and self.kind in TIMED:
            within = _bound(applications[self.application_name], self.kind)
        return ObjectiveSpec(self.name, self.application_name, self.kind, float(self.target), self.window, within)

    def mistakes(self, applications: Mapping[str, object]) -> Iterator[str]:
        """Each mistake in a sentence."""
        if self.application_name not in applications:
            yield f"objective {self.name!r}: there is no application {self.application_name!r}."
        if self.kind not in KINDS:
            yield f"objective {self.name!r}: {self.kind!r} is no kind of objective; there are {', '.join(KINDS)}."
        if isinstance(self.target, bool) or not isinstance(self.target, int | float) or not 0 < self.target < 1:
            yield f"objective {self.name!r}: target is {self.target!r}; it is a share between 0 and 1, such as 0.995."
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


def usual_objectives(application: ApplicationSpec) -> tuple[ObjectiveSpec, ...]:
    """Those of an application that declares none: its service level's bounds for 99 of 100 answers, 99 of 100 requests
    answered, and, where features have contracts, 99 % of the time within them."""
    kinds = [kind for kind in KINDS if kind != "freshness" or application.freshness]
    return tuple(
        ObjectiveSpec(
            f"{application.name}-{kind}", application.name, kind,
            within=_bound(application, kind) if kind in TIMED else None,
        )
        for kind in kinds
    )  # fmt: skip


def _bound(application: ApplicationSpec, kind: str) -> str:
    return application.slo.ttft_p99 if kind == "first_byte" else application.slo.latency_p99
