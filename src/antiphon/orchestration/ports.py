"""What orchestration needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from antiphon.core.scope import Scope


class Executor(Protocol):
    """Claims durable runs and executes them until told to stop."""

    async def run_until(self, stop: asyncio.Event) -> None: ...


class Consumer(Protocol):
    """Moves events of one stream from the log into the online store."""

    @property
    def stream(self) -> str: ...

    def poll(self, limit: int) -> int:
        """Consume at most ``limit`` events; how many there were. Blocking: called in a thread."""
        ...


class Submit(Protocol):
    """Starts durable runs; a key that was used before starts nothing."""

    def submit(self, scope: Scope, workflow: str, arguments: dict[str, Any], key: str | None = None) -> str: ...
