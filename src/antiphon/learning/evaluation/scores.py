"""Computes an evaluation from the answers to its rows. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from antiphon.catalog.learning.evaluations import Evaluation, IntervalEstimate, SampledAnswers, SuiteSummary
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape, metric_key
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.learning.datasets.reader import DatasetRow, users_of
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.intervals import mean
from antiphon.learning.evaluation.metric import ScoredRows
from antiphon.learning.evaluation.metrics import LabelForecasts
from antiphon.learning.evaluation.slices import MeasuredRows, slices
from antiphon.learning.evaluation.statements import false_statements, is_read, texts_of

T = TypeVar("T")

Mode = Literal["classes", "whole"]


class RowOutcome(msgspec.Struct, frozen=True):
    """One outcome of a row: the truth, and the answer about it.

    Attributes:
        probabilities: of its labels; empty when there was no answer, or it has none.
        said: the number or text that was answered, where the outcome is no label.
    """

    truth: str
    probabilities: dict[str, float] = {}
    said: str | None = None

    @property
    def scored(self) -> bool:
        """True where the answer says something of the outcome."""
        return bool(self.probabilities) or self.said is not None


class RowResult(msgspec.Struct, frozen=True):
    """The result of one row.

    Attributes:
        truth, probabilities, said: of the first outcome, as an :class:`RowOutcome` has them; ``further`` are the
            results of the other outcomes that are known, by name.
        own: values of the user's own metrics; ``own_failed`` why others have none.
        error: code of the error that stood in its way, ``reason`` in words.
        whole: whether the whole output was asked for; only then are ``valid`` (the first attempt as the model wrote
            it meets the schema), ``texts`` (whether it says anything in words), ``false`` (what it states falsely)
            and ``guards`` (what guards did) about something.
        fingerprint: of what answered, as the receipt has it. text: hash of the text as it was served.
        written: tokens of the completion.
        user: of the evaluation's rows the first that the same user asked, or that is of the same entity where no user
            is known; empty where each row counts by itself.
        content: :attr:`DatasetRow.content <antiphon.learning.datasets.reader.DatasetRow.content>` of the row.
    """

    example: str
    truth: str
    probabilities: dict[str, float] = {}
    error: str | None = None
    prediction: str | None = None
    whole: bool = False
    valid: bool | None = None
    texts: bool = False
    false: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    tokens: int = 0
    engine_seconds: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    fingerprint: str = ""
    text: str = ""
    said: str | None = None
    further: dict[str, RowOutcome] = {}
    own: dict[str, float] = {}
    own_failed: dict[str, str] = {}
    content: str = ""
    written: int = 0
    user: str = ""

    @property
    def first(self) -> RowOutcome:
        """The result of the first outcome."""
        return RowOutcome(self.truth, self.probabilities, self.said)

    @property
    def cluster(self) -> str:
        """Rows of one cluster are drawn together."""
        return self.user or self.example


NO_PROBABILITY = "no_probability"
"""Error of a row that was answered without the probabilities of its labels."""


class NoProbabilityError(InvalidInputError):
    """All rows were answered without the probabilities of their labels, which not every engine reports."""

    code = NO_PROBABILITY


class EvaluationRows(msgspec.Struct, frozen=True):
    """Rows and probes that an evaluation stores beside its measures, as its ``rows_blob``."""

    rows: tuple[RowResult, ...]
    probes: tuple[dict[str, Any], ...] = ()
    live: tuple[RowResult, ...] = ()
    """Of a safety report, the live release's answers to the same requests."""


def decode_rows(content: bytes) -> EvaluationRows:
    """The inverse of encoding :class:`EvaluationRows`."""
    return msgspec.json.decode(content, type=EvaluationRows)


def by_user(rows: Sequence[DatasetRow], results: Sequence[RowResult]) -> list[RowResult]:
    """The results with the user of each row."""
    users = users_of(rows)
    return [msgspec.structs.replace(one, user=users.get(one.example, "")) for one in results]


def answered(
    row: DatasetRow, receipt: Receipt, results: Mapping[str, RowOutcome], text: str, first_attempt: str,
    application: ApplicationSpec, *, whole: bool,
) -> RowResult:  # fmt: skip
    """The result of a row that got an answer: its text as it was served, and as the model wrote it first.

    Args:
        results: of each outcome that is known, by name.
    """
    false: list[str] = []
    texts = texts_of(text, application) if whole else ()
    prints = {feature.name: feature.printed for feature in receipt.features}
    for piece in texts:
        false += false_statements(piece, application.figures, prints, row.entity.values(), application.text_locale)
    shape, *others = application.shapes
    first = results[shape.name]
    missing = NO_PROBABILITY if shape.form == "label" else "no_value"
    return RowResult(
        example=row.example,
        truth=first.truth,
        probabilities=first.probabilities,
        said=first.said,
        further={one.name: results[one.name] for one in others if one.name in results},
        error=None if first.scored else missing,
        prediction=receipt.prediction,
        whole=whole,
        valid=meets(application.schema, first_attempt) if whole else None,
        texts=bool(texts),
        false=tuple(false),
        guards=tuple(sorted({guard.action for guard in receipt.guards if guard.action != "pass"})) if whole else (),
        tokens=receipt.usage.prompt_tokens + receipt.usage.completion_tokens,
        written=receipt.usage.completion_tokens,
        engine_seconds=receipt.usage.engine_seconds,
        seconds=receipt.timing.total,
        fingerprint=receipt.attempts[-1].fingerprint if receipt.attempts else "",
        text=receipt.text_blob,
    )


def meets(schema: Mapping[str, Any] | None, text: str) -> bool:
    """Tests a text against a JSON schema; without a schema, that it is not blank."""
    if schema is None:
        return bool(text.strip())
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    document = msgspec.json.decode(canonical(schema))
    # An empty registry: a reference to somewhere else is an error, never a download.
    return bool(validator_for(document)(document, registry=Registry()).is_valid(value))


def summarize(
    *,
    id: str,
    release: Release,
    dataset: str,
    mode: Mode,
    rows: Sequence[DatasetRow],
    results: Sequence[RowResult],
    left_out: Mapping[str, str],
    sampled: SampledAnswers | None,
    against: str | None,
    baseline: Sequence[RowResult],
    safety: tuple[SuiteSummary, ...],
    rows_blob: str,
    created_at: datetime,
) -> Evaluation:
    """Every measure of an evaluation but its gates.

    Args:
        rows: those that were asked about; slices are by their entities' keys and features.
        left_out: by example why a row of the dataset was not asked about.
        baseline: the rows of ``against``, compared where both were answered.

    Raises:
        InvalidInputError: no row was answered, so there is nothing to measure.
    """
    application = release.bundle.application
    scored = [row for row in results if row.first.scored]
    failed = Counter(row.error for row in results if row.error is not None)
    if not scored:
        if set(failed) == {NO_PROBABILITY}:
            raise NoProbabilityError(
                f"The engine reports no probabilities of {release.bundle.model.name}, so its forecasts are not scored.",
                where=release.id,
                next_step="Serve it by an engine that reports log-probabilities.",
            )
        why = next((row.reason for row in results if row.reason), "")
        said = ", ".join(f"{code} {count} times" for code, count in sorted(failed.items()))
        raise InvalidInputError(
            f"None of {len(results)} rows was answered: {said}. {why}".rstrip(),
            where=release.id,
            next_step="Mend the cause; a row's prediction and `antiphon explain` show it.",
        )
    shape = application.shapes[0]  # check_fits
    places: dict[OutcomeShape, list[int]] = {}
    for number, one in enumerate(application.shapes):
        found_of = [_of_outcome(row, one, number) for row in scored]
        if known := [place for place, found in enumerate(found_of) if found is not None and found.scored]:
            places[one] = known
    measured = {
        one: scored_rows(one, [found for place in known if (found := _of_outcome(scored[place], one, one != shape))])
        for one, known in places.items()
    }

    def by_name(of: Callable[[ScoredRows, Sequence[str]], dict[str, T]]) -> dict[str, T]:
        return {
            metric_key(one, name, one == shape): value
            for one, rows in measured.items()
            for name, value in of(rows, [scored[place].cluster for place in places[one]]).items()
        }

    forecasts = measured[shape]
    by_example = {row.example: row for row in rows}
    whole = [row for row in results if row.whole and (row.valid is not None)]
    written = [row for row in whole if row.texts]
    seconds = np.asarray([row.seconds for row in scored])
    return Evaluation(
        id=id,
        scope=release.scope,
        application=application.name,
        release=release.id,
        model=release.bundle.model.name,
        dataset=dataset,
        mode=mode,
        rows=len(scored),
        positive=shape.positive,
        labels=_labels(shape, scored),
        failed={str(code): count for code, count in sorted(failed.items())},
        metrics=by_name(metrics.intervals) | own_means(application, scored),
        advantages=by_name(metrics.advantages),
        reliability=metrics.reliability(forecasts) if isinstance(forecasts, LabelForecasts) else (),
        slices=slices(
            application.gates.slices,
            [by_example[row.example] for row in scored],
            [row.truth if shape.form == "label" else None for row in scored],
            [
                *(
                    MeasuredRows(tuple(places[one]), found, prefix=metric_key(one, "", one == shape))
                    for one, found in measured.items()
                ),
                *_own_values(application, scored),
            ],
        ),
        whole_rows=len(whole),
        valid_share=_share(row.valid is True for row in whole),
        false_share=_share(bool(row.false) for row in written) if is_read(application.text_locale) else None,
        guard_share=_share(bool(set(row.guards) - {"flag"}) for row in whole),
        seconds_p50=float(np.percentile(seconds, 50)),
        seconds_p99=float(np.percentile(seconds, 99)),
        tokens=float(np.mean([row.tokens for row in scored])),
        engine_seconds=float(np.mean([row.engine_seconds for row in scored])),
        fingerprints=tuple(sorted({row.fingerprint for row in results} - {""})),
        against=against,
        difference=differences(application.shapes, scored, baseline) | own_differences(application, scored, baseline),
        gates=(),
        rows_blob=rows_blob,
        created_at=created_at,
        guards=dict(sorted(Counter(action for row in whole for action in row.guards).items())),
        safety=safety,
        outcomes=application.shapes,
        own_failures=dict(sorted(Counter(name for row in results for name in row.own_failed).items())),
        whole_tokens=_mean([row.tokens for row in whole if row.prediction is not None]),
        length_ratio=_length_ratio(whole, baseline),
        left_out=dict(sorted(Counter(left_out.values()).items())),
        sampled=sampled,
        clusters=len({row.user for row in scored} - {""}),
        units=units_of(application),
    )


def units_of(application: ApplicationSpec) -> dict[str, str]:
    """The units of the user's own metrics, by name; without those that have none."""
    return {one.name: one.unit for one in application.own_metrics or () if one.unit}


def _own_values(application: ApplicationSpec, scored: Sequence[RowResult]) -> Iterator[MeasuredRows]:
    """The values of the user's own metrics and of judge models, to be sliced."""
    for name in application.user_metrics:
        if found := [(place, row.own[name]) for place, row in enumerate(scored) if name in row.own]:
            places, values = zip(*found, strict=True)
            yield MeasuredRows(places, values=values, prefix=name)


def _mean(values: Sequence[int]) -> float | None:
    return float(np.mean(values)) if values else None


def _length_ratio(ours: Sequence[RowResult], theirs: Sequence[RowResult]) -> float | None:
    """The middle ratio, above 1, of the lengths of both releases' whole outputs for the same row."""
    known = {row.example: row.written for row in theirs if row.whole and row.written}
    ratios = [row.written / known[row.example] for row in ours if row.written and row.example in known]
    return max(middle := float(np.median(ratios)), 1 / middle) if ratios else None


Interval = Callable[[OwnMetric, Sequence[float], Sequence[str]], IntervalEstimate]
"""Makes the interval of the mean of some values of a metric, or of their differences, in clusters."""


def _of_many(metric: OwnMetric, values: Sequence[float], clusters: Sequence[str]) -> IntervalEstimate:
    return mean(values, clusters)


def own_means(
    application: ApplicationSpec, rows: Sequence[RowResult], interval: Interval = _of_many
) -> dict[str, IntervalEstimate]:
    """The mean of each of the user's own metrics, over the rows that have a value."""
    found = {}
    for one in application.own_metrics or ():
        if having := [row for row in rows if one.name in row.own]:
            found[one.name] = interval(one, [row.own[one.name] for row in having], [row.cluster for row in having])
    return found


def own_differences(
    application: ApplicationSpec, ours: Sequence[RowResult], theirs: Sequence[RowResult], interval: Interval = _of_many
) -> dict[str, IntervalEstimate]:
    """The mean of (ours − theirs) on the rows where both have a value."""
    known = {row.example: row.own for row in theirs}
    found = {}
    for one in application.own_metrics or ():
        both = [row for row in ours if one.name in row.own and one.name in known.get(row.example, {})]
        gaps = [row.own[one.name] - known[row.example][one.name] for row in both]
        if gaps:
            found[one.name] = interval(one, gaps, [row.cluster for row in both])
    return found


def differences(
    shapes: Sequence[OutcomeShape], ours: Sequence[RowResult], theirs: Sequence[RowResult]
) -> dict[str, IntervalEstimate]:
    """Metric to (ours − theirs) on the rows that both answered and agree on the truth of; empty when there is none."""
    known = {row.example: row for row in theirs}
    found: dict[str, IntervalEstimate] = {}
    for place, shape in enumerate(shapes):
        both = [
            (_of_outcome(row, shape, place), _of_outcome(known[row.example], shape, place), row.cluster)
            for row in ours
            if row.example in known
        ]
        pairs = [
            (one, other, cluster)
            for one, other, cluster in both
            if one is not None and other is not None and one.scored and other.scored and one.truth == other.truth
        ]
        if pairs:
            first = scored_rows(shape, [pair[0] for pair in pairs])
            second = scored_rows(shape, [pair[1] for pair in pairs])
            differing = metrics.differences(first, second, [pair[2] for pair in pairs])
            found |= {metric_key(shape, name, place == 0): value for name, value in differing.items()}
    return found


def _of_outcome(row: RowResult, shape: OutcomeShape, place: int) -> RowOutcome | None:
    return row.first if place == 0 else row.further.get(shape.name)


def scored_rows(shape: OutcomeShape, results: Sequence[RowOutcome]) -> ScoredRows:
    """Results that say something of an outcome, to be measured."""
    return metrics.read_rows(shape, [(one.probabilities, one.said, one.truth) for one in results])


def _labels(shape: OutcomeShape, rows: Sequence[RowResult]) -> dict[str, int]:
    return dict(sorted(Counter(row.truth for row in rows).items())) if shape.form == "label" else {}


def _share(flags: Any) -> float | None:
    known = list(flags)
    return sum(known) / len(known) if known else None
