"""Metrics with their intervals, and those of forecasts of labels: pure functions of answers and of what came true.

Every array is one value a row, in the same order. Intervals are of rows that are drawn again, those of a user together
(``intervals``). Two forecasters are compared on the same drawn rows (paired): what makes a row hard is the same for
both. The trivial forecaster is fitted to the rows that it is compared on, which is never to its disadvantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from antiphon.catalog.learning.evaluations import Bin, IntervalEstimate
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import OutcomeForm, OutcomeShape
from antiphon.learning.evaluation.fields import FIELDS
from antiphon.learning.evaluation.intervals import RESAMPLES, SEED, Clusters, drawn_again
from antiphon.learning.evaluation.metric import Floats, Metric, ScoredRows, all_of, means
from antiphon.learning.evaluation.numbers import NUMBER_METRICS, NumberAnswers
from antiphon.learning.evaluation.texts import TEXT, RowComparison, TextAnswers

CLIP = 1e-6
"""Log-loss takes no forecast as surer than this, so that one certain mistake does not make it infinite."""

BINS = 10
"""Equally wide bins of a forecast, by which reliability is shown and calibration is measured."""

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

    def trivial(self, weights: Floats) -> Mapping[str, Floats]:
        """The metrics of one that knows the labels' shares on the same rows, and nothing else."""
        shares = means(weights, np.eye(len(self.labels))[self.truth])
        highest, several = shares.max(axis=1), np.count_nonzero(shares, axis=1)
        surprises = np.log(np.clip(shares, CLIP, 1 - CLIP))
        return {
            "auc": np.where(several > 1, 0.5, np.nan),
            "brier": 0.5 * (1.0 - np.sum(shares**2, axis=1)),
            "log_loss": -np.sum(shares * surprises, axis=1),
            "accuracy": highest,
            # It names the most frequent label alone, and never one of the others.
            "macro_f1": 2.0 * highest / (1.0 + highest) / several,
            # The shares are kept whatever is forecast by them, so that there is nothing to be better in.
            "calibration_error": np.full(len(weights), np.nan),
        }

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


def auc(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Area under the ROC curve: the chance that a row of the label has the higher forecast of it, ties counting half.

    By counts below and beside (Hanley and McNeil, Radiology 143, 1982; Mann-Whitney U). Of labels of many the mean of
    one against the rest over the labels that came true (Provost and Domingos, 2001, without weights). ``nan`` where
    only one label came true.
    """
    columns = range(len(forecasts.labels)) if forecasts.of_many else (1,)
    areas = np.stack([_area(forecasts.probabilities[:, one], forecasts.truth == one, weights) for one in columns])
    known = np.count_nonzero(~np.isnan(areas), axis=0)
    return np.where(known > 0, np.nansum(areas, axis=0) / np.maximum(known, 1), np.nan)


def _area(forecast: Floats, came_true: NDArray[np.bool_], weights: Floats) -> Floats:
    order = np.argsort(forecast, kind="stable")
    drawn, positive = weights[:, order], came_true[order]
    ties = np.flatnonzero(np.diff(forecast[order], prepend=np.nan) != 0)
    positives = np.add.reduceat(drawn * positive, ties, axis=1)
    negatives = np.add.reduceat(drawn * ~positive, ties, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    couples = positives.sum(axis=1) * negatives.sum(axis=1)
    won = np.sum(positives * (below + negatives / 2.0), axis=1)
    return np.where(couples > 0, won / np.maximum(couples, 1.0), np.nan)


def brier(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Mean squared distance of the forecast from what happened, summed over the labels and halved: from 0 to 1, and of
    two labels that of either (Brier, Monthly Weather Review 78, 1950)."""
    return means(weights, brier_of_rows(forecasts))


def brier_of_rows(forecasts: LabelForecasts) -> Floats:
    """The Brier score of each row."""
    outcomes = np.eye(len(forecasts.labels))[forecasts.truth]
    return np.asarray(0.5 * np.sum((forecasts.probabilities - outcomes) ** 2, axis=1))


def log_loss(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Mean negative log-likelihood in nats, forecasts clipped to :data:`CLIP` from 0 and 1."""
    true = forecasts.probabilities[np.arange(forecasts.rows), forecasts.truth]
    return means(weights, -np.log(np.clip(true, CLIP, 1 - CLIP)))


def accuracy(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Share of rows in which the most probable label came true; of equally probable ones the first is meant."""
    return means(weights, (forecasts.probabilities.argmax(axis=1) == forecasts.truth).astype(np.float64))


def macro_f1(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Mean over the labels that came true or were said of F1, the harmonic mean of precision and recall.

    Each label counts the same, however rare, so that missing all of one costs as much as missing all of another
    (van Rijsbergen, *Information Retrieval*, 1979; the mean of F1 as in Opitz and Burst, 2019).
    """
    each = np.eye(len(forecasts.labels))
    said, true = each[forecasts.probabilities.argmax(axis=1)], each[forecasts.truth]
    hits, either = weights @ (said * true), weights @ (said + true)
    found = 2.0 * hits / np.maximum(either, 1.0)
    return np.asarray(found.sum(axis=1) / np.count_nonzero(either, axis=1))


def calibration_error(forecasts: LabelForecasts, weights: Floats) -> Floats:
    """Expected calibration error: the mean distance of a row's bin of :func:`reliability` between what was forecast and
    what came true (Naeini, Cooper & Hauskrecht, AAAI 2015), from 0 to 1. Chance leaves some: of 100 rows about 0.1.
    """
    forecast, truth = _confidence(forecasts)
    gaps = (forecast - truth)[:, None] * np.eye(BINS)[_bin_of(forecast, BINS)]
    return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))


def reliability(forecasts: LabelForecasts, bins: int = BINS) -> tuple[Bin, ...]:
    """Rows by equally wide bins of the forecast, empty ones left out; a forecast of 1 is in the last one.

    Of labels of many the forecast is the probability of the most probable one, and how often that came true (Guo et
    al., "On calibration of modern neural networks", 2017).
    """
    forecast, truth = _confidence(forecasts)
    place = _bin_of(forecast, bins)
    return tuple(
        Bin(float(forecast[place == one].mean()), float(truth[place == one].mean()), int((place == one).sum()))
        for one in range(bins)
        if (place == one).any()
    )


def _confidence(forecasts: LabelForecasts) -> tuple[Floats, Floats]:
    """Each row's forecast of one label, and whether that came true."""
    if not forecasts.of_many:
        return forecasts.probabilities[:, 1], forecasts.truth.astype(np.float64)
    most = forecasts.probabilities.argmax(axis=1)
    return forecasts.probabilities.max(axis=1), (most == forecasts.truth).astype(np.float64)


def _bin_of(forecast: Floats, bins: int) -> NDArray[np.intp]:
    return np.minimum((forecast * bins).astype(np.intp), bins - 1)


LABEL_METRICS: dict[str, Metric[LabelForecasts]] = {
    "auc": Metric("auc", auc, True, "label"),
    "brier": Metric("brier", brier, False, "label"),
    "log_loss": Metric("log_loss", log_loss, False, "label"),
    "accuracy": Metric("accuracy", accuracy, True, "label"),
    "macro_f1": Metric("macro_f1", macro_f1, True, "label"),
    "calibration_error": Metric("calibration_error", calibration_error, False, "label"),
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


def said_labels(rows: LabelForecasts) -> tuple[dict[str, float], dict[str, float]]:
    """Of each label that is scored, the share of rows of which it is the most probable; and the same of the rows where
    it came true, where there are any."""
    most = rows.probabilities.argmax(axis=1)
    scored = range(len(rows.labels)) if rows.of_many else (len(rows.labels) - 1,)
    said = {rows.labels[place]: float(np.mean(most == place)) for place in scored}
    recall = {
        rows.labels[place]: float(np.mean(most[rows.truth == place] == place))
        for place in scored
        if np.any(rows.truth == place)
    }
    return said, recall


def measure(rows: ScoredRows) -> dict[str, float]:
    """Every metric that the rows allow: without the AUC where one label alone came true."""
    return _known({name: metric.of(rows) for name, metric in rows.metrics.items()})


def measure_trivial(rows: ScoredRows) -> dict[str, float]:
    """The same of the trivial forecaster on these rows."""
    return _known({name: float(value[0]) for name, value in rows.trivial(all_of(rows)).items()})


def _known(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not np.isnan(value)}


def intervals(
    rows: ScoredRows, clusters: Clusters = None, *, seed: int = SEED, resamples: int = RESAMPLES
) -> dict[str, IntervalEstimate]:
    """Every metric with its 95 % interval."""

    def values(weights: Floats) -> dict[str, Floats]:
        return {name: metric.weighted(rows, weights) for name, metric in rows.metrics.items()}

    return drawn_again(rows, values, clusters, seed=seed, resamples=resamples)


def advantages(rows: ScoredRows, clusters: Clusters = None) -> dict[str, IntervalEstimate]:
    """The amount by which each metric is better than the trivial forecaster's, with its 95 % interval."""

    def values(weights: Floats) -> dict[str, Floats]:
        trivial = rows.trivial(weights)
        # Sums in another order differ in their last bits, which must not be an advantage.
        return {
            name: np.round(metric.better(metric.weighted(rows, weights), trivial[name]), 12)
            for name, metric in rows.metrics.items()
        }

    return drawn_again(rows, values, clusters)


def differences(
    rows: ScoredRows, others: ScoredRows, clusters: Clusters = None, *, seed: int = SEED, resamples: int = RESAMPLES
) -> dict[str, IntervalEstimate]:
    """Each metric minus another forecaster's on identical rows, with the 95 % interval of the paired bootstrap.

    Args:
        clusters: the user of each row, whose rows are drawn together; by default each row is drawn by itself.

    Raises:
        InvalidInputError: the rows are not the same.
    """
    if type(rows) is not type(others) or not rows.same_truth(others):
        raise InvalidInputError("Forecasts of different rows cannot be compared by pairs.", where="rows")

    def values(weights: Floats) -> dict[str, Floats]:
        return {
            name: metric.weighted(rows, weights) - metric.weighted(others, weights)
            for name, metric in rows.metrics.items()
        }

    return drawn_again(rows, values, clusters, seed=seed, resamples=resamples)


def wilson(successes: int, trials: int, z: float = 1.959964) -> IntervalEstimate | None:
    """A share with Wilson's score interval (E. B. Wilson, JASA 22, 1927), 95 % by default; ``None`` without trials."""
    if trials == 0:
        return None
    share, extra = successes / trials, z * z / trials
    center = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * (share * (1 - share) / trials + extra / (4 * trials)) ** 0.5
    return IntervalEstimate(share, max(center - half, 0.0), min(center + half, 1.0))
