"""The story's second training is given a day that has matured, whenever its first release was decided."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from examples.flight_desk import plan, settings
from examples.flight_desk.learning import story
from examples.flight_desk.learning.story import Teller
from examples.flight_desk.machine import Generation, Machine
from examples.flight_desk.plan import Schedule

from antiphon.training.recipe import Arithmetic


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


class Rehearsal(Teller):
    """The story without a platform: each part only says that it took place."""

    async def _took_place(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"took": "place"}

    _train = _release_trained = _collect = _delta = _bad_release = _flip = _took_place


class Absent:
    """A desk and its passengers where nobody asks."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.now = datetime(2013, 4, 1, tzinfo=UTC)
        self.statuses: dict[str, int] = {}

    async def __aenter__(self) -> Absent:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def refresh(self, now: datetime) -> None: ...


@pytest.mark.parametrize(
    ("declared", "passed", "again"), [(True, 0.0, True), (False, 0.0, False), (True, 2_000.0, False)]
)
async def test_learning_again_is_told_where_it_is_planned_and_there_is_time(
    declared: bool, passed: float, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "Desk", Absent)
    monkeypatch.setattr(story, "Traffic", Absent)
    machine = Machine(Generation(3_000.0, 1_000.0), Arithmetic(), 0.2)
    clock = iter([0.0, passed])
    schedule = Schedule(plan.make(settings.load(), machine), 840.0, lambda: next(clock))
    size: Any = SimpleNamespace(learns_again=declared, train_examples=960, delta_examples=120)
    said: list[str] = []
    absent: Any = None
    told = await Rehearsal(settings.load(), size, absent, absent, absent, said.append, schedule).tell()
    assert bool(told.found("second release")) == bool(told.found("collect outcomes")) == again
    assert all(told.found(name) for name in ("train on history", "first release", "bad release", "roll back and forth"))
    assert any("left out for time" in one for one in said) == (passed > 0)
