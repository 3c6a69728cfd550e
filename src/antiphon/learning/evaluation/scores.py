"""Computes an evaluation from the answers to its rows. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np

from antiphon.catalog.learning.evaluations import Evaluation, IntervalEstimate, Slice, SuiteSummary
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipts import Receipt
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical
from antiphon.definitions.application import ApplicationSpec
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import LabelForecasts
from antiphon.learning.evaluation.statements import false_statements, texts_of

Mode = Literal["classes", "whole"]


class RowResult(msgspec.Struct, frozen=True):
    """The result of one row.

    Attributes:
        truth: the label that came true.
        probabilities: of the labels; empty when there was no answer.
        error: code of the error that stood in its way, ``reason`` in words.
        whole: whether the whole output was asked for; only then are ``valid`` (the first attempt as the model wrote
            it meets the schema), ``texts`` (whether it says anything in words), ``false`` (what it states falsely)
            and ``guards`` (what guards did) about something.
        fingerprint: of what answered, as the receipt has it.
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


NO_PROBABILITY = "no_probability"
"""Error of a row that was answered without the probabilities of its labels."""


class NoProbabilityError(InvalidInputError):
    """All rows were answered without the probabilities of their labels, which not every engine reports."""

    code = NO_PROBABILITY


class EvaluationRows(msgspec.Struct, frozen=True):
    """Rows and probes that an evaluation stores beside its measures, as its ``rows_blob``."""

    rows: tuple[RowResult, ...]
    probes: tuple[dict[str, Any], ...] = ()


def decode_rows(content: bytes) -> EvaluationRows:
    """The inverse of encoding :class:`EvaluationRows`."""
    return msgspec.json.decode(content, type=EvaluationRows)


def answered(
    row: DatasetRow, receipt: Receipt, probabilities: dict[str, float], text: str, first_attempt: str,
    application: ApplicationSpec, *, whole: bool,
) -> RowResult:  # fmt: skip
    """The result of a row that got an answer: its text as it was served, and as the model wrote it first.

    Args:
        probabilities: those that it gave to the outcome's labels.
    """
    false: list[str] = []
    texts = texts_of(text, application) if whole else ()
    prints = {feature.name: feature.printed for feature in receipt.features}
    for piece in texts:
        false += false_statements(piece, application.figures, prints, row.entity.values())
    return RowResult(
        example=row.example,
        truth=row.label,
        probabilities=probabilities,
        error=None if probabilities else NO_PROBABILITY,
        prediction=receipt.prediction,
        whole=whole,
        valid=meets(application.schema, first_attempt) if whole else None,
        texts=bool(texts),
        false=tuple(false),
        guards=tuple(sorted({guard.action for guard in receipt.guards if guard.action != "pass"})) if whole else (),
        tokens=receipt.usage.prompt_tokens + receipt.usage.completion_tokens,
        engine_seconds=receipt.usage.engine_seconds,
        seconds=receipt.timing.total,
        fingerprint=receipt.attempts[-1].fingerprint if receipt.attempts else "",
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
    against: str | None,
    baseline: Sequence[RowResult],
    safety: tuple[SuiteSummary, ...],
    rows_blob: str,
    created_at: datetime,
) -> Evaluation:
    """Every measure of an evaluation but its gates.

    Args:
        rows: those that were asked about; slices are by their entities' keys.
        baseline: the rows of ``against``, compared where both were answered.

    Raises:
        InvalidInputError: no row was answered, so there is nothing to measure.
    """
    application = release.bundle.application
    scored = [row for row in results if row.probabilities]
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
    outcome = application.outcome
    assert outcome is not None  # Rows have labels.
    forecasts = _forecasts(scored, outcome.positive)
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
        positive=outcome.positive,
        labels=_labels(scored),
        failed={str(code): count for code, count in sorted(failed.items())},
        metrics=metrics.intervals(forecasts),
        advantages=metrics.advantages(forecasts),
        reliability=metrics.reliability(forecasts),
        slices=slices(scored, {row.example: row.entity for row in rows}, application.gates.slices, outcome.positive),
        whole_rows=len(whole),
        valid_share=_share(row.valid is True for row in whole),
        false_share=_share(bool(row.false) for row in written),
        guard_share=_share(bool(set(row.guards) - {"flag"}) for row in whole),
        seconds_p50=float(np.percentile(seconds, 50)),
        seconds_p99=float(np.percentile(seconds, 99)),
        tokens=float(np.mean([row.tokens for row in scored])),
        engine_seconds=float(np.mean([row.engine_seconds for row in scored])),
        fingerprints=tuple(sorted({row.fingerprint for row in results} - {""})),
        against=against,
        difference=differences(scored, baseline, outcome.positive),
        gates=(),
        rows_blob=rows_blob,
        created_at=created_at,
        guards=dict(sorted(Counter(action for row in whole for action in row.guards).items())),
        safety=safety,
    )


def slices(
    scored: Sequence[RowResult],
    entities: Mapping[str, Mapping[str, str]],
    keys: Sequence[str],
    positive: str | None,
) -> tuple[Slice, ...]:
    """The metrics by the values of each key, a key's largest slice first."""
    found = []
    for key in keys:
        parts: dict[str, list[RowResult]] = {}
        for row in scored:
            parts.setdefault(entities[row.example][key], []).append(row)
        for value, rows in sorted(parts.items(), key=lambda part: (-len(part[1]), part[0])):
            measured = metrics.measure(_forecasts(rows, positive))
            found.append(Slice(key=key, value=value, rows=len(rows), labels=_labels(rows), metrics=measured))
    return tuple(found)


def differences(
    ours: Sequence[RowResult], theirs: Sequence[RowResult], positive: str | None
) -> dict[str, IntervalEstimate]:
    """Metric to (ours − theirs) on the rows that both answered and agree on the truth of; empty when there is none.

    ``positive`` is the label of a question of yes or no whose probability they have.
    """
    known = {row.example: row for row in theirs if row.probabilities}
    pairs = [
        (row, known[row.example])
        for row in ours
        if row.probabilities and row.example in known and known[row.example].truth == row.truth
    ]
    if not pairs:
        return {}
    first, second = (_forecasts([pair[side] for pair in pairs], positive) for side in (0, 1))
    return metrics.differences(first, second)


def _forecasts(rows: Sequence[RowResult], positive: str | None) -> LabelForecasts:
    labels = tuple(dict.fromkeys(label for row in rows for label in row.probabilities))
    return LabelForecasts.read([(row.probabilities, row.truth) for row in rows], labels, positive)


def _labels(rows: Sequence[RowResult]) -> dict[str, int]:
    return dict(sorted(Counter(row.truth for row in rows).items()))


def _share(flags: Any) -> float | None:
    known = list(flags)
    return sum(known) / len(known) if known else None
