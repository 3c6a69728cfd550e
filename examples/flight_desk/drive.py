"""The replay: event time goes by in ticks, the day's events stream in, everybody asks all four ways.

In each tick the events known by its end are sent and awaited; then its questions are asked, each at its own moment
(``as_of``), first online, then the other ways. A feature read at a moment does not see what became known later, so
neither a tick's length nor the ticks that are still open cost any truth. At dawn the briefings of the day start in
batch; the online questions go on beside them, and the ways that need a briefing catch up when it is done.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import takewhile

import msgspec

from examples.flight_desk import data, demand
from examples.flight_desk.data import Events
from examples.flight_desk.demand import Flight, Question
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.records import Answered, Journal, Lag
from examples.flight_desk.settings import Settings, Size

CONCURRENCY = 8
"""Questions under way at once."""

OPEN_TICKS = 3
"""Ticks whose online answers may still be under way when the next events are sent."""


class Tick(msgspec.Struct, frozen=True):
    """A step of event time with the questions asked in it."""

    day: date
    end: datetime
    questions: tuple[Question, ...]


def ticks(settings: Settings, size: Size, asked: Sequence[Question]) -> Iterator[Tick]:
    """The steps of every day from dawn to its last question."""
    for day in settings.days(size):
        waiting = [question for question in asked if question.flight.day == day]
        end = settings.local(day, settings.dawn)
        while waiting:
            end += timedelta(minutes=size.tick_minutes)
            now = tuple(question for question in waiting if question.asked <= end)
            waiting = waiting[len(now) :]
            yield Tick(day, end, now)


class Feed:
    """Sends the events of both streams in the order in which they became known."""

    def __init__(self, events: Events, desk: Desk, after: datetime, until: datetime) -> None:
        self._desk = desk
        self._waiting = data.arriving(events, after, until)

    async def advance(self, until: datetime) -> int:
        """Send what is known by a moment, and wait until the features have it; the number of events."""
        arrived = {}
        for stream, waiting in self._waiting.items():
            known = list(takewhile(lambda event: event.available_at <= until, waiting))
            if known:
                arrived[stream] = known
                del waiting[: len(known)]
        if arrived:
            await self._desk.push(arrived)
        return sum(map(len, arrived.values()))


def is_complete(settings: Settings, size: Size, events: Events, answers: Sequence[Answered]) -> bool:
    """Whether every question has an answer in every way."""
    asked = demand.questions(settings, size, demand.read_flights(events, settings.days(size)))
    done = {answer.key for answer in answers}
    return all((way, "online", question.id) in done for way in settings.ways for question in asked)


class Replay:
    """One run against a platform that has the history until the replay's start and nothing later.

    Args:
        report: hears how far it is: the moment, how many questions were asked, of how many, and texts generated.
    """

    def __init__(
        self,
        settings: Settings,
        size: Size,
        events: Events,
        desk: Desk,
        journal: Journal,
        report: Callable[[datetime, int, int, int], None],
    ) -> None:
        self._settings = settings
        self._size = size
        self._desk = desk
        self._journal = journal
        self._report = report
        self._questions = demand.questions(settings, size, demand.read_flights(events, settings.days(size)))
        self._feed = Feed(events, desk, settings.start(size), settings.end(size))
        self._done: set[tuple[str, str, str]] = set()
        self._generated = 0
        self._count(journal.answers())
        self._waiting: list[Question] = []
        self._dawn = settings.start(size)
        self._flights: tuple[Flight, ...] = ()
        self._to_brief: list[str] = []
        self._job = ""
        self._turns: dict[tuple[str, ...], asyncio.Lock] = {}
        self._limit = asyncio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Replay every day; what the journal already holds is not asked again.

        Raises:
            UnavailableError: the platform stayed away or a briefing failed.
        """
        await self._desk.refresh(self._settings.start(self._size))
        for day in self._settings.days(self._size):
            today = tuple(question for question in self._questions if question.flight.day == day)
            await self._begin_day(day, today)
            async with asyncio.TaskGroup() as group:
                open_ticks: deque[tuple[Tick, asyncio.Task[None]]] = deque()
                for tick in ticks(self._settings, self._size, today):
                    await self._advance(tick.end)
                    open_ticks.append((tick, group.create_task(self._ask("online", tick.questions))))
                    while open_ticks and (len(open_ticks) > OPEN_TICKS or open_ticks[0][1].done()):
                        await self._close(*open_ticks.popleft())
                    await self._finish_briefings(wait=False)
                    self._tell(tick.end)
                while open_ticks:
                    await self._close(*open_ticks.popleft())
            await self._finish_briefings(wait=True)
            self._tell(self._settings.local(day + timedelta(days=1), "00:00"))

    async def _begin_day(self, day: date, today: tuple[Question, ...]) -> None:
        """Send what is known at dawn, refresh the views, order the first of the day's briefings."""
        self._dawn = self._settings.local(day, self._settings.dawn)
        await self._advance(self._dawn)
        await self._desk.refresh(self._dawn)
        self._flights = demand.chosen_flights(today)
        self._to_brief = [way for way in self._settings.ways if way != "online"]
        await self._order_briefing()

    async def _advance(self, until: datetime) -> None:
        started = time.perf_counter()
        if sent := await self._feed.advance(until):
            self._journal.add_lag(Lag(until, sent, time.perf_counter() - started))

    async def _close(self, tick: Tick, asking: asyncio.Task[None]) -> None:
        """Wait for a tick's online answers; then its questions may be put to the other ways."""
        await asking
        self._waiting += tick.questions

    async def _order_briefing(self) -> None:
        """One after another: the prompts of the second and third are the first's, and so generated once."""
        application = self._settings.ways[self._to_brief[0]]
        key = f"briefing/{application}/{self._dawn:%Y-%m-%d}"
        self._job = await self._desk.order_briefing(application, self._flights, self._dawn, key)

    async def _finish_briefings(self, *, wait: bool) -> None:
        """Once the day's briefings are stored, ask the ways that use them everything that waited."""
        while self._to_brief:
            if await self._desk.is_briefed(self._job):
                way = self._to_brief.pop(0)
                self._keep(await self._desk.briefing_rows(way, self._job, self._flights, self._dawn))
                if self._to_brief:
                    await self._order_briefing()
            elif wait:
                await asyncio.sleep(0.1)
            else:
                return
        waiting, self._waiting = self._waiting, []
        for way in self._settings.ways:
            if way != "online":
                await self._ask(way, waiting)

    async def _ask(self, way: str, asked: Sequence[Question]) -> None:
        """Ask one way, several entities at once; questions about one entity go one after another.

        A stored answer is never served to an earlier moment, so the order within an entity is part of the result.
        """
        await asyncio.gather(
            *(self._ask_one(way, question) for question in asked if (way, "online", question.id) not in self._done)
        )

    async def _ask_one(self, way: str, question: Question) -> None:
        turn = self._turns.setdefault((way, *question.flight.entity.values()), asyncio.Lock())
        async with turn, self._limit:
            self._keep([await self._desk.ask(way, self._settings.ways[way], question)])

    def _keep(self, answers: Sequence[Answered]) -> None:
        new = [answer for answer in answers if answer.key not in self._done]
        self._journal.add(new)
        self._count(new)

    def _count(self, answers: Sequence[Answered]) -> None:
        self._done |= {answer.key for answer in answers}
        self._generated += sum(answer.made == "generated" and not answer.error for answer in answers)

    def _tell(self, moment: datetime) -> None:
        asked = sum(way == "online" and path == "online" for way, path, _ in self._done)
        self._report(moment, asked, len(self._questions), self._generated)
