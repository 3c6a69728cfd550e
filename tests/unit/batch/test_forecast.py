"""Forecasts of batch jobs: costs, work, shares, and the supply of the hours to come."""

from __future__ import annotations

import numpy as np
import pytest

from antiphon.batch.forecast import (
    BUCKET_SECONDS,
    JobWork,
    SupplyForecast,
    TokenCost,
    cost_of,
    delivered_at_ends,
    work_error,
    work_left,
)
from antiphon.catalog.batch.batch_work import EngineSupply, OpenJob, RowUsage, Sizes

COST = TokenCost(0.001, 0.004)


def usage(rows: int, prompt: int, cached: int, output: int) -> RowUsage:
    """What rows took at :data:`COST`."""
    seconds = (prompt - cached) * COST.computed + output * COST.written
    return RowUsage(rows, prompt * 4, output * 2, prompt, cached, output, seconds)


def test_costs_are_found_from_jobs_of_different_kinds() -> None:
    jobs = [usage(100, 40_000, 1_000, 500), usage(100, 4_000, 0, 6_000), usage(50, 9_000, 3_000, 2_000)] * 4
    found = cost_of(jobs)
    assert found is not None
    assert found.computed == pytest.approx(COST.computed, rel=0.1)
    assert found.written == pytest.approx(COST.written, rel=0.1)
    assert cost_of([]) is None


def test_one_measured_job_gives_the_usual_ratio_of_costs() -> None:
    found = cost_of([usage(100, 4_000, 0, 4_000)])
    assert found is not None
    assert found.computed / found.written == pytest.approx(0.3, rel=0.1)


def test_a_shared_beginning_is_mostly_computed_once() -> None:
    alike = usage(100, 10_000, 0, 1_000)
    apart = OpenJob("a", "t", "m", Sizes(100, 400_000, 400_000, 2_000))
    shared = OpenJob("b", "t", "m", Sizes(100, 400_000, 40_000, 2_000))
    far, near = work_left(apart, COST, alike), work_left(shared, COST, alike)
    assert far is not None
    assert near is not None
    assert (far.prompt_tokens, near.prompt_tokens) == (pytest.approx(100_000), pytest.approx(19_000))
    assert far.output_tokens == near.output_tokens == pytest.approx(1_000), "half of the bound, as of others"


def test_a_template_is_as_long_as_it_was_for_others() -> None:
    job = OpenJob("a", "t", "table/desk", Sizes(50))
    assert work_left(job, COST, RowUsage()) is None, "nobody can say"
    work = work_left(job, COST, RowUsage(200, 0, 0, 20_000, 8_000, 6_400, 60.0))
    assert work is not None
    assert work.prompt_tokens == pytest.approx(50 * 60, rel=0.01)
    assert work.output_tokens == pytest.approx(50 * 32, rel=0.01)


def test_a_jobs_own_rows_count_for_more_than_those_of_others() -> None:
    others = usage(1_000, 100_000, 0, 10_000)
    own = usage(200, 20_000, 0, 8_000)
    job = OpenJob("a", "t", "m", Sizes(400, 160_000, 160_000, 32_000), own, 200)
    work = work_left(job, COST, others)
    assert work is not None
    assert work.rows == 200
    assert work.output_tokens == pytest.approx(8_000, rel=0.15)
    assert work_error(job) < work_error(OpenJob("b", "t", "m", job.sizes)) / 2


def test_a_tenant_with_a_share_of_two_gets_twice_as_much() -> None:
    ends = delivered_at_ends([JobWork("twice", "a", 10.0, share=2.0), JobWork("once", "b", 10.0)], 1.0, 0.0)
    assert ends == {"twice": pytest.approx(15.0, rel=0.05), "once": pytest.approx(20.0)}


def test_tenants_share_equally_and_their_jobs_share_that() -> None:
    ends = delivered_at_ends([JobWork("a1", "a", 10.0), JobWork("a2", "a", 10.0), JobWork("b1", "b", 10.0)], 1.0, 0.0)
    assert ends == {name: pytest.approx(30.0 if name[0] == "a" else 20.0) for name in ("a1", "a2", "b1")}
    assert delivered_at_ends([JobWork("a1", "a", 5.0)], 1.0, 0.0) == {"a1": pytest.approx(5.0)}


def test_a_job_that_is_pressed_is_expected_to_get_what_it_will_get() -> None:
    ends = delivered_at_ends([JobWork("now", "a", 300.0, 400.0), JobWork("later", "b", 300.0)], 1.0, 0.0)
    assert ends["now"] == pytest.approx(400.0), "three quarters of it"
    assert ends["later"] == pytest.approx(600.0)
    both = delivered_at_ends([JobWork("second", "a", 100.0, 200.0), JobWork("first", "b", 100.0, 150.0)], 1.0, 0.0)
    assert both == {"first": pytest.approx(100.0), "second": pytest.approx(200.0)}


def test_a_steady_supply_gives_a_narrow_forecast() -> None:
    measured = [EngineSupply(BUCKET_SECONDS * at, BUCKET_SECONDS, 0.5 * BUCKET_SECONDS) for at in range(48)]
    now = 48 * BUCKET_SECONDS
    found = SupplyForecast(measured, now).forecast(600.0, 0.0)
    assert found.ends - now == pytest.approx(1_200.0, rel=0.03)
    assert found.latest - found.earliest < 0.1 * 1_200.0
    wide = SupplyForecast(measured, now).forecast(600.0, 0.25)
    assert wide.earliest - now < 1_000.0
    assert wide.latest - now > 1_400.0


def test_the_same_hour_of_days_before_is_what_is_expected() -> None:
    hour = 3_600.0
    measured = [
        EngineSupply(at * BUCKET_SECONDS, BUCKET_SECONDS, BUCKET_SECONDS * (0.9 if (at // 12) % 24 < 8 else 0.1))
        for at in range(7 * 24 * 12)
    ]
    midnight = SupplyForecast(measured, 7 * 24 * hour).forecast(4 * hour, 0.0)
    noon = SupplyForecast(measured, (7 * 24 + 12) * hour).forecast(4 * hour, 0.0)
    assert (midnight.ends - 7 * 24 * hour) / hour == pytest.approx(4.5, rel=0.1)
    assert (noon.ends - (7 * 24 + 12) * hour) / hour == pytest.approx(15.1, rel=0.15)


def test_work_past_the_horizon_goes_on_at_the_same_pace() -> None:
    measured = [EngineSupply(BUCKET_SECONDS * at, BUCKET_SECONDS, 0.5 * BUCKET_SECONDS) for at in range(48)]
    found = SupplyForecast(measured, 0.0).forecast(1e6, 0.0)
    assert found.ends == pytest.approx(2e6, rel=0.05)


def test_four_of_five_ends_lie_within() -> None:
    """Of supplies that drift as those of a day do: fifty days, and three jobs on each."""
    draw, inside = np.random.default_rng(7), []
    for _ in range(50):
        level, rates = 0.0, []
        for _ in range(24 * 12):
            level = 0.95 * level + 0.15 * draw.standard_normal()
            rates.append(0.4 * np.exp(level))
        known = [EngineSupply(BUCKET_SECONDS * at, BUCKET_SECONDS, BUCKET_SECONDS * rates[at]) for at in range(12 * 12)]
        now = 144 * BUCKET_SECONDS
        supply, delivered = SupplyForecast(known, now), np.cumsum(np.array(rates[144:]) * BUCKET_SECONDS)
        for work in (300.0, 1_500.0, 6_000.0):
            found = supply.forecast(work, 0.0)
            end = now + BUCKET_SECONDS * np.interp(work, [0.0, *delivered], range(len(delivered) + 1))
            inside.append(found.earliest <= end <= found.latest)
    assert 0.65 < np.mean(inside) < 0.95
