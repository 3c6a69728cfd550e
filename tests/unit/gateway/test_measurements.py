from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.gateway.measurements import AnswerMeasurement, GatewayMetrics, percentiles


def measured(
    total: float, status: int = 200, at: float = 0.0, application: str = "desk", tenant: str = "ours"
) -> AnswerMeasurement:
    return AnswerMeasurement(at, tenant, application, "generated", status, total / 2 if status < 400 else None, total)


def test_nearest_rank_percentiles_by_hand() -> None:
    found = percentiles([measured(float(number)) for number in range(1, 101)])
    assert (found.total_p50, found.total_p90, found.total_p99) == (50.0, 90.0, 99.0)
    assert found.first_byte_p50 == 25.0
    assert (found.count, found.failed) == (100, 0)


def test_failures_are_counted_and_not_timed() -> None:
    found = percentiles([measured(1.0), measured(99.0, status=502)])
    assert (found.count, found.failed, found.total_p99) == (1, 1, 1.0)
    nothing = percentiles([])
    assert (nothing.count, nothing.total_p50, nothing.first_byte_p99) == (0, None, None)


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=300))
def test_a_percentile_is_one_of_the_values_and_they_are_ordered(totals: list[float]) -> None:
    found = percentiles([measured(total) for total in totals])
    assert found.total_p50 in totals
    assert min(totals) <= found.total_p50 <= found.total_p90 <= found.total_p99 <= max(totals)
    assert sum(total <= found.total_p50 for total in totals) >= len(totals) / 2


def test_since_is_recent_oldest_first_and_the_ring_is_bounded() -> None:
    kept = GatewayMetrics(capacity=5)
    for number in range(10):
        kept.record(measured(1.0, at=float(number)))
    assert [one.at for one in kept.since(7.0, "ours")] == [7.0, 8.0, 9.0]
    assert [one.at for one in kept.since(0.0, "ours")] == [5.0, 6.0, 7.0, 8.0, 9.0]
    kept.record(measured(1.0, at=10.0, tenant="theirs"))
    assert [one.at for one in kept.since(7.0, "ours")] == [7.0, 8.0, 9.0]
    assert [one.at for one in kept.since(7.0, "theirs")] == [10.0]


def test_two_gateways_in_one_process_do_not_share_series() -> None:
    first, second = GatewayMetrics(), GatewayMetrics()
    first.record(measured(0.2))
    assert b'antiphon_requests_total{application="desk"' in first.exposition()
    assert b'application="desk"' not in second.exposition()


def test_a_failure_has_no_latency() -> None:
    kept = GatewayMetrics()
    kept.record(measured(5.0, status=429))
    text = kept.exposition()
    assert b'status="429"} 1.0' in text
    assert b"antiphon_answer_seconds_count" not in text
    assert percentiles(kept.since(-1, "ours")).failed == pytest.approx(1)


def test_connections_to_the_catalog_are_shown_beside_their_limit() -> None:
    kept = GatewayMetrics()
    kept.watch_connections(3, 10)
    for line in (
        b'antiphon_catalog_connections{state="in_use"} 3.0',
        b'antiphon_catalog_connections{state="limit"} 10.0',
    ):
        assert line in kept.exposition()
