"""Changed views applied to a running platform under kills, and the old order, which the check must find."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.durability import apply_kills


@pytest.mark.chaos
async def test_no_request_fails_while_views_are_applied_and_processes_are_killed(tmp_path: Path) -> None:
    report = await apply_kills.run(tmp_path / "p", applies=2)
    assert report.holds, apply_kills.table(report)
    assert dict(report.kills) == {"apply": 1, "worker": 1}
    assert (report.applies, report.releases_seen) == (2, 3)
    assert min(report.questions, report.lookups) > 10, "nothing was asked"


@pytest.mark.chaos
async def test_definitions_before_features_are_found(tmp_path: Path) -> None:
    report = await apply_kills.run(tmp_path / "p", applies=1, broken=True)
    assert any("feature_unavailable" in failure for failure in report.failures), apply_kills.table(report)
