"""Pauses of one process end together."""

from __future__ import annotations

import math

import pytest

from antiphon.core.pauses import ended_together


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0, 10.0, 7.5])
@pytest.mark.parametrize("now", [0.0, 0.2, 0.25, 100.3, 100.9])
def test_a_pause_ends_where_others_do_and_is_shortened_by_less_than_a_second(seconds: float, now: float) -> None:
    pause = ended_together(seconds, now, at=0.25)
    assert (now + pause) % 1 == pytest.approx(0.25)
    assert seconds - 1 < pause <= seconds


def test_looks_that_take_no_time_keep_their_interval() -> None:
    now, ends = 0.25, []
    for _ in range(4):
        now += ended_together(3.0, now, at=0.25)
        ends.append(now)
        now += 0.01
    assert ends == pytest.approx([3.25, 6.25, 9.25, 12.25])


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.99, math.inf])
def test_what_is_short_or_has_no_end_stays(seconds: float) -> None:
    assert ended_together(seconds, 3.0) == seconds
