"""A metric, and the rows that it measures: of labels, of numbers, of texts.

Weights are draws × rows: how often each row is in each draw. A metric of all rows is that of one draw of all of them,
so that values and their intervals come from the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from antiphon.definitions.outcome_shape import METRIC_TITLES, OutcomeForm

Floats = NDArray[np.float64]


class ScoredRows(Protocol):
    """Answers beside what came true, one a row; implemented for each form of outcome."""

    @property
    def metrics(self) -> Mapping[str, Metric[Any]]:
        """The metrics of these rows, by name."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    def at(self, chosen: Any) -> Self:
        """The rows at these places, each as often as it is named."""

    def trivial(self, weights: Floats) -> Mapping[str, Floats]:
        """Each metric of a forecaster that knows what came true in a draw and nothing of what is asked, for each
        draw."""

    def losses(self) -> Floats:
        """The loss of each row in the metric that decides in shadow, from 0 to 1."""

    def same_truth(self, others: Self) -> bool:
        """Tells whether the same came true in other rows."""


V = TypeVar("V", float, Floats)
R = TypeVar("R", bound=ScoredRows, contravariant=True)


@dataclass(frozen=True)
class Metric(Generic[R]):
    """A metric of rows.

    Attributes:
        name: in evaluations and gates.
        weighted: its values of draws, from rows and weights; ``nan`` where a draw says nothing.
        higher: whether more is better.
        form: of the outcomes it measures.
    """

    name: str
    weighted: Callable[[R, Floats], Floats]
    higher: bool
    form: OutcomeForm

    @property
    def title(self) -> str:
        """As people read it."""
        return METRIC_TITLES[self.form][self.name]

    def of(self, rows: R) -> float:
        """Its value of all rows; ``nan`` where they say nothing."""
        return float(self.weighted(rows, all_of(rows))[0])

    def better(self, one: V, other: V) -> V:
        """The amount by which values are better than others."""
        return one - other if self.higher else other - one


def all_of(rows: ScoredRows) -> Floats:
    """The weights of one draw that has each row once."""
    return np.ones((1, rows.rows))


def means(weights: Floats, values: Floats) -> Floats:
    """The mean of each draw, of values a row, or of each of their columns."""
    return np.asarray(weights @ values / weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1)))
