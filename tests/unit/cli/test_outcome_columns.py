"""Columns of a table of outcomes: one column is never read as two things."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.harness.outcomes import LATE
from tests.harness.small_desk import DESK

from antiphon.cli.outcomes import Columns, _columns
from antiphon.definitions.learning import Outcome
from antiphon.definitions.signals import Signal
from antiphon.definitions.source import Source

NOTHING = Columns("", None, None, "", "", "")
HISTORY = Source.table("sorted", path="t.csv", event_time="opened", available_at="resolved", event_id="ticket").spec()
TRIAGE = msgspec.structs.replace(
    DESK, **LATE | {"outcome": Outcome("late", history=HISTORY)}, signals=(Signal("resolved", good="yes", bad="no"),)
)


def test_a_signal_may_be_named_like_the_moment_of_a_history() -> None:
    found = _columns(TRIAGE, {"prediction": "p", "resolved": "yes"}, NOTHING, Path("signals.csv"))
    assert (found.value, found.outcome, found.available_at) == ("resolved", "resolved", "")
    row = {"prediction": "p", "late": "late", "resolved": "2026-03-01", "opened": "2026-02-28"}
    found = _columns(TRIAGE, row, NOTHING, Path("tickets.csv"))
    assert (found.value, found.at, found.available_at) == ("late", "opened", "resolved")
