"""A training beside work that leaves it nothing: it is told, and a floor raises its priority, in the real kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.autogroups import session_nice

from antiphon.core.child_process import start_child
from antiphon.core.clock import SystemClock
from antiphon.core.errors import SetupError
from antiphon.learning.retraining.steps import progress_text
from antiphon.training import child
from antiphon.training.order import TrainingOrder, TrainingProgress
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import require_libraries

SLEEPS = (sys.executable, "-c", "import signal; signal.pause()")
CORE = min(os.sched_getaffinity(0))
PINNED = f"import os; os.sched_setaffinity(0, {{{CORE}}})\n"
SPINS = (
    sys.executable, "-c",
    f"{PINNED}from antiphon.training import child; child.confine(None, None)\nwhile True: pass",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _libraries() -> None:
    try:
        require_libraries()
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture
def busy() -> Iterator[None]:
    """Neighbors that want the core of the training, at ordinary priority and in sessions of their own."""
    hogs = [start_child([sys.executable, "-c", f"{PINNED}while True: pass"], start_new_session=True) for _ in range(2)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


class SteppingClock(SystemClock):
    """Ten seconds pass with each look."""

    def __init__(self) -> None:
        self.now_is = 0.0

    def monotonic(self) -> float:
        self.now_is += 10.0
        return self.now_is


async def notices(
    processes: TrainingProcesses, folder: Path, enough: Callable[[list[TrainingProgress]], bool]
) -> list[str]:
    """Notices of a training that runs until it has told enough."""
    order = TrainingOrder(str(folder / "training"), "desk.v1", "/base", "0", "/examples", "0")
    told: list[TrainingProgress] = []
    running = asyncio.create_task(processes.run(order, told.append, lambda: enough(told)))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 300)
    return [progress.notice for progress in told if progress.notice]


async def test_a_training_that_gets_nothing_says_so_and_how_it_could_get_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[int] = []
    processes = TrainingProcesses(
        SteppingClock(), command=SLEEPS, stop_seconds=1.0,
        processor_seconds=lambda pid: 0.0, set_priority=lambda pid, nice: bool(raised.append(nice)) or True,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "antiphon.worker"):
        said = await notices(processes, tmp_path, lambda told: len(told) >= 2)
    assert said[0].startswith("it got 0% of a core for 60 s: other work on this machine holds it back")
    assert "2 min" in said[1]
    assert "training_min_share" in said[0]
    assert "Training desk.v1: it got 0% of a core" in caplog.text
    assert progress_text(TrainingProgress("loading", 0, 40, notice=said[0])).startswith("loading; it got 0% of a core")
    assert raised == [], "without a floor it takes what others leave"


async def test_below_a_floor_priority_rises_step_by_step_and_what_is_not_permitted_is_told(tmp_path: Path) -> None:
    raised: list[int] = []
    processes = TrainingProcesses(
        SteppingClock(), command=SLEEPS, stop_seconds=1.0, floor=0.25,
        processor_seconds=lambda pid: 0.0, set_priority=lambda pid, nice: bool(raised.append(nice)) or True,
    )  # fmt: skip
    said = await notices(processes, tmp_path, lambda told: len(told) >= 3)
    assert raised == [4, 0, 0], "a process that lowered itself late is raised once more"
    assert "raised to nice 4, towards the floor of 25%" in said[0]
    assert "cannot be raised further" in said[2]
    forbidden = TrainingProcesses(
        SteppingClock(), command=SLEEPS, stop_seconds=1.0, floor=0.25,
        processor_seconds=lambda pid: 0.0, set_priority=lambda pid, nice: False,
    )  # fmt: skip
    said = await notices(forbidden, tmp_path / "other", lambda told: len(told) >= 1)
    assert "not permitted" in said[0]


async def test_a_paused_training_is_not_starved(tmp_path: Path) -> None:
    clock = SteppingClock()
    processes = TrainingProcesses(
        clock, command=SLEEPS, stop_seconds=1.0, floor=0.25,
        processor_seconds=lambda pid: 0.0, set_priority=lambda pid, nice: True,
    )  # fmt: skip
    processes.pause_all()
    assert await notices(processes, tmp_path, lambda told: clock.now_is > 400) == []


async def test_the_kernel_gives_a_starved_training_its_floor(tmp_path: Path, busy: None) -> None:
    processes = TrainingProcesses(SystemClock(), command=SPINS, stop_seconds=1.0, floor=0.25, window=2.0)
    standing: list[tuple[int, int | None, float]] = []

    def raised(told: list[TrainingProgress]) -> bool:
        if told and processes.running:
            pid = processes.running[0].pid
            standing.append((os.sched_getscheduler(pid), session_nice(pid), child.processor_seconds(pid) or 0.0))
        return bool(standing) and standing[-1][2] - standing[0][2] >= 0.5

    said = await notices(processes, tmp_path, raised)
    assert "other work on this machine holds it back" in said[0]
    if "not permitted" in said[0]:
        pytest.skip("the priority of a process may not be raised here")
    assert standing[-1][0] == os.SCHED_OTHER
    assert standing[-1][1] in (None, 4, 0)
    assert standing[-1][2] - standing[0][2] >= 0.5, "it goes on"
