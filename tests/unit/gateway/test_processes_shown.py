"""Engines that are no process of the project, among the processes that the dashboard shows."""

from __future__ import annotations

from datetime import UTC, datetime

from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.gateway.admin.shapes import EngineElsewhere, EngineStatus
from antiphon.gateway.admin.status import engines_elsewhere
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
