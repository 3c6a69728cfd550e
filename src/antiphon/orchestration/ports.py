"""What orchestration needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from antiphon.engine.api.messages import EngineDescription


class Part(Protocol):
    """Something the worker does until it is told to stop."""

    async def run_until(self, stop: asyncio.Event) -> None: ...


class Watched(Protocol):
    """The engine, as far as it says how busy it is."""

    async def describe(self) -> EngineDescription:
        """The load now; raises ``UnavailableError`` when the engine cannot be reached."""
        ...


class Pausable(Protocol):
    """Work in processes of its own that can be stopped where it is and continued. Each call may be repeated."""

    @property
    def running(self) -> Sequence[object]:
        """What is under way now, paused or not."""
        ...

    def pause_all(self) -> None:
        """Stop everything under way at once, but what was asked to end; what starts later may be stopped too."""
        ...

    def resume_all(self) -> None:
        """Continue everything, what starts later too."""
        ...
