"""An injector, and what several of them do."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.operations.faults.drafts import DRAFTS
from benchmarks.operations.faults.project import FaultyProject, antiphon
from benchmarks.operations.faults.users import Users

Injector = Callable[[FaultyProject, Users, random.Random, float], Coroutine[Any, Any, None]]
"""Does the fault to a project for so many seconds, then undoes what it has to."""


@contextmanager
def stood_still(*pids: int) -> Iterator[None]:
    """Let processes go on at the end of the block, if they are there still."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def set_aside(path: Path) -> AsyncIterator[Path]:
    """A file is under another name while the block lasts; that name."""
    aside = path.with_suffix(".before")
    path.rename(aside)
    try:
        yield aside
    finally:
        aside.replace(path)


async def refreshed(project: FaultyProject, seconds: float) -> None:
    """Order a refresh of the tickets, and wait for so many seconds in all."""
    end = time.monotonic() + seconds
    await asyncio.to_thread(antiphon, project.root, "features", "refresh", "tickets", "--json", code=None)
    await asyncio.sleep(max(0.0, end - time.monotonic()))


def released(name: str) -> Injector:
    """A person forces a bad release past its gates: the draft of a name."""
    application = DRAFTS[name].application

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        bad = (project.root / f"bad-{name}").read_text(encoding="utf-8")
        order = ("releases", "activate", application, bad, "--force", "--reason", "it is urgent", "--json")
        await asyncio.to_thread(antiphon, project.root, *order)
        await asyncio.sleep(seconds)

    return act
