"""How many engines are up: at once for the first request, kept while needed, none more than that, and up by hours."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.definitions.cron import CronTime
from antiphon.definitions.windows import WindowSpec
from antiphon.orchestration.engine_scaling import (
    EngineCount,
    EngineDemand,
    EngineHours,
    ScalingPolicy,
    decide,
    floor_of,
)

POLICY = ScalingPolicy(least=0, most=3, idle=60.0, slots=4)
START = 5.0


def played(demands: list[EngineDemand], policy: ScalingPolicy = POLICY, count: EngineCount | None = None) -> list[int]:
    """The engines that are up after each look, a second apart."""
    state, up = count or EngineCount(policy.least), []
    for now, demand in enumerate(demands):
        state = decide(state, demand, policy, float(now), policy.least, START)
        up.append(state.engines)
    return up


def test_the_first_request_starts_one_at_once_and_its_end_stops_it_after_the_idle_time() -> None:
    up = played([EngineDemand(), EngineDemand(1), *[EngineDemand()] * 70])
    assert up[:2] == [0, 1]
    assert up.index(0, 1) == 1 + 60
    assert up[-1] == 0


def test_a_request_that_came_and_went_between_two_looks_keeps_the_engine() -> None:
    up = played([EngineDemand(1), *[EngineDemand(taken=number == 30) for number in range(100)]])
    assert up.index(0) == 31 + 60


def test_one_more_is_started_only_for_what_lasts_as_long_as_a_start() -> None:
    burst = [EngineDemand(9)] * 4 + [EngineDemand(2)] * 4
    assert max(played(burst * 5)) == 1
    assert played([EngineDemand(9)] * 20)[-1] == 3
    assert played([EngineDemand(100)] * 20)[-1] == POLICY.most


def test_of_several_only_those_stay_that_the_window_needed() -> None:
    up = played([*[EngineDemand(12)] * 20, *[EngineDemand(5)] * 100, *[EngineDemand(1)] * 100])
    assert up[19] == 3
    assert up[19 + 59] == 3
    assert up[119] == 2
    assert up[-1] == 1


def test_the_least_stays() -> None:
    assert played([EngineDemand()] * 200, ScalingPolicy(1, 3, 60.0, 4), EngineCount(3, ((0.0, 3),)))[-1] == 1


OFFICE = EngineHours(WindowSpec("office", CronTime("0 8 * * MON-FRI", "Europe/Berlin"), 10 * 3_600), 2)


@pytest.mark.parametrize(
    ("moment", "floor"),
    [
        ("2026-06-01T05:58:00Z", 0),  # Monday, 7:58 in Berlin
        ("2026-06-01T05:59:31Z", 2),  # up beforehand
        ("2026-06-01T06:00:00Z", 2),
        ("2026-06-01T15:59:59Z", 2),
        ("2026-06-01T16:00:00Z", 0),
        ("2026-06-06T07:00:00Z", 0),  # Saturday
        ("2026-12-01T06:30:00Z", 0),  # winter time
        ("2026-12-01T07:00:00Z", 2),
    ],
)
def test_hours_begin_by_the_zones_clock_and_a_start_earlier(moment: str, floor: int) -> None:
    policy = ScalingPolicy(0, 3, 60.0, 4, (OFFICE,))
    assert floor_of(policy, datetime.fromisoformat(moment), 30.0) == floor


POLICIES = st.builds(
    lambda least, more, idle, slots: ScalingPolicy(least, max(1, least + more), idle, slots),
    st.integers(0, 3),
    st.integers(0, 4),
    st.floats(1.0, 50.0),
    st.integers(1, 8),
)
DEMANDS = st.lists(
    st.builds(EngineDemand, st.one_of(st.just(0), st.integers(0, 40)), st.booleans()), min_size=1, max_size=150
)


@settings(max_examples=150)
@given(POLICIES, DEMANDS, st.lists(st.integers(0, 7), min_size=150, max_size=150))
def test_what_holds_for_every_history(policy: ScalingPolicy, demands: list[EngineDemand], floors: list[int]) -> None:
    state, needed = EngineCount(policy.least), list[tuple[float, int]]()
    for number, demand in enumerate(demands):
        now, before = float(number), state
        floor = min(max(policy.least, floors[number // 30 * 30]), policy.most)
        state = decide(state, demand, policy, now, floor, START)
        needed.append((now, min(demand.engines(policy.slots), policy.most)))
        assert floor <= state.engines <= policy.most
        if demand.requests or demand.taken:
            assert state.engines >= 1
        window = max(engines for at, engines in needed if at > now - policy.idle)
        assert state.engines >= min(before.engines, window), "one that was needed within the window was stopped"
        if window == 0:
            assert state.engines == floor
        if state.engines > max(before.engines, floor, 1):
            lasting = [engines for at, engines in needed if at >= now - START]
            assert min(lasting) >= state.engines, "one more was started for a burst"
        # What is remembered stays small: it falls.
        assert [engines for _, engines in state.peaks] == sorted({e for _, e in state.peaks}, reverse=True)
