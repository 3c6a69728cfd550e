"""Ceilings of a live release's measures: from its objectives, its evaluation, and its answers in the evaluation.

Invariant: ceilings are fixed before anything is counted against them, so that nothing is fitted to what is tested. The
error of what they are taken from is added to the margin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.releases.watches import Bins, MeasureEvidence
from antiphon.catalog.serving.receipt import Receipt
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.definitions.quality import WatchAction
from antiphon.definitions.watches import COUNTED, WATCHED, WatchSpec
from antiphon.learning.outcomes.drift import Printed, ValueBins, answer_tokens, forecasts, printed_features
from antiphon.learning.watching.losses import calibration_error, loss_of

VIEW = "view:"
"""Begin of the names of measures that are the values of a view."""

LEAST_ROWS = 100
"""Rows that an evaluation, or outcomes that a rollout, must have had."""

_HIGHEST = 0.97
"""Above a ceiling of this nothing can be told."""

_SURE = 3.0
"""Standard errors that are added to what a ceiling is taken from."""

_USUAL_BUDGET = 0.01


@dataclass(frozen=True)
class ReleaseHistory:
    """All that ceilings are taken from.

    Attributes:
        targets: kind of objective to the share that must be good.
        evaluation: the last one; ``None`` without any.
        answers: receipts of the evaluation's answers. outcomes: of its answers before it went live, in a rollout.
        views: view to what is declared for it.
    """

    application: ApplicationSpec
    targets: Mapping[str, float]
    evaluation: Evaluation | None
    answers: Sequence[Receipt]
    outcomes: Sequence[OutcomeRecord]
    views: Mapping[str, WatchAction]


def ceilings_of(watch: WatchSpec, history: ReleaseHistory) -> dict[str, MeasureEvidence]:
    """Every measure that is watched, before the first value."""
    found = {name: _counted(watch, history, name) for name in COUNTED if watch.action(name) != "off"}
    shape = history.application.shape
    for name in ("quality", "calibration"):
        if watch.action(name) == "off":
            continue
        made = _quality if name == "quality" else _calibration
        found[name] = (
            MeasureEvidence(name, note="The application declares no outcome.")
            if shape is None
            else made(watch, history, shape)
        )
    if watch.action("outputs") != "off":
        found["outputs"] = _binned("outputs", output_values(history.answers, history.application), watch.drift_margin)
    printed = printed_features(history.answers)
    for view, action in sorted(history.views.items()):
        if action != "off":
            own = {name: values for name, values in printed.items() if name.partition(".")[0] == view}
            found[f"{VIEW}{view}"] = _binned(f"{VIEW}{view}", own, watch.drift_margin)
    return found


def shares_of_alpha(watch: WatchSpec, views: Mapping[str, WatchAction]) -> int:
    """The number of measures that may be decided by, measured or not: each has this part of the chance of an error."""
    return max(
        1,
        sum(watch.action(name) != "off" for name in WATCHED) + sum(action != "off" for action in views.values()),
    )


def output_values(receipts: Sequence[Receipt], application: ApplicationSpec) -> dict[str, list[Printed]]:
    """The values of answers: the probabilities of labels, and the lengths of texts."""
    found: dict[str, list[Printed]] = {"length": answer_tokens(receipts)}
    for shape in application.shapes:
        if shape.form == "label" and shape.property is not None:
            for label in shape.labels if shape.positive is None else (shape.positive,):
                found[f"{shape.property}={label}"] = forecasts(receipts, shape.property, label)
    return {name: values for name, values in found.items() if values}


def _counted(watch: WatchSpec, history: ReleaseHistory, name: str) -> MeasureEvidence:
    if name == "invalid":
        return MeasureEvidence(name, watch.invalid_share, f"{watch.invalid_share:.1%} of the answers are declared")
    budget = 1 - history.targets.get(name, 1 - _USUAL_BUDGET)
    ceiling = watch.burn * budget
    basis = f"{watch.burn:g} times the error budget of {budget:.2%}"
    if ceiling >= _HIGHEST:
        return MeasureEvidence(name, basis=basis, note=f"{basis} is all requests.")
    return MeasureEvidence(name, ceiling, basis)


def _quality(watch: WatchSpec, history: ReleaseHistory, shape: OutcomeShape) -> MeasureEvidence:
    evaluation = history.evaluation
    known = None if evaluation is None else evaluation.metrics.get(shape.deciding)
    if evaluation is not None and known is not None and evaluation.rows >= LEAST_ROWS:
        worst = known.high / shape.span if shape.form in ("label", "number") else 1.0 - known.low
        basis = f"the {shape.deciding_title} of its evaluation, {known.value:.3f}, at its worse bound"
        return _under("quality", worst + watch.quality_margin, f"{basis}, and a margin of {watch.quality_margin:g}")
    losses = [loss for one in history.outcomes if (loss := loss_of(one, shape)) is not None]
    if len(losses) < LEAST_ROWS:
        note = f"Neither an evaluation nor a rollout has {LEAST_ROWS} outcomes to compare with."
        return MeasureEvidence("quality", note=note)
    mean = sum(losses) / len(losses)
    deviation = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / len(losses))
    worst = mean + _SURE * deviation / math.sqrt(len(losses))
    basis = f"its loss in its rollout, {mean:.3f} over {len(losses):,} outcomes, and a margin"
    return _under("quality", worst + watch.quality_margin, f"{basis} of {watch.quality_margin:g}")


def _calibration(watch: WatchSpec, history: ReleaseHistory, shape: OutcomeShape) -> MeasureEvidence:
    if shape.form != "label":
        return MeasureEvidence("calibration", note="Its outcome is no label, so that it states no probabilities.")
    errors = [error for one in history.outcomes if (error := calibration_error(one, shape)) is not None]
    rows, bias = len(errors), sum(errors) / len(errors) if errors else 0.0
    evaluation = history.evaluation
    if evaluation is not None and evaluation.rows >= LEAST_ROWS:
        bins = evaluation.reliability if shape.positive is not None else ()
        rows, counted = evaluation.rows, sum(one.rows for one in bins)
        bias = sum(one.rows * (one.observed - one.forecast) for one in bins) / counted if counted else 0.0
    elif rows < LEAST_ROWS:
        note = f"Neither an evaluation nor a rollout has {LEAST_ROWS} outcomes to compare with."
        return MeasureEvidence("calibration", note=note)
    most = abs(bias) + watch.calibration_margin + _SURE * 0.5 / math.sqrt(rows)
    basis = f"a bias of {bias:+.3f} then, and a margin of {watch.calibration_margin:g}"
    if most >= _HIGHEST:
        return MeasureEvidence("calibration", basis=basis, note="Then it was as far off as can be.")
    return MeasureEvidence("calibration", most, basis)


def _under(name: str, ceiling: float, basis: str) -> MeasureEvidence:
    if ceiling >= _HIGHEST:
        return MeasureEvidence(name, basis=basis, note="It was as bad as can be told.")
    return MeasureEvidence(name, ceiling, basis)


def _binned(name: str, values: Mapping[str, Sequence[Printed]], margin: float) -> MeasureEvidence:
    bins = {variable: bins_of(seen, margin) for variable, seen in sorted(values.items()) if len(seen) >= LEAST_ROWS}
    if not bins:
        return MeasureEvidence(name, note=f"Its evaluation has fewer than {LEAST_ROWS} answers with values to compare.")
    basis = (
        f"shares in {max(one.rows for one in bins.values()):,} answers of its evaluation, and a margin of {margin:g}"
    )
    return MeasureEvidence(name, basis=basis, bins=bins)


def bins_of(reference: Sequence[Printed], margin: float) -> Bins:
    """The bins of an evaluation's values, each with the share that it may have."""
    binned = ValueBins.of(reference)
    counts, rows, names = Counter(map(binned, reference)), len(reference), binned.names
    ceilings = []
    for name in names:
        share = (counts[name] + 1) / (rows + len(names))
        highest = share + _SURE * math.sqrt(share * (1 - share) / rows) + margin
        ceilings.append(highest if highest < _HIGHEST else 1.0)
    return Bins(None if binned.cuts is None else tuple(binned.cuts), names, tuple(ceilings), rows)
