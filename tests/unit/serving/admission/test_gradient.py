"""Gradient2 by its rules: what makes the limit grow, shrink, and stay."""

from __future__ import annotations

import pytest

from antiphon.serving.admission.gradient import Gradient, SampleWindow


def after(state: Gradient, windows: int, *, seconds: float, queued: float | None = 0.0, most: int = 1000) -> Gradient:
    for _ in range(windows):
        state = state.after(SampleWindow(seconds, queued, most))
    return state


def test_it_grows_while_nobody_waits_up_to_its_bound() -> None:
    assert after(Gradient(4.0, most=64.0), 1, seconds=1.0).limit == pytest.approx(4.4)
    assert after(Gradient(4.0, most=64.0), 300, seconds=1.0).limit == 64.0


def test_it_shrinks_while_requests_wait_in_the_engine_by_at_most_a_tenth() -> None:
    waiting = Gradient(100.0).after(SampleWindow(4.0, 3.0, 100))
    assert waiting.limit == pytest.approx(100 * 0.9 + 10 * 0.2)
    assert after(Gradient(100.0), 400, seconds=4.0, queued=3.0).limit == pytest.approx(4.0, abs=0.5)


def test_an_engine_that_is_not_asked_for_half_of_it_says_nothing() -> None:
    assert after(Gradient(40.0), 50, seconds=1.0, most=19).limit == 40.0


def test_without_the_engines_word_a_long_average_is_the_reference() -> None:
    calm = after(Gradient(20.0, most=40.0), 50, seconds=1.0, queued=None)
    assert calm.reference == pytest.approx(1.0)
    slow = after(calm, 5, seconds=3.0, queued=None)
    assert slow.limit < calm.limit
    assert slow.reference < 1.05
    # Once it is over, what the average took on goes fast.
    drifted = after(slow, 2_000, seconds=3.0, queued=None)
    assert drifted.reference > 2.5
    assert after(drifted, 20, seconds=1.0, queued=None).reference < 2.1


def test_the_engines_word_does_not_drift_with_the_queue() -> None:
    assert after(Gradient(20.0), 2_000, seconds=3.0, queued=2.0).reference == pytest.approx(1.0)
