"""Metrics of two sides of a comparison: of outcomes that are known, of an application's functions, of its judge models.

Formulas and intervals are those of evaluations. Invariants: both sides are measured by the same metrics on the same
requests, intervals are clustered by user, and a judge model that too few people's scores correct decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from antiphon.catalog.learning.annotations import Annotation
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape, metric_key
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.learning.evaluation.judges import HIGHEST, LOWEST, ScoredAnswers, difference_of_means, judged_mean
from antiphon.learning.evaluation.metrics import differences, measure, metric_of, metric_title
from antiphon.learning.evaluation.scores import RowResult, scored_rows
from antiphon.learning.workbench.comparison import FigureDifference, difference, surely_better


class ComparedAnswers(msgspec.Struct, frozen=True):
    """Answers of both sides to the same requests, by request.

    Attributes:
        sides: what they are called.
        first, second: each with the outcomes that are known as ``further``, the values of the user's metrics, and who
            asked as ``user``.
        annotations: what people said of the answers.
    """

    sides: tuple[str, str]
    first: Mapping[str, RowResult]
    second: Mapping[str, RowResult]
    annotations: tuple[Annotation, ...] = ()

    def having(self, known: Callable[[RowResult], bool]) -> list[str]:
        """The requests of which something is known of both answers."""
        return [one for one, row in self.first.items() if one in self.second and known(row) and known(self.second[one])]

    def whose(self, requests: Sequence[str]) -> list[str]:
        """The user of each request."""
        return [self.first[one].cluster for one in requests]


def compare_metrics(application: ApplicationSpec, answers: ComparedAnswers) -> tuple[FigureDifference, ...]:
    """Every metric that an application has on both sides."""
    found: list[FigureDifference] = []
    for place, shape in enumerate(application.shapes):
        found += _of_outcome(shape, place == 0, answers)
    found += (_of_function(metric, answers) for metric in application.own_metrics or ())
    found += (_of_judge(metric, answers) for metric in application.judge_metrics or ())
    return tuple(found)


def _of_outcome(shape: OutcomeShape, first: bool, answers: ComparedAnswers) -> Iterator[FigureDifference]:
    known = answers.having(lambda row: shape.name in row.further and row.further[shape.name].scored)
    if len(known) < 2:
        return
    ours, theirs = (
        scored_rows(shape, [side[one].further[shape.name] for one in known]) for side in (answers.first, answers.second)
    )
    values, others, users = measure(ours), measure(theirs), answers.whose(known)
    for name, gap in differences(theirs, ours, users).items():
        if name in values and name in others:
            key = metric_key(shape, name, first)
            better = surely_better(gap, 1 if metric_of(name).higher else -1, answers.sides, users)
            yield FigureDifference(key, metric_title(key), values[name], others[name], gap, better, len(known))


def _of_function(metric: OwnMetric, answers: ComparedAnswers) -> FigureDifference:
    known, note = answers.having(lambda row: metric.name in row.own), _without(metric.name, answers)
    if not known:
        return FigureDifference(metric.name, metric.unit, None, None, None, note=note)
    ours, theirs = ([side[one].own[metric.name] for one in known] for side in (answers.first, answers.second))
    sign = 1 if metric.higher else -1
    return difference(metric.name, metric.unit, answers.sides, ours, theirs, answers.whose(known), sign, note)


def _of_judge(metric: JudgeMetric, answers: ComparedAnswers) -> FigureDifference:
    """By the means that people's scores correct; by the judge alone, which decides nothing, where they are too few."""
    unit, note = f"{LOWEST} to {HIGHEST}", _without(metric.name, answers)
    known = answers.having(lambda row: metric.name in row.own)
    sides = [[side[one] for one in known] for side in (answers.first, answers.second)]
    ours, theirs = (judged_mean(metric, rows, _people(metric, rows, answers)) for rows in sides)
    if ours is None or theirs is None:
        return FigureDifference(metric.name, unit, None, None, None, note=note)
    users = answers.whose(known)
    if ours.corrected and theirs.corrected:
        gap = difference_of_means(theirs, ours)
        better = surely_better(gap, 1, answers.sides, users)
        return FigureDifference(metric.name, unit, ours.mean.value, theirs.mean.value, gap, better, len(known), note)
    said = f"uncalibrated: {ours.people} and {theirs.people} of {metric.least} scores of people"
    first, second = ([row.own[metric.name] for row in rows] for rows in sides)
    notes = "; ".join(filter(None, (said, note)))
    return difference(metric.name, unit, answers.sides, first, second, users, 0, notes)


def _people(metric: JudgeMetric, rows: Sequence[RowResult], answers: ComparedAnswers) -> dict[tuple[str, str], float]:
    named = {row.prediction for row in rows}
    said = tuple(one for one in answers.annotations if one.prediction in named)
    return ScoredAnswers(tuple(rows), tuple(rows), said).people(metric)


def _without(name: str, answers: ComparedAnswers) -> str:
    """The number of answers without a value, and the most frequent reason."""
    rows = (*answers.first.values(), *answers.second.values())
    reasons = Counter(row.own_failed[name] for row in rows if name in row.own_failed)
    if not reasons:
        return ""
    ((reason, _),) = reasons.most_common(1)
    return f"no value of {reasons.total()} answers: {reason}"
