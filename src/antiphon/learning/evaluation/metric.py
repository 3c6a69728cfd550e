"""A metric, and the rows that it measures: of labels, of numbers, of texts."""

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

    def trivial(self) -> Self:
        """The rows as a forecaster answers that knows what came true in them, and nothing of what is asked."""

    def losses(self) -> Floats:
        """The loss of each row in the metric that decides in shadow, from 0 to 1."""

    def same_truth(self, others: Self) -> bool:
        """Tells whether the same came true in other rows."""


R = TypeVar("R", contravariant=True)


@dataclass(frozen=True)
class Metric(Generic[R]):
    """A metric of rows.

    Attributes:
        name: in evaluations and gates. of: the function; ``nan`` where the rows say nothing.
        higher: whether more is better.
        form: of the outcomes it measures.
    """

    name: str
    of: Callable[[R], float]
    higher: bool
    form: OutcomeForm

    @property
    def title(self) -> str:
        """As people read it."""
        return METRIC_TITLES[self.form][self.name]

    def better(self, one: float, other: float) -> float:
        """The amount by which one value is better than another."""
        return one - other if self.higher else other - one
