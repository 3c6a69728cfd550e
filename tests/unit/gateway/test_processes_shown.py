"""Engines that are no process of the project, among the processes that the dashboard shows."""

from __future__ import annotations

from datetime import UTC, datetime

from antiphon.cli.status import engines_table
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.engine.api.messages import EngineLoad
from antiphon.gateway.admin.shapes import EngineElsewhere, EngineInstanceLine, EngineStatus
from antiphon.gateway.admin.status import engines_elsewhere
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.operations.processes import ProcessStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GATEWAY = ProcessStatus("gateway", 2, True, 0, NOW)
ENGINE = ProcessStatus("engine", 1, True, 0, NOW)


def test_a_remote_engine_is_shown_beside_the_processes() -> None:
    away = EngineStatus(False, "It did not answer in time.", (), None)
    assert engines_elsewhere([GATEWAY], away, ()) == (EngineElsewhere("engine", False),)
    assert engines_elsewhere([ENGINE, GATEWAY], away, ()) == (), "it is among the processes"


def test_engines_that_stand_in_are_shown_with_what_their_breaker_says() -> None:
    there = EngineStatus(True, None, (), None)
    breakers = [
        BreakerStatus("main", "closed", 9, 0, 0, None),
        BreakerStatus("spare", "open", 9, 9, 1, 3.0),
        BreakerStatus("other", "closed", 0, 0, 0, None),
    ]
    assert engines_elsewhere([ENGINE], there, breakers) == (
        EngineElsewhere("spare", False),
        EngineElsewhere("other", True),
    )


def test_engines_that_have_joined_are_shown_one_by_one_and_measured() -> None:
    load = EngineLoad(running_online=2, waiting_batch=7, slots=16)
    lines = (
        EngineInstanceLine("gpu@a", "a.example:8790", True, {"words": "0123456789ab"}, load),
        EngineInstanceLine("gpu@b", "", False, {}, EngineLoad(slots=16)),
    )
    there = EngineStatus(True, None, (), load, lines)
    assert engines_elsewhere([GATEWAY], there, ()) == (
        EngineElsewhere("gpu@a", True, load),
        EngineElsewhere("gpu@b", False, EngineLoad(slots=16)),
    )
    table = engines_table(lines)
    assert "a.example:8790" in table
    assert "words 01234567" in table
    assert "this machine" in table
    metrics = GatewayMetrics()
    metrics.watch_engines({one.name: (one.answers, one.load) for one in lines})
    told = metrics.exposition().decode()
    assert 'antiphon_engine_instance_up{engine="gpu@a"} 1.0' in told
    assert 'antiphon_engine_instance_up{engine="gpu@b"} 0.0' in told
    assert 'antiphon_engine_instance_requests{engine="gpu@a",state="waiting_batch"} 7.0' in told
    metrics.watch_engines({})
    assert "gpu@a" not in metrics.exposition().decode(), "it has left"
