"""Processes of a real supervisor, replaced one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.operations.test_supervisor import Watched, child

from antiphon.core.errors import SetupError
from antiphon.operations.processes import ProcessRecord
from antiphon.operations.replacement import replace

STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(f"{sys.argv[2]}/{sys.argv[1]}.ready", "w").write("")
while True:
    signal.pause()
"""


async def listed(record: ProcessRecord) -> bool:
    return True


async def test_each_is_replaced_once_the_one_before_is_ready_without_a_delay(tmp_path: Path) -> None:
    specs = child(tmp_path, "first"), child(tmp_path, "second")
    async with Watched(tmp_path, *specs) as watched:
        await watched.until(lambda: len(watched.of("ready")) == 2)
        before = {name: watched.pid(name) for name in ("first", "second")}
        told = len(watched.happened)
        async with asyncio.timeout(20):
            done = [one async for one in replace(specs, watched.run, listed)]
        assert {one.process: one.before for one in done} == before
        assert {one.process: one.pid for one in done} == {name: watched.pid(name) for name in before}
        # A successor is ready once its file is there, which the supervisor itself may see a moment later.
        await watched.until(lambda: [one.event for one in watched.happened[told:]].count("ready") == 2)
        happened = [(one.process, one.event) for one in watched.happened[told:]]
    each = ["stopped", "starting", "ready"]
    assert happened == [(name, event) for name in ("first", "second") for event in each]


async def test_one_that_is_not_listed_yet_is_waited_for(tmp_path: Path) -> None:
    first = child(tmp_path, "first")
    asked = 0

    async def at_third(record: ProcessRecord) -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    async with Watched(tmp_path, first) as watched:
        await watched.until(lambda: watched.of("ready") == ["first"])
        async with asyncio.timeout(20):
            assert len([one async for one in replace([first], watched.run, at_third)]) == 1
    assert asked == 3


async def test_one_that_does_not_end_is_killed_and_replaced(tmp_path: Path) -> None:
    stubborn = child(tmp_path, "first", STUBBORN, drain_seconds=0.2)
    async with Watched(tmp_path, stubborn) as watched:
        await watched.until(lambda: watched.of("ready") == ["first"])
        async with asyncio.timeout(20):
            (done,) = [one async for one in replace([stubborn], watched.run, listed)]
        assert done.pid != done.before


async def test_one_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(SetupError, match="first does not run"):
        async for _ in replace([child(tmp_path, "first")], tmp_path / "run", listed):
            pass
