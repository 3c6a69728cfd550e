"""Metrics of the user's own, as they are declared."""

from __future__ import annotations

import math
from typing import Any

import pytest

from antiphon import metric
from antiphon.definitions.own_metrics import OwnMetric, own_metric_mistakes, own_metrics


@metric(direction="lower", bounds=(0, 5), unit="words", name="swearing")
def swears(request: Any, output: Any, outcome: Any) -> float:
    return 0.0


def test_a_function_under_metric_is_one() -> None:
    (found,) = own_metrics([swears])
    assert found == OwnMetric("swearing", f"{__name__}:swears", "lower", 0.0, 5.0, "words")
    assert not found.higher
    assert list(own_metric_mistakes([swears], (), ())) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([len], "is no function under @metric"),
        (3, "not iterable"),
        ([swears, swears], "'swearing' is taken"),
        ([OwnMetric("mae", "shop:mae")], "'mae' is taken"),
        ([OwnMetric("too good", "shop:f")], "no name such as"),
        ([OwnMetric("a", "shop:f", low=1.0, high=1.0)], "two numbers that rise"),
        ([OwnMetric("a", "shop:f", high=math.inf)], "two numbers that rise"),
        ([OwnMetric("a", "shop:f.<locals>.g")], "module of its own"),
    ],
)
def test_mistakes_are_said(given: Any, said: str) -> None:
    assert said in next(own_metric_mistakes(given, ("mae",), ("reply",)))
