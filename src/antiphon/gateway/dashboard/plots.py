"""Plots as geometry: a template draws them as SVG, so that they need no script and can be read aloud.

All functions are pure. Coordinates are in the plot's own units: :data:`WIDTH` by :data:`HEIGHT`, the y axis downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import partial

import msgspec

from antiphon.catalog.features.skew_reports import ViewSkew
from antiphon.catalog.releases.rollouts import RolloutMove
from antiphon.gateway.admin.rollouts import JudgementLine, MoveLine
from antiphon.learning.evaluation.metrics import title
from antiphon.learning.outcomes.performance import Group

WIDTH, HEIGHT = 720.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 10.0, 10.0, 24.0
LEAST, MOST = 0.01, 1e6
"""E-values outside are drawn at the edge."""

SHORTEST = 10.0
"""Seconds that a time axis spans at least."""

POINTS = 80
"""So many judgements are drawn at most, evenly, beside those that moved something."""

METRICS = ("error", "invalid", "latency", "first_byte", "quality")


class Mark(msgspec.Struct, frozen=True):
    """A point or a tick: where, in which style, and what it says."""

    at: float
    words: str
    style: str = ""
    y: float = 0.0


class Line(msgspec.Struct, frozen=True):
    """One line through its marks."""

    name: str
    style: str
    marks: tuple[Mark, ...]

    @property
    def points(self) -> str:
        """The line as SVG wants it."""
        return " ".join(f"{mark.at},{mark.y}" for mark in self.marks)


class Plot(msgspec.Struct, frozen=True):
    """A plot's lines, axes and labels.

    Attributes:
        lines: of values; ``bound``: the height of the line that decides, and ``bound_words``.
        across, up: ticks of the two axes. ``events``: vertical lines. ``decisions``: points that moved something.
        label: the plot in words.
    """

    label: str
    lines: tuple[Line, ...]
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    bound: float | None = None
    bound_words: str = ""
    events: tuple[Mark, ...] = ()
    decisions: tuple[Mark, ...] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def e_values(judgements: Sequence[JudgementLine], moves: Sequence[RolloutMove | MoveLine]) -> tuple[Plot, Plot] | None:
    """E-values of harm and of safety over time, on a log scale against their bounds; ``None`` before a judgement.

    The decisions are marked on the line that made them: a rollback on harm, a promotion on the metric that was
    excluded least.
    """
    if not judgements:
        return None
    judgements = _thinned(judgements)
    axis = _Time([judgement.created_at for judgement in judgements])
    harm_bound, safe_bound = judgements[-1].harm_bound, judgements[-1].safe_bound
    events = tuple(
        Mark(axis(move.at), f"{move.state.replace('_', ' ')}: {move.reason}", "event")
        for move in moves
        if axis.holds(move.at)
    )
    evidence = partial(Plot, across=axis.ticks(), up=_powers(), events=events)
    harm = evidence(
        label=f"E-value of harm over time; now {_said(judgements[-1].harm)} of the {harm_bound:.0f} that roll back",
        lines=(_line("harm", "harm", [(one.created_at, one.harm) for one in judgements], axis),),
        bound=_height(harm_bound),
        bound_words=f"{harm_bound:.0f}: rolls back",
        decisions=tuple(
            Mark(axis(one.created_at), one.sentence, "roll_back", _height(one.harm))
            for one in judgements
            if one.decision == "roll_back"
        ),
    )
    by_metric: dict[str, list[tuple[datetime, float]]] = {name: [] for name in METRICS}
    for one in judgements:
        for metric in one.metrics:
            if metric.name in by_metric:
                by_metric[metric.name].append((one.created_at, metric.safe))
    now = ", ".join(f"{metric.name.replace('_', ' ')} {_said(metric.safe)}" for metric in judgements[-1].metrics)
    safe = evidence(
        label=f"E-values of safety over time; now {now or 'none'}, of the {safe_bound:.0f} that each needs",
        lines=tuple(
            _line(name, f"view-{number}", values, axis)
            for number, (name, values) in enumerate(by_metric.items(), 1)
            if values
        ),
        bound=_height(safe_bound),
        bound_words=f"{safe_bound:.0f}: each must pass",
        decisions=tuple(
            Mark(axis(one.created_at), one.sentence, "promote", _height(min(metric.safe for metric in one.metrics)))
            for one in judgements
            if one.decision == "promote" and one.metrics
        ),
    )
    return harm, safe


def by_day(days: Sequence[Group], names: Sequence[str]) -> Plot | None:
    """Metrics of each day, from 0 to 1, or to the largest value where one is larger; ``None`` for fewer than two
    days."""
    if len(days) < 2:
        return None
    places = evenly(len(days))
    top = max([1.0, *(day.scores.metrics.get(name, 0.0) for day in days for name in names)])
    lines = []
    for number, name in enumerate(names, 1):
        style = f"view-{number}"
        marks = [
            Mark(place, f"{day.value}: {name} {value:.3f}", style, linear(value / top))
            for place, day in zip(places, days, strict=True)
            if (value := day.scores.metrics.get(name)) is not None
        ]
        lines.append(Line(name, style, tuple(marks)))
    return Plot(
        label=f"{' and '.join(map(title, names))} by day, from {days[0].value} to {days[-1].value}",
        lines=tuple(lines),
        across=spaced([Mark(place, day.value[5:]) for place, day in zip(places, days, strict=True)], 8),
        up=tuple(Mark(linear(value), f"{value * top:.3g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )


def shares(lines: Sequence[ViewSkew], what: str) -> Plot | None:
    """The share of compared values that differ, over time; ``None`` for fewer than two comparisons.

    Args:
        lines: latest first, one a comparison.
        what: of what, in words.
    """
    known = [(one, one.share) for one in reversed(lines) if one.share is not None]
    if len(known) < 2:
        return None
    axis = _Time([one.measured_at for one, _ in known])
    most = max(0.01, *(share for _, share in known))
    marks = tuple(
        Mark(
            axis(one.measured_at),
            f"{one.measured_at:%m-%d %H:%M} {one.different} of {one.compared}",
            "harm" if share else "view-1",
            linear(share / most),
        )
        for one, share in known
    )
    return Plot(
        label=f"Share of the values of {what} that differ from batch, over time; now {known[-1][1]:.2%}",
        lines=(Line("differing share", "view-1", marks),),
        across=axis.ticks(),
        up=tuple(Mark(linear(part / 2), f"{most * part / 2:.2%}") for part in range(3)),
    )


def by_amount(days: Sequence[tuple[str, int]], currency: str) -> Plot | None:
    """Amounts of money of each day, in millionths, from 0 to the largest; ``None`` for fewer than two days."""
    if len(days) < 2:
        return None
    places, top = evenly(len(days)), max(1, *(micros for _, micros in days))
    marks = tuple(
        Mark(place, f"{day}: {micros / 1e6:.6f} {currency}", "view-1", linear(micros / top))
        for place, (day, micros) in zip(places, days, strict=True)
    )
    return Plot(
        label=f"Cost by day in {currency}, from {days[0][0]} to {days[-1][0]}",
        lines=(Line("cost", "view-1", marks),),
        across=spaced([Mark(place, day[5:]) for place, (day, _) in zip(places, days, strict=True)], 8),
        up=tuple(Mark(linear(part / 2), f"{top * part / 2e6:.3g}") for part in range(3)),
    )


def _thinned(judgements: Sequence[JudgementLine]) -> Sequence[JudgementLine]:
    every = math.ceil(len(judgements) / POINTS)
    last = len(judgements) - 1
    return [
        judgement
        for number, judgement in enumerate(judgements)
        if number % every == 0 or number == last or judgement.decision != "hold"
    ]


class _Time:
    """Instants on the x axis, from the first to the last."""

    def __init__(self, instants: Sequence[datetime]) -> None:
        self._first, last = min(instants), max(instants)
        self._span = max((last - self._first).total_seconds(), SHORTEST)

    def __call__(self, at: datetime) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * self._share(at), 1)

    def holds(self, at: datetime) -> bool:
        return -1e-9 <= self._share(at) <= 1 + 1e-9

    def ticks(self) -> tuple[Mark, ...]:
        form = "%H:%M:%S" if self._span < 900 else "%H:%M" if self._span < 172_800 else "%m-%d"
        first = self._first.timestamp()
        return tuple(
            Mark(
                round(LEFT + (WIDTH - LEFT - RIGHT) * part / 4, 1),
                datetime.fromtimestamp(first + self._span * part / 4, self._first.tzinfo).strftime(form),
            )
            for part in range(5)
        )

    def _share(self, at: datetime) -> float:
        return (at - self._first).total_seconds() / self._span


def _line(name: str, style: str, values: Sequence[tuple[datetime, float]], axis: _Time) -> Line:
    marks = tuple(
        Mark(axis(at), f"{at:%H:%M:%S} {name.replace('_', ' ')} {_said(value)}", style, _height(value))
        for at, value in values
    )
    return Line(name, style, marks)


def _height(value: float) -> float:
    """Returns the height of an e-value on the log scale."""
    low, high = math.log(LEAST), math.log(MOST)
    share = (math.log(min(max(value, LEAST), MOST)) - low) / (high - low)
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def evenly(count: int) -> list[float]:
    """Places along the x axis, from its one end to the other."""
    return [round(LEFT + (WIDTH - LEFT - RIGHT) * number / (count - 1), 1) for number in range(count)]


def spaced(ticks: Sequence[Mark], most: int) -> tuple[Mark, ...]:
    """At most so many of the ticks, at equal distances."""
    return tuple(ticks[:: math.ceil(len(ticks) / most)])


def linear(part: float) -> float:
    """The height of a part of the axis, from 0 to 1."""
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(part, 0.0), 1.0), 1)


def _powers() -> tuple[Mark, ...]:
    words = {0.01: "0.01", 1.0: "1", 100.0: "100", 1e4: "10 000", 1e6: "10⁶"}
    return tuple(Mark(_height(value), label) for value, label in words.items())


def _said(value: float) -> str:
    return f"{value:.3g}" if value < 1e6 else "over a million"
