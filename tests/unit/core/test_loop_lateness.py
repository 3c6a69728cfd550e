"""Lateness of the event loop is counted, and only what is out of the ordinary."""

from __future__ import annotations

import asyncio
import time

import pytest

from antiphon.core import loop_lateness
from antiphon.core.loop_lateness import count_lateness


async def test_a_loop_that_stands_still_is_counted_as_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lateness, "LOOK_SECONDS", 0.05)
    counted: list[float] = []
    task = asyncio.create_task(count_lateness(counted.append))
    await asyncio.sleep(0.01)
    time.sleep(0.4)
    await asyncio.sleep(0.2)
    task.cancel()
    assert 0.3 < sum(counted) < 2.0
