"""April's passengers, a few at a time: each phase of the story asks as long as it needs, then the next goes on.

Event time goes by in ticks as in the replay of the four ways. A flight's outcome is sent once the tick has come in
which it left, so nothing is learned before it could be known.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import date, datetime, timedelta

import msgspec

from examples.flight_desk import demand
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Question
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.drive import CONCURRENCY, Feed, Tick, ticks
from examples.flight_desk.records import Answered
from examples.flight_desk.settings import LearningSize, Settings, Size

APPLICATION = "desk"
DAYS = 14
"""Days that passengers are drawn for; a story that needs more has gone wrong."""


class Traffic:
    """One stream of passengers over the first days of April."""

    def __init__(self, settings: Settings, size: LearningSize, events: Events, desk: Desk) -> None:
        self._settings = settings
        self._desk = desk
        self._ticks = _ticks(settings, size, events)
        self.now = settings.local(settings.learning.start, "00:00")
        self._feed = Feed(events, desk, self.now, self.now + timedelta(days=DAYS))
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._unknown: list[tuple[Question, Answered]] = []
        self._day: date | None = None
        self.days = 0
        self.asked = 0
        self.statuses: Counter[str] = Counter()

    async def ask(
        self, phase: str, most: int, until: Callable[[], Awaitable[bool]] | None = None
    ) -> tuple[Answered, ...]:
        """Let passengers ask, tick by tick, until the condition holds or so many have asked; what they were told."""
        told: list[Answered] = []
        while len(told) < most:
            tick = next(self._ticks)
            if tick.day != self._day:
                await self._begin_day(tick.day)
            await self._advance(tick.end)
            answers = await asyncio.gather(*(self._ask_one(phase, question) for question in tick.questions))
            self._unknown += zip(tick.questions, answers, strict=True)
            told += answers
            self.asked += len(answers)
            await self._tell_outcomes()
            if until is not None and await until():
                break
        return tuple(told)

    async def close_day(self) -> None:
        """Let the outcomes of everybody who asked come in, without new questions."""
        if self._unknown:
            await self._advance(max(self.now, *(question.flight.departed for question, _ in self._unknown)))
            await self._tell_outcomes()

    async def _begin_day(self, day: date) -> None:
        """Refresh every view as of the day's dawn."""
        self._day = day
        self.days += 1
        dawn = self._settings.local(day, self._settings.dawn)
        await self._advance(dawn)
        await self._desk.refresh(dawn)

    async def _advance(self, until: datetime) -> None:
        await self._feed.advance(until)
        self.now = until

    async def _ask_one(self, phase: str, question: Question) -> Answered:
        async with self._limit:
            return await self._desk.ask(phase, APPLICATION, question)

    async def _tell_outcomes(self) -> None:
        """Send what became of the flights that have left by now."""
        known = [pair for pair in self._unknown if pair[0].flight.departed <= self.now]
        self._unknown = [pair for pair in self._unknown if pair[0].flight.departed > self.now]
        late = self._settings.analysis.late_after_minutes
        outcomes = [
            {
                "application": APPLICATION,
                "id": f"{question.id}/{answer.prediction}",
                "prediction": answer.prediction,
                "value": "delayed" if question.flight.dep_delay > late else "on_time",
                "available_at": question.flight.departed.isoformat(),
            }
            for question, answer in known
            # A cancelled flight has no delay, and a question that failed has no prediction.
            if question.flight.dep_delay is not None and answer.prediction
        ]
        self.statuses.update(await self._desk.tell_outcomes(outcomes))


def _ticks(settings: Settings, size: LearningSize, events: Events) -> Iterator[Tick]:
    """The ticks in which anybody asks; each flight is asked about once."""
    one_each = msgspec.structs.replace(settings.demand, flights_per_day=size.flights_a_day, asks_per_flight=1e-9)
    asking = msgspec.structs.replace(settings, demand=one_each)
    days = Size(settings.learning.start, DAYS, size.tick_minutes)
    questions = demand.questions(asking, days, demand.read_flights(events, settings.days(days)))
    return (tick for tick in ticks(asking, days, questions) if tick.questions)
