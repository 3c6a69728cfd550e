"""Decayed counts of requests."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from antiphon.batch.demand import Demand

HALF_LIFE = 100.0


def names(demand: Demand, number: int, now: float) -> list[str]:
    return [wanted.subject for wanted in demand.greatest(number, now)]


def test_recent_requests_count_more_than_old_ones() -> None:
    demand = Demand(HALF_LIFE)
    for at in range(4):
        demand.add("once popular", f"old-{at}", float(at))
    for at in (600.0, 601.0):
        demand.add("popular now", f"new-{at}", at)
    demand.add("rare", "rare", 602.0)
    assert names(demand, 2, 602.0) == ["popular now", "rare"]
    first = demand.greatest(1, 602.0)[0]
    assert first.prediction == "new-601.0"
    assert math.isclose(first.weight, 2 ** (-2 / 100) + 2 ** (-1 / 100))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.0, 30_000.0)), min_size=1, max_size=40))
def test_weights_are_the_sum_of_decayed_requests_however_long_it_goes_on(steps: list[tuple[str, float]]) -> None:
    demand, now = Demand(HALF_LIFE), 1_700_000_000.0
    asked: list[tuple[str, float]] = []
    for subject, later in steps:
        now += later
        demand.add(subject, "p", now)
        asked.append((subject, now))
    exact = {name: sum(2.0 ** (-(now - at) / HALF_LIFE) for one, at in asked if one == name) for name, _ in asked}
    found = {wanted.subject: wanted.weight for wanted in demand.greatest(10, now)}
    assert found.keys() == exact.keys()
    assert all(math.isclose(found[name], exact[name], rel_tol=1e-6, abs_tol=1e-100) for name in exact)


def test_what_is_least_demanded_is_forgotten_first() -> None:
    demand = Demand(HALF_LIFE, most=4)
    for subject in "aaabbcd":
        demand.add(subject, subject, 1.0)
    demand.add("e", "e", 1.0)
    assert names(demand, 5, 1.0) == ["a", "b", "e"]
