"""April's passengers, a few at a time: each phase of the story asks as long as it needs, then the next goes on.

Event time goes by in ticks as in the replay of the four ways. A flight's outcome is sent once the tick has come in
which it left, so nothing is learned before it could be known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import date, datetime, timedelta

import msgspec

from examples.flight_desk import data, demand
from examples.flight_desk.data import Events, SourceEvent
from examples.flight_desk.demand import Question
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.records import Answered
from examples.flight_desk.settings import LearningSize, Settings, Size

APPLICATION = "desk"
CONCURRENCY = 8
DAYS = 14
"""Days that passengers are drawn for; a story that needs more has gone wrong."""


class Tick(msgspec.Struct, frozen=True):
    """A step of event time and the questions asked in it."""

    end: datetime
    questions: tuple[Question, ...]


class Traffic:
    """One stream of passengers over the first days of April."""

    def __init__(self, settings: Settings, size: LearningSize, events: Events, desk: Desk) -> None:
        self._settings = settings
        self.desk = desk
        self._late = settings.analysis.late_after_minutes
        self._ticks = _ticks(settings, size, events)
        start, end = span(settings)
        self._arriving = data.arriving(events, start, end)
        self._sent = dict.fromkeys(self._arriving, 0)
        self._unknown: list[tuple[Question, Answered]] = []
        self._day: date | None = None
        self.days = 0
        self.now = start
        self.answered: list[Answered] = []
        self.statuses: dict[str, int] = {}

    async def ask(
        self, phase: str, most: int, until: Callable[[], Awaitable[bool]] | None = None
    ) -> tuple[Answered, ...]:
        """Let passengers ask, tick by tick, until the condition holds or so many have asked; what they were told."""
        asked: list[Answered] = []
        while len(asked) < most:
            tick = next(self._ticks)
            await self._begin_day(tick.questions[0].flight.day)
            await self._advance(tick.end)
            limit = asyncio.Semaphore(CONCURRENCY)

            async def one(question: Question, limit: asyncio.Semaphore = limit) -> Answered:
                async with limit:
                    return await self.desk.ask(phase, APPLICATION, question)

            answers = await asyncio.gather(*(one(question) for question in tick.questions))
            self._unknown += zip(tick.questions, answers, strict=True)
            asked += answers
            self.answered += answers
            await self._tell(tick.end)
            if until is not None and await until():
                break
        return tuple(asked)

    async def close_day(self) -> None:
        """Let the outcomes of everybody who asked come in, without new questions."""
        if self._unknown:
            latest = max(question.flight.departed for question, _ in self._unknown)
            await self._advance(max(self.now, latest))
            await self._tell(self.now)

    async def _begin_day(self, day: date) -> None:
        """Refresh every view as of the day's dawn, once."""
        if day != self._day:
            self._day = day
            self.days += 1
            dawn = self._settings.local(day, self._settings.dawn)
            await self._advance(dawn)
            await self.desk.refresh(dawn)

    async def _advance(self, until: datetime) -> None:
        arrived: dict[str, Sequence[SourceEvent]] = {}
        for stream, events in self._arriving.items():
            first = last = self._sent[stream]
            while last < len(events) and events[last].available_at <= until:
                last += 1
            self._sent[stream] = last
            if last > first:
                arrived[stream] = events[first:last]
        if arrived:
            await self.desk.wait_consumed(await self.desk.push(arrived))
        self.now = until

    async def _tell(self, now: datetime) -> None:
        known = [pair for pair in self._unknown if pair[0].flight.departed <= now]
        self._unknown = [pair for pair in self._unknown if pair[0].flight.departed > now]
        outcomes = [
            {
                "application": APPLICATION,
                "id": f"{question.id}/{answer.prediction}",
                "prediction": answer.prediction,
                "value": "delayed" if (question.flight.dep_delay or 0) > self._late else "on_time",
                "available_at": question.flight.departed.isoformat(),
            }
            for question, answer in known
            # A cancelled flight has no delay, and a question that failed has no prediction.
            if question.flight.dep_delay is not None and answer.prediction
        ]
        for first in range(0, len(outcomes), 500):
            for status in await self.desk.tell_outcomes(outcomes[first : first + 500]):
                self.statuses[status] = self.statuses.get(status, 0) + 1


def span(settings: Settings) -> tuple[datetime, datetime]:
    """The first and the last moment of the days that passengers are drawn for."""
    first = settings.learning.start
    return settings.local(first, "00:00"), settings.local(first + timedelta(days=DAYS), "00:00")


def _ticks(settings: Settings, size: LearningSize, events: Events) -> Iterator[Tick]:
    one_each = msgspec.structs.replace(settings.demand, flights_per_day=size.flights_a_day, asks_per_flight=1e-9)
    asking = msgspec.structs.replace(settings, demand=one_each)
    days = Size(settings.learning.start, DAYS, size.tick_minutes)
    flights = demand.read_flights(events.departures, settings.days(days))
    waiting = demand.questions(asking, days, flights)
    end = settings.local(days.first_day, settings.dawn)
    while waiting:
        end += timedelta(minutes=size.tick_minutes)
        now = tuple(question for question in waiting if question.asked <= end)
        if now:
            waiting = waiting[len(now) :]
            yield Tick(end, now)
