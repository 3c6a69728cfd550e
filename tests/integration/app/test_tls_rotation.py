"""Certificates and authorities rotated under load, through the real processes: the benchmark's short form."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.governance.tls import CLIENTS, GOAL_SECONDS, rotate_under_load
from tests.chaos.harness.running import scratch


@pytest.mark.parametrize(("mutual", "rotations"), [(False, 5), (True, 3)])
async def test_rotations_under_load_fail_no_request_and_are_shown_soon(mutual: bool, rotations: int) -> None:
    with scratch() as folder:
        found = await rotate_under_load(Path(folder) / "rotated", rotations, float(rotations), mutual=mutual)
    assert found.failures == []
    assert len(found.seconds_until_shown) == rotations
    assert max(found.seconds_until_shown) <= GOAL_SECONDS
    assert found.answered.keys() == CLIENTS.keys()
    assert found.handshakes >= 3 * rotations
