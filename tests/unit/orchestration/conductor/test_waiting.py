"""Every queued run has one reason why it waits, and an earliest start."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from antiphon.catalog.run_holds import RunHold
from antiphon.core.clock import UTC
from antiphon.core.scope import Scope
from antiphon.durable.run import Run
from antiphon.orchestration.conductor.waiting import SlotUse, wait_of

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FREE = SlotUse(0, 4)


def run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": "run_1", "scope": Scope(), "workflow": "train", "key": None, "arguments": {}, "status": "queued",
        "epoch": 0, "attempts": 0, "max_attempts": 5, "worker": None, "lease_until": None, "not_before": NOON,
        "cancel_requested": False, "done": 0, "total": None, "note": "", "result": None, "error": None, "trace": None,
        "created_at": NOON, "updated_at": NOON, "ended_at": None,
    }  # fmt: skip
    return Run(**(values | changes))


def hold(begins: float, until: float, kind: Any = "freeze", workflow: str = "train") -> RunHold:
    return RunHold("h", kind, "peak", (workflow,), NOON + begins * HOUR, NOON + until * HOUR, "the launch", "ada")


@pytest.mark.parametrize(
    ("waiting", "holds", "slots", "kind", "earliest"),
    [
        (run(), [], FREE, "turn", 0),
        (run(), [hold(-1, 2)], FREE, "held", 2),
        (run(), [hold(-1, 2), hold(1, 3, "window")], FREE, "held", 3),
        (run(), [hold(-1, 2, workflow="refresh")], FREE, "turn", 0),
        (run(), [hold(1, 2)], FREE, "turn", 0),
        (run(exempted_by="ada"), [hold(-1, 2)], FREE, "turn", 0),
        (run(not_before=NOON + HOUR), [], FREE, "later", 1),
        (run(not_before=NOON + HOUR), [hold(0.5, 4)], FREE, "later", 4),
        (run(not_before=NOON + HOUR, attempts=2, error="the disk is full"), [], FREE, "retry", 1),
        (run(), [], SlotUse(), "worker", 0),
        (run(), [], SlotUse(4, 4, NOON + HOUR), "turn", 1),
        (run(), [], SlotUse(4, 4), "turn", 0),
    ],
)
def test_a_queued_run_has_a_reason_and_an_earliest_start(
    waiting: Run, holds: list[RunHold], slots: SlotUse, kind: str, earliest: float
) -> None:
    found = wait_of(waiting, NOON, holds, slots)
    assert (found.kind, found.earliest) == (kind, NOON + earliest * HOUR)
    assert found.reason


def test_a_limit_is_named_and_holds_nothing() -> None:
    limit = msgspec.structs.replace(hold(-1, 2, "limit"), slots=2)
    found = wait_of(run(), NOON, [limit], FREE)
    assert (found.kind, found.earliest) == ("turn", NOON)
    assert "2 at once by a limit by ada until" in found.reason
    assert "the launch" in found.reason
    for other in (wait_of(run(exempted_by="ada"), NOON, [limit], FREE), wait_of(run(), NOON + 3 * HOUR, [limit], FREE)):
        assert other.reason == "is about to begin"


def test_the_reason_names_who_froze_and_why() -> None:
    assert wait_of(run(), NOON, [hold(-1, 2)], FREE).reason == (
        "held until 2026-06-01 14:00Z by a freeze by ada: the launch"
    )
    full = wait_of(run(), NOON, [], SlotUse(1, 1, work="training"))
    assert full.reason == "waits for its turn: 1 of 1 slots for training are taken"
