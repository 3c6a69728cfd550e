"""Backoff by name."""

from __future__ import annotations

from antiphon.core.retry_delays import RetryDelays


def test_delays_double_up_to_the_longest_and_end_with_a_success() -> None:
    delays = RetryDelays(1.0, 3.0)
    assert [delays.failed("a", 10.0) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert [delays.waiting("a", 12.9), delays.waiting("a", 13.0), delays.waiting("b", 10.0)] == [True, False, False]
    delays.succeeded("a")
    assert not delays.waiting("a", 10.0)
    assert delays.failed("a", 20.0) == 1.0
