"""Calls metrics of the user's own on the rows of an evaluation.

Invariant: what a function raises, and what is no number within the metric's bounds, is a reason and no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.definitions.outcome_shape import number_of
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.serving.user_functions import UserFunctions

SECONDS = 1.0
"""A function may take on one row."""


class OwnMetricScores:
    """The values of an application's own metrics, row by row."""

    def __init__(self, functions: UserFunctions, metrics: Sequence[OwnMetric]) -> None:
        self._functions = functions
        self._metrics = tuple(metrics)

    async def score(
        self, request: Mapping[str, Any], output: object, outcome: Mapping[str, str]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The values of one row by name, and of those that have none the reason."""
        scores: dict[str, float] = {}
        failed: dict[str, str] = {}
        for metric in self._metrics:
            try:
                value = await self._functions.call(metric.function, (request, output, outcome), SECONDS)
            except TimeoutError:
                failed[metric.name] = f"did not answer within {SECONDS:g} s"
            except Exception as error:
                self._functions.log_raised(metric.function, error, f"the metric {metric.name} has no value")
                failed[metric.name] = f"raised {type(error).__name__}: {error}"[:200]
            else:
                number = None if isinstance(value, str) else number_of(value)
                if number is None or not metric.low <= number <= metric.high:
                    failed[metric.name] = f"returned {value!r:.60}, no number from {metric.low:g} to {metric.high:g}"
                else:
                    scores[metric.name] = number
        return scores, failed
