"""One run's findings as one value: what the table, the summary line and the report are written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
import numpy

from antiphon.catalog.learning.evaluations import IntervalEstimate
from examples.flight_desk import demand
from examples.flight_desk.analysis import (
    Bootstrap,
    EqualCost,
    Point,
    Served,
    Table,
    Way,
    by_age,
    equal_cost,
    resolve,
    summarize,
    sweep,
)
from examples.flight_desk.baselines import Scored, score
from examples.flight_desk.checker import Judged
from examples.flight_desk.data import Events
from examples.flight_desk.records import Answered, Lag
from examples.flight_desk.settings import Settings, Size
from examples.flight_desk.truth import Truth


class Hour(msgspec.Struct, frozen=True):
    """False statements that had gone stale, per 1,000 answers of one way read in one hour of event time."""

    way: str
    hour: float
    answers: int
    stale: float


class Findings(msgspec.Struct, frozen=True):
    """Everything that was found.

    ``same_as_derived``: share of the measured age-limit answers whose text is the one derived from online-only;
    ``lag_seconds``: from sending events to their being servable, per tick; ``examples``: the first answer of each way
    and reason with something false in it, so that a reader sees what is meant by false.
    """

    days: int
    flights: int
    questions: int
    generations: int
    ways: tuple[Way, ...]
    sweep: tuple[Point, ...]
    equal_cost: EqualCost | None
    same_as_derived: float | None
    scored: Scored | None
    lag_seconds: IntervalEstimate | None
    hours: tuple[Hour, ...]
    latencies: dict[str, tuple[float, ...]]
    examples: tuple[tuple[Served, Judged], ...]

    def way(self, name: str) -> Way:
        """The row of this way."""
        return next(way for way in self.ways if way.way == name)


def find(
    answers: Sequence[Answered],
    lags: Sequence[Lag],
    events: Events,
    truth: Truth,
    settings: Settings,
    size: Size,
) -> Findings:
    """Analyse a journal. The same journal gives the same findings."""
    known = {flight.event_id: flight for flight in demand.read_flights(events, settings.days(size))}
    served, spent = resolve(answers, truth)
    order = sorted({one.answer.flight for one in served} | {row.flight for row in spent})
    sample = Bootstrap(len(order), settings.analysis.bootstrap_rounds, settings.seed)
    failed = {way: sum(one.way == way and bool(one.error) for one in answers) for way in settings.ways}
    by_way = {way: tuple(one for one in served if one.answer.way == way) for way in settings.ways}
    cost = {way: tuple(row for row in spent if row.way == way) for way in settings.ways}
    dawn = [one for one in answers if one.path == "batch" and one.way == "age" and not one.error]
    limits = settings.analysis.age_limits_minutes
    swept = sweep(by_way["online"], dawn, cost["age"], limits, truth, order)
    compared = (
        equal_cost(swept, Table(order, by_way["fingerprint"], cost["fingerprint"]), sample)
        if by_way["fingerprint"] and by_way["online"]
        else None
    )
    outlooks = [one.answer for one in by_way["online"]]
    seconds = [lag.seconds for lag in lags]
    low, middle, high = numpy.percentile(seconds or [0.0], [2.5, 50, 97.5])
    return Findings(
        days=size.days,
        flights=len(order),
        questions=len({one.answer.question for one in served}),
        generations=sum(answer.made == "generated" and not answer.error for answer in answers),
        ways=tuple(summarize(way, by_way[way], cost[way], failed[way], order, sample) for way in settings.ways),
        sweep=tuple(point for point, _ in swept),
        equal_cost=compared,
        same_as_derived=_same_as_derived(by_way, dawn, truth, settings.analysis.age_limit_minutes),
        scored=score(outlooks, known, events, settings, truth, order, sample),
        lag_seconds=IntervalEstimate(float(middle), float(low), float(high)) if seconds else None,
        hours=_hours(by_way, settings),
        latencies={way: tuple(one.seconds for one in by_way[way]) for way in by_way},
        examples=_examples(by_way),
    )


def _same_as_derived(
    by_way: Mapping[str, Sequence[Served]], dawn: Sequence[Answered], truth: Truth, minutes: float
) -> float | None:
    if not by_way["age"] or not by_way["online"]:
        return None
    derived = by_age(by_way["online"], dawn, timedelta(minutes=minutes), truth)
    notices = {one.answer.question: (one.written, one.judged) for one in derived}
    return sum(notices.get(one.answer.question) == (one.written, one.judged) for one in by_way["age"]) / len(
        by_way["age"]
    )


def _hours(by_way: Mapping[str, Sequence[Served]], settings: Settings) -> tuple[Hour, ...]:
    start = settings.local(min(one.answer.day for served in by_way.values() for one in served), "00:00")
    found = []
    for way, served in by_way.items():
        stale: dict[int, list[int]] = {}
        for one in served:
            stale.setdefault((one.answer.asked - start) // timedelta(hours=1), []).append(one.false("stale"))
        found += [Hour(way, hour, len(each), 1000 * sum(each) / len(each)) for hour, each in sorted(stale.items())]
    return tuple(found)


def _examples(by_way: Mapping[str, Sequence[Served]]) -> tuple[tuple[Served, Judged], ...]:
    found: dict[tuple[str, str], tuple[Served, Judged]] = {}
    for way, served in by_way.items():
        for one in served:
            for judged in one.judged:
                if judged.verdict != "true":
                    found.setdefault((way, judged.verdict), (one, judged))
    return tuple(found.values())
