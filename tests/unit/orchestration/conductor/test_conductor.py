"""The conductor's look: what is due is ordered, whatever is wrong with one schedule."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.catalog.examples import NOON

from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.clock import ManualClock
from antiphon.definitions.schedules import EvaluateWork, ScheduleSpec
from antiphon.definitions.triggers import Interval
from antiphon.orchestration.conductor.conductor import Conductor
from antiphon.orchestration.conductor.state import PlannedRun, ScheduleState


def test_a_broken_schedule_keeps_no_other_from_being_ordered() -> None:
    ordered, refused = list[str](), dict[str, str]()
    since = NOON - timedelta(days=2)
    states = [
        ScheduleState(
            ScheduleSpec(name, "desk", EvaluateWork(), Interval("24h")), ScheduleRecord(name, 0, since, since)
        )
        for name in ("a", "b", "c")
    ]

    def order(state: ScheduleState, planned: PlannedRun) -> str:
        if planned.schedule == "b":
            raise NameError("limits")
        ordered.append(planned.schedule)
        return "run_1"

    conductor = Conductor(
        lambda: None, lambda: states, order, lambda state, why: None,
        lambda state, why: refused.__setitem__(state.spec.name, why), ManualClock(NOON),
    )  # fmt: skip
    conductor.look()
    assert ordered == ["a", "c"]
    assert list(refused) == ["b"]
    assert "NameError" in refused["b"]
