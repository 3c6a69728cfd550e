"""A project moves to servers under load, and no request fails; ``make bench-migrate`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.durability import live_move
from tests.harness.moved_project import Servers


@pytest.mark.chaos
async def test_no_request_fails_and_nothing_is_lost_while_a_project_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers()
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    try:
        report = await live_move.run(tmp_path / "project", servers, moves=1, kills=0, replays=5, pause=0.3)
    finally:
        servers.remove()
    assert report.failed == 0, report.failures
    assert not any(report.violations.values()), report.violations
    assert (report.replayed, report.identical) == (5, 5)
    assert report.answered > 20, "there was hardly any load to fail"
    assert report.moves[0].processes == 3, "two gateways, of which one has no supervisor, and a worker"
    assert 0 < report.moves[0].frozen_seconds < 10
