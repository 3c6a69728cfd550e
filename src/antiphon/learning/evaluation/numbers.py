"""Metrics of answers that are a number, beside the number that came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import number_of
from antiphon.learning.evaluation.metric import Floats, Metric, means


@dataclass(frozen=True)
class NumberAnswers:
    """Numbers that were said and that came true.

    Attributes:
        said, truth: one a row, in the property's unit.
        span: the distance of the declared bounds, which is the worst error in shadow.
    """

    said: Floats
    truth: Floats
    span: float

    @classmethod
    def read(cls, rows: Sequence[tuple[str, str]], span: float) -> NumberAnswers:
        """The answers of rows of (number that was said, number that came true), as texts.

        Raises:
            InvalidInputError: there is no row, or one has no number.
        """
        found = [(number_of(said), number_of(truth)) for said, truth in rows]
        if not found or any(None in pair for pair in found):
            raise InvalidInputError("There is no number to score, or something that is none.", where="rows")
        said, truth = np.asarray(found, np.float64).T
        return cls(said, truth, span)

    @property
    def metrics(self) -> Mapping[str, Metric[Any]]:
        """The metrics of these rows, by name."""
        return NUMBER_METRICS

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.truth)

    def at(self, chosen: Any) -> NumberAnswers:
        """The rows at these places, each as often as it is named."""
        return replace(self, said=self.said[chosen], truth=self.truth[chosen])

    def trivial(self, weights: Floats) -> Mapping[str, Floats]:
        """The metrics of one that always says the median of the same rows: no constant has a smaller error."""
        order = np.argsort(self.truth)
        until = np.cumsum(weights[:, order], axis=1)
        count = until[:, -1]
        middles = [
            self.truth[order][(until > place[:, None]).argmax(axis=1)] for place in ((count - 1) // 2, count // 2)
        ]
        gaps = self.truth - np.mean(middles, axis=0)[:, None]
        return {
            "mae": np.sum(weights * np.abs(gaps), axis=1) / count,
            "rmse": np.sqrt(np.sum(weights * gaps**2, axis=1) / count),
        }

    def losses(self) -> Floats:
        """The error of each row as a share of the declared bounds' distance, at most 1."""
        return np.minimum(np.abs(self.said - self.truth) / self.span, 1.0)

    def same_truth(self, others: NumberAnswers) -> bool:
        """Tells whether the same numbers came true in other rows."""
        return np.array_equal(self.truth, others.truth)


def mae(answers: NumberAnswers, weights: Floats) -> Floats:
    """Mean absolute error, in the property's unit."""
    return means(weights, np.abs(answers.said - answers.truth))


def rmse(answers: NumberAnswers, weights: Floats) -> Floats:
    """Root of the mean squared error, in the property's unit: large errors count more."""
    return np.sqrt(means(weights, (answers.said - answers.truth) ** 2))


NUMBER_METRICS: dict[str, Metric[NumberAnswers]] = {
    "mae": Metric("mae", mae, False, "number"),
    "rmse": Metric("rmse", rmse, False, "number"),
}
