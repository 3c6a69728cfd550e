"""Admission: a bound on answers under way, per path, so that a flood is refused instead of queued for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from antiphon.catalog.receipts import Path
from antiphon.core.errors import Overloaded


class Admission:
    """Counts answers under way; online and batch have bounds of their own."""

    def __init__(self, *, online: int, batch: int) -> None:
        self._bounds: dict[Path, int] = {"online": online, "batch": batch}
        self._under_way: dict[Path, int] = {"online": 0, "batch": 0}

    def under_way(self, path: Path) -> int:
        """How many answers of this path are being made now."""
        return self._under_way[path]

    @asynccontextmanager
    async def enter(self, path: Path) -> AsyncIterator[None]:
        """Hold one place while the answer is made.

        Raises:
            Overloaded: every place is taken.
        """
        if self._under_way[path] >= self._bounds[path]:
            raise Overloaded(
                f"{self._bounds[path]} {path} answers are already under way.",
                where="admission",
                next_step="Try again shortly, or raise [gateway] max_in_flight.",
            )
        self._under_way[path] += 1
        try:
            yield
        finally:
            self._under_way[path] -= 1
