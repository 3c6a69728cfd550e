from __future__ import annotations

import pytest

from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    FeatureUnavailableError,
    ForbiddenError,
    GuardRefusedError,
    InvalidInputError,
    InvalidOutputError,
    NotFoundError,
    OverloadedError,
    PromptFailedError,
    RateLimitError,
)
from antiphon.gateway.measurements import AnswerMeasurement, GatewayMetrics


def measured(total: float, status: int = 200, application: str = "desk", tenant: str = "ours") -> AnswerMeasurement:
    return AnswerMeasurement(tenant, application, "generated", status, total / 2 if status < 400 else None, total)


def test_two_gateways_in_one_process_do_not_share_series() -> None:
    first, second = GatewayMetrics(), GatewayMetrics()
    first.record(measured(0.2))
    assert b'antiphon_requests_total{application="desk"' in first.exposition()
    assert b'application="desk"' not in second.exposition()


def test_a_failure_has_no_latency() -> None:
    kept = GatewayMetrics()
    kept.record(measured(5.0, status=429))
    text = kept.exposition()
    assert b'status="429",tenant="ours"} 1.0' in text
    assert b"antiphon_answer_seconds_count" not in text


def test_connections_to_the_catalog_are_shown_beside_their_limit() -> None:
    kept = GatewayMetrics()
    kept.watch_connections(3, 10)
    for line in (
        b'antiphon_catalog_connections{state="in_use"} 3.0',
        b'antiphon_catalog_connections{state="limit"} 10.0',
    ):
        assert line in kept.exposition()


@pytest.mark.parametrize(
    ("error", "of_platform"),
    [
        (EngineError("The engine failed."), True),
        (OverloadedError("It is full.", retry_after=1.0), True),
        (InvalidOutputError("It was cut off."), True),
        (GuardRefusedError("A guard refused."), True),
        (PromptFailedError("The template fails."), True),
        (RateLimitError("Too many.", retry_after=1.0, where="requests", next_step="Wait."), False),
        (InvalidInputError("It is wrong."), False),
        (NotFoundError("There is none."), False),
        (ForbiddenError("It may not."), False),
        (FeatureUnavailableError("No such entity."), False),
    ],
)
def test_a_callers_mistakes_and_quotas_are_no_faults_of_the_platform(error: AntiphonError, of_platform: bool) -> None:
    assert error.of_platform is of_platform
