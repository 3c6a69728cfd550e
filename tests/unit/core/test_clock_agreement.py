from __future__ import annotations

from datetime import UTC, datetime, timedelta

from antiphon.core.clock import ClockAgreement, ManualClock, seconds_since_boot

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


def test_a_machine_that_was_suspended_has_not_set_its_clock() -> None:
    clock, since_boot = ManualClock(datetime(2024, 1, 1, tzinfo=UTC)), [0.0]
    awake, agreement = ClockAgreement(clock), ClockAgreement(clock, lambda: since_boot[0])
    for _ in range(10):
        since_boot[0] += 3_600
        clock.set(clock.now() + timedelta(hours=1))  # Its monotonic time stands still.
        assert awake.seconds() == 0.0
    assert agreement.seconds() == 36_000
    clock.set(clock.now() + timedelta(hours=1))
    assert agreement.seconds() == 0.0


def test_seconds_since_boot_go_on() -> None:
    first = seconds_since_boot()
    assert seconds_since_boot() >= first > 0
