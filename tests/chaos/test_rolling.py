"""Every process replaced once under load, and no request fails; ``make bench-rolling`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.durability import rolling


@pytest.mark.chaos
async def test_no_request_fails_while_every_process_is_replaced(tmp_path: Path) -> None:
    report = await rolling.run(tmp_path / "project", 1)
    kinds = {one.process.partition("-")[0] for one in report.replaced}
    assert (len(report.replaced), kinds) == (6, {"gateway", "engine", "worker"})
    assert report.failed == 0, report
    assert report.answered > 50, "there was hardly any load to fail"
