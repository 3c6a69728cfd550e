"""Metrics with their intervals, and those of forecasts of labels: pure functions of answers and of what came true.

Every array is one value a row, in the same order. Intervals are percentile bootstrap intervals (Efron and
Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3): rows are drawn again with replacement by a seeded
generator, so the same input gives the same interval. Two forecasters are compared on the same drawn rows (paired): what
makes a row hard is the same for both. The trivial forecaster is fitted to the rows that it is compared on, which is
never to its disadvantage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from antiphon.catalog.learning.evaluations import Bin, IntervalEstimate
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import OutcomeForm, OutcomeShape
from antiphon.learning.evaluation.fields import FIELDS
from antiphon.learning.evaluation.metric import Floats, Metric, ScoredRows
from antiphon.learning.evaluation.numbers import NUMBER_METRICS, NumberAnswers
from antiphon.learning.evaluation.texts import TEXT, RowComparison, TextAnswers

RESAMPLES = 2_000
"""Draws of a bootstrap: the 2.5th percentile is then the 50th smallest, known to a few per cent of its own distance."""
CLIP = 1e-6
"""Log-loss takes no forecast as surer than this, so that one certain mistake does not make it infinite."""
SEED = 20_130_401

_SUM = 1e-6
"""Allowed distance of a row's probabilities from adding to 1."""


@dataclass(frozen=True)
class LabelForecasts:
    """Forecasts of labels and what came true.

    Attributes:
        labels: names of the columns; of a question of yes or no the two are "not it" and "it".
        probabilities: rows × labels; each row adds to 1.
        truth: column of the label that came true.
        of_many: every label counts; otherwise the last one is the answer yes, and its probability the forecast.
    """

    labels: tuple[str, ...]
    probabilities: Floats
    truth: NDArray[np.intp]
    of_many: bool

    @classmethod
    def read(
        cls, rows: Sequence[tuple[Mapping[str, float], str]], labels: Sequence[str], positive: str | None = None
    ) -> LabelForecasts:
        """The forecasts of rows of (label to probability, label that came true).

        Args:
            labels: all there are, in order. positive: the label that stands for yes; ``None`` of labels of many.

        Raises:
            InvalidInputError: there is no row, a truth is no label, or probabilities are none.
        """
        if not rows:
            raise InvalidInputError("There is no forecast to score.", where="rows")
        if positive is not None:
            yes = [forecast.get(positive, np.nan) for forecast, _ in rows]
            return cls.yes_or_no(yes, [label == positive for _, label in rows], positive)
        found = np.array([[forecast.get(label, 0.0) for label in labels] for forecast, _ in rows], np.float64)
        places = {label: place for place, label in enumerate(labels)}
        unknown = sorted({label for _, label in rows} - places.keys())
        if unknown:
            raise InvalidInputError(f"{', '.join(unknown)} came true and is none of {', '.join(labels)}.", where="rows")
        return cls._checked(tuple(labels), found, np.array([places[label] for _, label in rows], np.intp), True)

    @classmethod
    def yes_or_no(cls, forecast: ArrayLike, truth: ArrayLike, label: str = "yes") -> LabelForecasts:
        """The forecasts of a question of yes or no: probabilities of yes, and what came true; raises as
        :meth:`read`."""
        yes, came_true = np.asarray(forecast, np.float64), np.asarray(truth, np.float64)
        if yes.shape != came_true.shape or yes.ndim != 1 or not yes.size:
            raise InvalidInputError(
                f"{yes.size} forecasts cannot be scored against {came_true.size} truths.", where="rows"
            )
        if not np.all((came_true == 0) | (came_true == 1)):
            raise InvalidInputError("A truth is 0 or 1.", where="rows")
        return cls._checked(
            (f"not {label}", label), np.stack([1.0 - yes, yes], axis=1), came_true.astype(np.intp), False
        )

    @classmethod
    def _checked(
        cls, labels: tuple[str, ...], probabilities: Floats, truth: NDArray[np.intp], of_many: bool
    ) -> LabelForecasts:
        sums = probabilities.sum(axis=1)
        if not np.all((probabilities >= 0) & (probabilities <= 1)) or not np.allclose(sums, 1.0, rtol=0, atol=_SUM):
            raise InvalidInputError("Forecasts are probabilities from 0 to 1 that add to 1.", where="rows")
        return cls(labels, probabilities, truth, of_many)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.truth)

    @property
    def shares(self) -> Floats:
        """The share of the rows in which each label came true."""
        return np.bincount(self.truth, minlength=len(self.labels)) / self.rows

    @property
    def classes(self) -> int:
        """The number of labels that came true anywhere."""
        return int(np.count_nonzero(self.shares))

    def at(self, chosen: Any) -> LabelForecasts:
        """The rows at these places, each as often as it is named."""
        return replace(self, probabilities=self.probabilities[chosen], truth=self.truth[chosen])

    def trivial(self) -> LabelForecasts:
        """The forecasts of one that knows the labels' shares on the same rows, and nothing else."""
        return replace(self, probabilities=np.broadcast_to(self.shares, self.probabilities.shape))

    @property
    def metrics(self) -> Mapping[str, Metric[Any]]:
        """The metrics of these rows, by name."""
        return LABEL_METRICS

    def losses(self) -> Floats:
        """The Brier score of each row."""
        return brier_of_rows(self)

    def same_truth(self, others: LabelForecasts) -> bool:
        """Tells whether the same labels came true in other rows."""
        return self.labels == others.labels and np.array_equal(self.truth, others.truth)


def auc(forecasts: LabelForecasts) -> float:
    """Area under the ROC curve: the chance that a row of the label has the higher forecast of it, ties counting half.

    By ranks (Hanley and McNeil, Radiology 143, 1982; Mann-Whitney U with mid-ranks). Of labels of many the mean of one
    against the rest over the labels that came true (Provost and Domingos, 2001, without weights). ``nan`` where only
    one label came true.
    """
    columns = range(len(forecasts.labels)) if forecasts.of_many else (1,)
    areas = [_area(forecasts.probabilities[:, column], forecasts.truth == column) for column in columns]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def _area(forecast: Floats, came_true: NDArray[np.bool_]) -> float:
    positives = int(came_true.sum())
    negatives = len(came_true) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(forecast, return_inverse=True, return_counts=True)
    highest = np.cumsum(counts)
    middle = highest - (counts - 1) / 2.0
    ranks = middle[inverse]
    return float((ranks[came_true].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def brier(forecasts: LabelForecasts) -> float:
    """Mean squared distance of the forecast from what happened, summed over the labels and halved: from 0 to 1, and of
    two labels that of either (Brier, Monthly Weather Review 78, 1950)."""
    return float(np.mean(brier_of_rows(forecasts)))


def brier_of_rows(forecasts: LabelForecasts) -> Floats:
    """The Brier score of each row."""
    outcomes = np.eye(len(forecasts.labels))[forecasts.truth]
    return np.asarray(0.5 * np.sum((forecasts.probabilities - outcomes) ** 2, axis=1))


def log_loss(forecasts: LabelForecasts) -> float:
    """Mean negative log-likelihood in nats, forecasts clipped to :data:`CLIP` from 0 and 1."""
    true = forecasts.probabilities[np.arange(forecasts.rows), forecasts.truth]
    return float(-np.mean(np.log(np.clip(true, CLIP, 1 - CLIP))))


def accuracy(forecasts: LabelForecasts) -> float:
    """Share of rows in which the most probable label came true; of equally probable ones the first is meant."""
    return float(np.mean(forecasts.probabilities.argmax(axis=1) == forecasts.truth))


def macro_f1(forecasts: LabelForecasts) -> float:
    """Mean over the labels that came true or were said of F1, the harmonic mean of precision and recall.

    Each label counts the same, however rare, so that missing all of one costs as much as missing all of another
    (van Rijsbergen, *Information Retrieval*, 1979; the mean of F1 as in Opitz and Burst, 2019).
    """
    said = forecasts.probabilities.argmax(axis=1)
    found = []
    for column in range(len(forecasts.labels)):
        hits = int(np.sum((said == column) & (forecasts.truth == column)))
        either = int(np.sum(said == column)) + int(np.sum(forecasts.truth == column))
        if either:
            found.append(2.0 * hits / either)
    return float(np.mean(found))


def reliability(forecasts: LabelForecasts, bins: int = 10) -> tuple[Bin, ...]:
    """Rows by equally wide bins of the forecast, empty ones left out; a forecast of 1 is in the last one.

    Of labels of many the forecast is the probability of the most probable one, and how often that came true (Guo et
    al., "On calibration of modern neural networks", 2017).
    """
    if forecasts.of_many:
        said = forecasts.probabilities.argmax(axis=1)
        forecast, truth = forecasts.probabilities.max(axis=1), (said == forecasts.truth).astype(np.float64)
    else:
        forecast, truth = forecasts.probabilities[:, 1], forecasts.truth.astype(np.float64)
    place = np.minimum((forecast * bins).astype(int), bins - 1)
    return tuple(
        Bin(float(forecast[place == one].mean()), float(truth[place == one].mean()), int((place == one).sum()))
        for one in range(bins)
        if (place == one).any()
    )


LABEL_METRICS: dict[str, Metric[LabelForecasts]] = {
    "auc": Metric("auc", auc, True, "label"),
    "brier": Metric("brier", brier, False, "label"),
    "log_loss": Metric("log_loss", log_loss, False, "label"),
    "accuracy": Metric("accuracy", accuracy, True, "label"),
    "macro_f1": Metric("macro_f1", macro_f1, True, "label"),
}

METRICS: dict[str, Metric[Any]] = {**LABEL_METRICS, **NUMBER_METRICS, **TEXT.metrics, **FIELDS.metrics}
"""The metrics of an evaluation, by name."""

TRIVIAL: dict[OutcomeForm, str] = {
    "label": "a forecaster that knows the labels' shares alone",
    "number": "one that always says the median",
    "reference": "any constant text, or the answers to other rows",
    "correction": "any constant output, or the answers to other rows",
}
"""The trivial forecaster of each form of outcome, in words."""


def metric_of(name: str) -> Metric[Any]:
    """The metric of an evaluation's name, which is ``OUTCOME.METRIC`` of all outcomes but the first."""
    return METRICS[name.rpartition(".")[2]]


def metric_title(name: str) -> str:
    """A metric's title, after its outcome's name where that is not the first; of the user's own its name."""
    outcome, _, metric = name.rpartition(".")
    found = METRICS[metric].title if metric in METRICS else metric.replace("_", " ")
    return f"{outcome}: {found}" if outcome else found


def title(name: str) -> str:
    """A metric's title, with a capital letter."""
    found = metric_title(name)
    return f"{found[0].upper()}{found[1:]}"


def read_rows(shape: OutcomeShape, rows: Sequence[tuple[Mapping[str, float], str | None, str]]) -> ScoredRows:
    """Rows of (probabilities of labels, what was said, what came true), by the form of their outcome.

    Raises:
        InvalidInputError: there is none, or one cannot be scored.
    """
    if shape.form == "label":
        return LabelForecasts.read([(forecast, truth) for forecast, _, truth in rows], shape.labels, shape.positive)
    texts = [(said or "", truth) for _, said, truth in rows]
    if shape.form == "number":
        return NumberAnswers.read(texts, shape.span)
    return TextAnswers.read(texts, scoring_of(shape))


def scoring_of(shape: OutcomeShape) -> RowComparison:
    """The way to compare an answer with a reference text or a corrected output."""
    return FIELDS if shape.form == "correction" else TEXT


def measure(rows: ScoredRows) -> dict[str, float]:
    """Every metric that the rows allow: without the AUC where one label alone came true."""
    found = {name: metric.of(rows) for name, metric in rows.metrics.items()}
    return {name: value for name, value in found.items() if not np.isnan(value)}


def intervals(rows: ScoredRows, *, seed: int = SEED, resamples: int = RESAMPLES) -> dict[str, IntervalEstimate]:
    """Every metric with its 95 % interval."""
    return _each(rows, lambda metric, places: metric.of(rows.at(places)), seed, resamples)


def advantages(rows: ScoredRows) -> dict[str, IntervalEstimate]:
    """The amount by which each metric is better than the trivial forecaster's, with its 95 % interval."""

    def advantage(metric: Metric[Any], places: Any) -> float:
        drawn = rows.at(places)
        # Sums in another order differ in their last bits, which must not be an advantage.
        return round(metric.better(metric.of(drawn), metric.of(drawn.trivial())), 12)

    return _each(rows, advantage, SEED, RESAMPLES)


def differences(
    rows: ScoredRows, others: ScoredRows, *, seed: int = SEED, resamples: int = RESAMPLES
) -> dict[str, IntervalEstimate]:
    """Each metric minus another forecaster's on identical rows, with the 95 % interval of the paired bootstrap.

    Raises:
        InvalidInputError: the rows are not the same.
    """
    if type(rows) is not type(others) or not rows.same_truth(others):
        raise InvalidInputError("Forecasts of different rows cannot be compared by pairs.", where="rows")

    def difference(metric: Metric[Any], places: Any) -> float:
        return metric.of(rows.at(places)) - metric.of(others.at(places))

    return _each(rows, difference, seed, resamples)


def _each(
    rows: ScoredRows, statistic: Callable[[Metric[Any], Any], float], seed: int, resamples: int
) -> dict[str, IntervalEstimate]:
    """A statistic of each metric, of all rows and with its interval over rows that are drawn again."""
    found = {}
    for name, metric in rows.metrics.items():
        value = statistic(metric, slice(None))
        if np.isnan(value):
            continue
        generator = np.random.default_rng(seed)
        drawn = [statistic(metric, generator.integers(0, rows.rows, rows.rows)) for _ in range(resamples)]
        # A draw without one of the classes has no area under the curve; it says nothing, so it is left out.
        known = [one for one in drawn if not np.isnan(one)]
        low, high = np.percentile(known, [2.5, 97.5]) if known else (value, value)
        found[name] = IntervalEstimate(value, float(low), float(high))
    return found


def mean(values: Sequence[float]) -> IntervalEstimate:
    """The mean of values with its 95 % interval."""
    found, generator = np.asarray(values, np.float64), np.random.default_rng(SEED)
    drawn = [found[generator.integers(0, len(found), len(found))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return IntervalEstimate(float(found.mean()), float(low), float(high))


def wilson(successes: int, trials: int, z: float = 1.959964) -> IntervalEstimate | None:
    """A share with Wilson's score interval (E. B. Wilson, JASA 22, 1927), 95 % by default; ``None`` without trials."""
    if trials == 0:
        return None
    share, extra = successes / trials, z * z / trials
    center = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * (share * (1 - share) / trials + extra / (4 * trials)) ** 0.5
    return IntervalEstimate(share, max(center - half, 0.0), min(center + half, 1.0))
