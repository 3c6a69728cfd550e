"""The story's second training is given a day that has matured, whenever its first release was decided."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from examples.flight_desk.learning.story import Teller


class Passengers:
    """Each call brings the questions of one tick; a day has so many left."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.days = 1
        self.statuses: dict[str, int] = {}
        self.closed_on: int | None = None

    async def ask(self, phase: str, most: int) -> tuple[int, ...]:
        asked: list[int] = []
        while len(asked) < most:
            if not self.left:
                self.days, self.left = self.days + 1, 160
            tick = min(6, self.left)
            self.left -= tick
            asked += range(tick)
        return tuple(asked)

    async def close_day(self) -> None:
        self.closed_on = self.days


@pytest.mark.parametrize(("left", "asked"), [(36, 42), (0, 30), (30, 36), (100, 106)])
async def test_it_collects_until_a_second_day_has_begun(left: int, asked: int) -> None:
    passengers: Any = Passengers(left)
    size: Any = SimpleNamespace(collected_questions=30)
    teller = Teller(None, size, None, None, None, lambda said: None)  # type: ignore[arg-type]
    found = await teller._collect(passengers)
    assert passengers.closed_on == 2
    assert found["questions"] == asked
