"""What batch work gets of the engine, measured on a clock that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from antiphon.batch.gauge import Gauge
from antiphon.catalog.batch.batch_work import EngineSupply
from antiphon.core.clock import ManualClock
from antiphon.core.errors import EngineError, UnavailableError
from antiphon.core.scope import Scope


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.got: list[EngineSupply] = []

    def supply(self, scope: Scope, worker: str, got: EngineSupply) -> None:
        self.got.append(got)


def test_time_counts_once_while_any_row_is_under_way() -> None:
    kept, clock = Kept(), ManualClock(datetime(2026, 5, 1, 12, 0, tzinfo=UTC))
    gauge = Gauge(kept, Scope(), "worker", clock)  # type: ignore[arg-type]
    clock.advance(timedelta(seconds=10))
    with gauge.row():
        clock.advance(timedelta(seconds=4))
        with gauge.row():
            clock.advance(timedelta(seconds=5))
        gauge.got(2.5)
        clock.advance(timedelta(seconds=1))
    gauge.got(1.5)
    clock.advance(timedelta(seconds=30))
    gauge.flush()
    (one,) = kept.got
    assert (one.seconds, one.engine_seconds) == (10.0, 4.0)
    assert one.began == clock.now().timestamp() // 300 * 300
    gauge.flush()
    assert kept.got == [one], "nothing new is nothing to keep"


def test_an_outage_is_not_measured() -> None:
    kept, clock = Kept(), ManualClock(datetime(2026, 5, 1, 12, 0, tzinfo=UTC))
    gauge = Gauge(kept, Scope(), "worker", clock)  # type: ignore[arg-type]

    def fails(seconds: float, error: Exception) -> None:
        with gauge.row():
            clock.advance(timedelta(seconds=seconds))
            raise error

    with pytest.raises(EngineError):
        fails(2, EngineError("It died.", where="engine"))
    for _ in range(20):
        with pytest.raises(UnavailableError):
            fails(30, UnavailableError("It is away.", where="engine"))
    with gauge.row():
        clock.advance(timedelta(seconds=3))
    gauge.got(1.0)
    with gauge.row():
        clock.advance(timedelta(seconds=5))
    gauge.flush()
    (one,) = kept.got
    assert (one.seconds, one.engine_seconds) == (7.0, 1.0)
