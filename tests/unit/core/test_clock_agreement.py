from __future__ import annotations

from datetime import UTC, datetime, timedelta

from antiphon.core.clock import ClockAgreement, ManualClock

NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)


def test_agreement_grows_with_monotonic_time_and_ends_when_the_clock_is_set() -> None:
    clock = ManualClock(NOON)
    agreement = ClockAgreement(clock)
    clock.advance(timedelta(seconds=600))
    assert agreement.seconds() == 600
    for moved in (timedelta(days=-400), timedelta(days=400), timedelta(minutes=2)):
        clock.set(clock.now() + moved)
        assert agreement.seconds() == 0
        clock.advance(timedelta(seconds=30))
        assert agreement.seconds() == 30


def test_a_clock_that_is_slewed_agrees() -> None:
    clock = ManualClock(NOON)
    agreement = ClockAgreement(clock)
    for _ in range(10):
        clock.advance(timedelta(seconds=60))
        clock.set(clock.now() + timedelta(seconds=1))
        assert agreement.seconds() > 0
