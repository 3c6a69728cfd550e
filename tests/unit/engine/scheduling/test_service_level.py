from math import inf

from antiphon.engine.scheduling.service_level import HOPELESS_SLOWDOWN, Factors, ServiceLevel

ABSOLUTE = ServiceLevel(ttft=1.0, tpot=0.1)


def test_seconds_count_from_the_arrival_and_from_the_first_token() -> None:
    assert ABSOLUTE.due(10.0, None, 0, alone=10.2) == 11.0
    assert abs(ABSOLUTE.due(10.0, 10.5, 4, alone=10.6) - 10.9) < 1e-9
    assert ServiceLevel().due(10.0, None, 0, alone=10.2) == inf


def test_a_factor_takes_from_the_allowance_and_never_asks_for_more_than_without_batch() -> None:
    assert ABSOLUTE.due(10.0, None, 0, alone=10.2, factors=Factors(0.5, 0.5)) == 10.5
    assert ABSOLUTE.due(10.0, None, 0, alone=10.9, factors=Factors(0.5, 0.5)) == 10.9
    slower = ServiceLevel(slowdown=0.5)
    assert slower.due(10.0, None, 0, alone=12.0) == 13.0
    assert slower.due(10.0, None, 0, alone=12.0, factors=Factors(0.5, 0.5)) == 12.5


def test_what_would_be_missed_anyway_may_be_slowed_down_a_little() -> None:
    assert ABSOLUTE.due(10.0, None, 0, alone=12.0) == 12.0 + HOPELESS_SLOWDOWN * 2.0


def test_the_earlier_of_two_bounds_counts() -> None:
    both = ServiceLevel(ttft=1.0, slowdown=0.1)
    assert abs(both.due(10.0, None, 0, alone=10.2) - 10.22) < 1e-9


def test_each_kind_of_bound_has_its_own_factor() -> None:
    both = ServiceLevel(ttft=1.0, slowdown=0.5)
    assert both.due(10.0, None, 0, alone=10.4, factors=Factors(seconds=1.0, slowdown=0.5)) == 10.5
    assert both.due(10.0, None, 0, alone=10.4, factors=Factors(seconds=0.5, slowdown=1.0)) == 10.5
    assert both.allowance(1.0, Factors(seconds=0.1, slowdown=1.0)) == 0.025


def test_a_request_is_judged_by_what_was_served() -> None:
    assert ABSOLUTE.met_seconds(0.0, 0.9, 1.8, 10)
    assert not ABSOLUTE.met_seconds(0.0, 1.1, 1.8, 10)
    assert not ABSOLUTE.met_seconds(0.0, 0.9, 1.9, 10)
    assert ServiceLevel(slowdown=0.1).met_slowdown(0.0, 1.1, alone=1.0)
    assert not ServiceLevel(slowdown=0.1).met_slowdown(0.0, 1.2, alone=1.0)
    assert ServiceLevel().met_seconds(0.0, 9.0, 99.0, 10)
    assert ServiceLevel().met_slowdown(0.0, 99.0, alone=1.0)
