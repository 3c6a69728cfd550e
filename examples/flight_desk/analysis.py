"""From answers and source events to what each way said and what it cost. Pure: the same journal, the same figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy

from antiphon.catalog.learning.evaluations import IntervalEstimate
from examples.flight_desk.checker import Judged, Request, judge
from examples.flight_desk.records import Answered
from examples.flight_desk.truth import Truth

CLASSES = ("written", "stale", "lag")
"""Why a statement is false, in the order of the report: false when written, gone stale, late by the event's lag."""


class Served(msgspec.Struct, frozen=True):
    """An answer as its reader met it.

    ``written``: event time its text was made for. ``tokens``: what this way spent on it (an identical prompt that
    another way had already generated counts in full; a stored answer costs nothing). ``seconds``: wall time, with an
    identical prompt's own generation in place of the copy.
    """

    answer: Answered
    written: datetime
    tokens: int
    generated: bool
    from_batch: bool
    seconds: float
    judged: tuple[Judged, ...]

    def false(self, kind: str) -> int:
        """How many of its statements are false for this reason."""
        return sum(one.verdict == kind for one in self.judged)


class Spent(msgspec.Struct, frozen=True):
    """What a briefing's row cost its way."""

    flight: str
    way: str
    tokens: int
    generated: bool


class Way(msgspec.Struct, frozen=True):
    """One row of the table. False statements are per 1,000 answers; seconds are wall seconds at the client."""

    way: str
    answers: int
    failed: int
    statements_per_answer: float
    false: IntervalEstimate
    written: IntervalEstimate
    stale: IntervalEstimate
    lag: IntervalEstimate
    tokens_per_answer: IntervalEstimate
    generations_per_answer: float
    share_stored: float
    share_from_batch: float
    share_template: float
    p50_seconds: float
    p99_seconds: float


class Point(msgspec.Struct, frozen=True):
    """One age limit of the sweep."""

    minutes: float
    tokens_per_answer: float
    generations_per_answer: float
    false: float
    written: float
    stale: float
    lag: float


class EqualCost(msgspec.Struct, frozen=True):
    """The age limit that costs what the fingerprint costs (between two swept limits, linearly), side by side.

    ``fewer``: false statements per 1,000 answers that the fingerprint serves less than the age limit.
    """

    minutes: float
    tokens_per_answer: float
    age_false: float
    fingerprint_false: float
    fewer: IntervalEstimate


class Index:
    """Finds what an answer was first made as: its tokens, its wall time, its moment."""

    def __init__(self, answers: Sequence[Answered]) -> None:
        self._by_prediction = {answer.prediction: answer for answer in answers if answer.prediction}
        # A row of a batch job does not name the prediction it copies: the generation of the same text does as well.
        self._by_text = {
            (answer.subject, answer.text): answer
            for answer in answers
            if answer.made == "generated" and not answer.error
        }
        self._made: dict[tuple[str, ...], list[Answered]] = {}
        for answer in answers:
            if answer.made != "stored" and not answer.error:
                self._made.setdefault((answer.way, *answer.subject), []).append(answer)

    def origin(self, answer: Answered) -> Answered:
        """The generation behind an answer; the answer itself when it was generated or its origin is unknown."""
        seen = set()
        while answer.made != "generated" and answer.source and answer.source not in seen:
            seen.add(answer.source)
            found = self._by_prediction.get(answer.source)
            if found is None:
                break
            answer = found
        return answer if answer.made == "generated" else self._by_text.get((answer.subject, answer.text), answer)

    def made(self, answer: Answered) -> Answered:
        """What a stored answer is a copy of: the last its own way had made for the entity, if it has the same text.

        Its receipt names the first generation of the text, which may be another way's and much older. Made anew from
        an identical prompt is as good as generated at its own moment: the prompt holds every figure.
        """
        if answer.made != "stored":
            return answer
        candidates = self._made.get((answer.way, *answer.subject), [])
        last = max((one for one in candidates if one.asked <= answer.asked), key=lambda one: one.asked, default=None)
        return last if last is not None and last.text == answer.text else self.origin(answer)


def resolve(answers: Sequence[Answered], truth: Truth) -> tuple[tuple[Served, ...], tuple[Spent, ...]]:
    """Every served answer judged, and what the briefings cost."""
    index = Index(answers)
    served, spent = [], []
    for answer in answers:
        if answer.error:
            continue
        origin = index.origin(answer)
        fresh = answer.made != "stored"
        tokens = origin.tokens if fresh else 0
        if answer.path == "batch":
            spent.append(Spent(answer.flight, answer.way, tokens, fresh))
            continue
        made = index.made(answer)
        own = answer.seconds or 0.0
        seconds = max(own, origin.seconds or 0.0) if answer.made == "identical-prompt" else own
        served.append(
            Served(
                answer=answer,
                written=made.asked,
                tokens=tokens,
                generated=fresh,
                from_batch=answer.made == "stored" and made.path == "batch",
                seconds=seconds,
                judged=judge_at(answer, answer.notice, made.asked, truth),
            )
        )
    return tuple(served), tuple(spent)


def judge_at(question: Answered, notice: str, written: datetime, truth: Truth) -> tuple[Judged, ...]:
    """A notice judged by the reader who asked this question."""
    return judge(notice, Request(*question.subject), written, question.asked, truth)


class Table:
    """Per flight of one way: answers, false statements by class, tokens. What every rate and interval is made of."""

    def __init__(self, flights: Sequence[str], served: Iterable[Served], spent: Iterable[Spent]) -> None:
        place = {flight: number for number, flight in enumerate(flights)}
        names = ("answers", "tokens", "generated", *CLASSES)
        self._columns: dict[str, Any] = {name: numpy.zeros(len(flights)) for name in names}
        for one in served:
            counts = {"answers": 1, **{kind: one.false(kind) for kind in CLASSES}}
            for name, amount in {**counts, "tokens": one.tokens, "generated": one.generated}.items():
                self._columns[name][place[one.answer.flight]] += amount
        for row in spent:
            self._columns["tokens"][place[row.flight]] += row.tokens
            self._columns["generated"][place[row.flight]] += row.generated

    def rate(self, names: Sequence[str], weights: Any) -> Any:
        """The sum of these columns per answer, under each row of weights (one column per flight)."""
        total = sum(self._columns[name] for name in names)
        return (weights @ total) / numpy.maximum(weights @ self._columns["answers"], 1e-12)


class Bootstrap:
    """Resamples flights with replacement; the first row of weights is the sample itself.

    The cluster is a flight of a day: its questions see the same events and often the same text.
    """

    def __init__(self, flights: int, rounds: int, seed: int) -> None:
        generator = numpy.random.default_rng(seed)
        drawn = generator.multinomial(flights, numpy.full(flights, 1 / flights), size=rounds)
        self.weights = numpy.vstack([numpy.ones(flights), drawn])

    @staticmethod
    def interval(values: Any) -> IntervalEstimate:
        """The first value with the 2.5th and 97.5th percentile of the others."""
        low, high = numpy.nanpercentile(values[1:], [2.5, 97.5])
        return IntervalEstimate(float(values[0]), float(low), float(high))


def summarize(
    way: str, served: Sequence[Served], spent: Sequence[Spent], failed: int, flights: Sequence[str], sample: Bootstrap
) -> Way:
    """One way's row."""
    counted = Table(flights, served, spent)
    weights = sample.weights
    per_thousand = {kind: sample.interval(1000 * counted.rate([kind], weights)) for kind in CLASSES}
    seconds = numpy.array([one.seconds for one in served] or [float("nan")])
    count = max(len(served), 1)
    return Way(
        way=way,
        answers=len(served),
        failed=failed,
        statements_per_answer=sum(len(one.judged) for one in served) / count,
        false=sample.interval(1000 * counted.rate(CLASSES, weights)),
        tokens_per_answer=sample.interval(counted.rate(["tokens"], weights)),
        generations_per_answer=float(counted.rate(["generated"], weights)[0]),
        share_stored=sum(not one.generated for one in served) / count,
        share_from_batch=sum(one.from_batch for one in served) / count,
        share_template=sum(one.answer.guard == "template" for one in served) / count,
        p50_seconds=float(numpy.percentile(seconds, 50)),
        p99_seconds=float(numpy.percentile(seconds, 99)),
        **per_thousand,
    )


def by_age(
    online: Sequence[Served], briefing: Sequence[Answered], limit: timedelta, truth: Truth
) -> tuple[Served, ...]:
    """What an age limit would have served, exactly, from the online-only answers and the dawn briefing.

    Generation is deterministic: whenever the rule generates, the text is the one online-only gave at that question.
    Whenever it reuses, the text is the last one it made for the same entity. So nothing is asked again.
    """
    stored: dict[tuple[str, ...], list[tuple[datetime, str, bool]]] = {}
    for row in briefing:
        stored.setdefault(row.subject, []).append((row.asked, row.notice, True))
    served = []
    for one in sorted(online, key=lambda one: (one.answer.asked, one.answer.question)):
        question = one.answer
        made = stored.setdefault(question.subject, [])
        last = max((entry for entry in made if entry[0] <= question.asked), default=None)
        if last is None or question.asked - last[0] > limit:
            made.append((question.asked, question.notice, False))
            served.append(msgspec.structs.replace(one, generated=True, from_batch=False))
            continue
        written, notice, batch = last
        judged = judge_at(question, notice, written, truth)
        served.append(Served(question, written, 0, False, batch, one.seconds, judged))
    return tuple(served)


def sweep(
    online: Sequence[Served],
    briefing: Sequence[Answered],
    spent: Sequence[Spent],
    limits: Sequence[int],
    truth: Truth,
    flights: Sequence[str],
) -> list[tuple[Point, Table]]:
    """Every limit's cost, with what the briefing cost, and falsehood; limit 0 reuses an answer only within its own
    moment."""
    swept = []
    for minutes in (0, *limits):
        counted = Table(flights, by_age(online, briefing, timedelta(minutes=minutes), truth), spent)
        one = numpy.ones((1, len(flights)))
        rates = {kind: float(1000 * counted.rate([kind], one)[0]) for kind in CLASSES}
        point = Point(
            minutes=minutes,
            tokens_per_answer=float(counted.rate(["tokens"], one)[0]),
            generations_per_answer=float(counted.rate(["generated"], one)[0]),
            false=sum(rates.values()),
            **rates,
        )
        swept.append((point, counted))
    return swept


def equal_cost(swept: Sequence[tuple[Point, Table]], fingerprint: Table, sample: Bootstrap) -> EqualCost:
    """Compare the fingerprint with the age limit of the same tokens per answer, in every resample."""
    minutes = numpy.array([point.minutes for point, _ in swept])
    tokens = numpy.array([counted.rate(["tokens"], sample.weights) for _, counted in swept])
    false = 1000 * numpy.array([counted.rate(CLASSES, sample.weights) for _, counted in swept])
    cost = fingerprint.rate(["tokens"], sample.weights)
    own = 1000 * fingerprint.rate(CLASSES, sample.weights)
    at_cost = numpy.array([_at(tokens[:, column], false[:, column], cost[column]) for column in range(len(cost))])
    return EqualCost(
        minutes=_at(tokens[:, 0], minutes, cost[0]),
        tokens_per_answer=float(cost[0]),
        age_false=float(at_cost[0]),
        fingerprint_false=float(own[0]),
        fewer=sample.interval(at_cost - own),
    )


def _at(cost: Any, values: Any, wanted: float) -> float:
    # A longer limit costs less: interpolation wants it the other way round.
    order = numpy.argsort(cost, kind="stable")
    return float(numpy.interp(wanted, cost[order], values[order]))
