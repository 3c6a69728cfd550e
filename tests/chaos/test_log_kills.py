"""The event log on NATS under SIGKILL, short; and that the harness finds what breaks when a defence is off.

The long form is ``make chaos-log``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.durability import log_chaos


@pytest.mark.chaos
def test_publisher_consumer_and_server_killed_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    report = log_chaos.measure(tmp_path / "log", 4, 20130411, refreshing=False)
    assert report.violations == {name: [] for name in report.violations}, log_chaos.table(report)
    assert report.kills == dict.fromkeys((*log_chaos.PUBLISHERS, "consumer", "server"), 1)
    assert len(report.violations) == 7, "a check was not made"
    assert report.acknowledged > 100, "hardly anything was appended"
    assert report.values >= 250, "hardly anything was read"


@pytest.mark.chaos
def test_an_event_that_is_stored_twice_is_found(tmp_path: Path) -> None:
    report = log_chaos.measure(tmp_path / "log", 8, 7, broken="subject-drawn", only="consumer", refreshing=False)
    assert any("times" in one for one in report.violations["no event lost"]), log_chaos.table(report)
