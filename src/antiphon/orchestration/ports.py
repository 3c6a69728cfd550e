"""What orchestration needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from antiphon.core.scope import Scope


class Part(Protocol):
    """Something the worker does until it is told to stop."""

    async def run_until(self, stop: asyncio.Event) -> None: ...


class Refresh(Protocol):
    """Starts a durable refresh of views by name; a key that was used before starts nothing."""

    def __call__(
        self, scope: Scope, *, views: Sequence[str] = ..., reason: str = ..., key: str | None = ...
    ) -> str: ...
