"""Silence of a process, without a process."""

from __future__ import annotations

from antiphon.operations.supervisor import Silence


def test_a_silence_that_lasts_too_long_is_told_and_a_sign_of_life_ends_it() -> None:
    silence = Silence(10.0, now=0.0)
    assert silence.look_every == 1.0
    assert not any(silence.look(False, float(second), {}) for second in range(1, 10))
    assert not silence.look(True, 10.0, {})
    looks = [silence.look(False, float(second), {}) for second in range(11, 21)]
    assert looks == [False] * 9 + [True]


def test_time_that_the_supervisor_missed_is_no_silence_of_others() -> None:
    silence = Silence(60.0, now=0.0)
    assert not silence.look(False, 1.0, {})
    assert not silence.look(False, 100_000.0, {})  # the machine slept
    assert not silence.look(True, 100_001.0, {})
    assert not silence.look(False, 100_059.0, {})


def test_time_for_which_a_thread_waited_for_a_processor_does_not_count() -> None:
    starved, stuck = Silence(10.0, now=0.0), Silence(10.0, now=0.0)
    for second in range(1, 100):
        assert not starved.look(False, float(second), {1: 0.0, 2: second * 0.99})
    assert any(stuck.look(False, float(second), {1: 50.0, 2: 70.0}) for second in range(1, 12))


def test_a_short_silence_is_looked_for_more_often() -> None:
    assert Silence(0.4, now=0.0).look_every == 0.1
