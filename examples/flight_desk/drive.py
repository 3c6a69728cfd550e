"""The replay: event time goes by in ticks, the day's events stream in, everybody asks all four ways.

In each tick the events known by its end are sent and awaited; then its questions are asked, each at its own moment
(``as_of``), first online, then the other ways. A feature read at a moment does not see what became known later, so
a tick's length costs no truth. At dawn the briefings of the day start in batch; the online questions go on beside
them, and the ways that need the briefing catch up when it is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta

import msgspec

from examples.flight_desk import data, demand
from examples.flight_desk.data import Events, SourceEvent
from examples.flight_desk.demand import Flight, Question
from examples.flight_desk.desk_client import Desk
from examples.flight_desk.records import Answered, Journal, Lag
from examples.flight_desk.settings import Settings, Size

CONCURRENCY = 8
"""Questions under way at once."""


class Progress(msgspec.Struct, frozen=True):
    """How far the replay is."""

    moment: datetime
    asked: int
    questions: int
    generated: int
    briefed: int
    briefing_rows: int


Report = Callable[[Progress], None]


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


class Replay:
    """One run against a platform that has the history until the replay's start and nothing later."""

    def __init__(
        self, settings: Settings, size: Size, events: Events, desk: Desk, journal: Journal, report: Report
    ) -> None:
        self._settings = settings
        self._size = size
        self._desk = desk
        self._journal = journal
        self._report = report
        flights = demand.read_flights(events.departures, settings.days(size))
        self._questions = demand.questions(settings, size, flights)
        self._arriving = data.arriving(events, settings.start(size), settings.end(size))
        self._sent = dict.fromkeys(self._arriving, 0)
        kept = journal.answers()
        self._done = {answer.key for answer in kept}
        self._generated = sum(answer.made == "generated" and not answer.error for answer in kept)
        self._waiting: list[Question] = []
        self._briefings: dict[str, str] = {}
        self._briefing_day = size.first_day
        self._briefed = 0

    async def run(self) -> None:
        """Replay every day; what the journal already holds is not asked again.

        Raises:
            Unavailable: the platform stayed away or a briefing failed.
        """
        await self._desk.refresh(self._settings.start(self._size))
        today: date | None = None
        for tick in ticks(self._settings, self._size, self._questions):
            if tick.day != today:
                await self._finish_briefing(wait=True)
                today = tick.day
                await self._begin_day(tick.day)
            await self._advance(tick.end)
            await self._ask("online", tick.questions)
            self._waiting += tick.questions
            await self._finish_briefing(wait=False)
            self._tell(tick.end)
        await self._finish_briefing(wait=True)
        self._tell(self._settings.end(self._size))

    async def _begin_day(self, day: date) -> None:
        """Send what is known at dawn, refresh the views, order the briefings of the three ways that store answers."""
        dawn = self._settings.local(day, self._settings.dawn)
        await self._advance(dawn)
        await self._desk.refresh(dawn)
        flights = self._flights(day)
        self._briefing_day = day
        self._briefed = 0
        for way, application in self._settings.ways.applications.items():
            if way != "online":
                self._briefings[way] = await self._desk.order_briefing(
                    application, flights, dawn, key=f"briefing/{application}/{day.isoformat()}"
                )

    def _flights(self, day: date) -> tuple[Flight, ...]:
        return demand.chosen_flights(tuple(question for question in self._questions if question.flight.day == day))

    async def _advance(self, until: datetime) -> None:
        arrived: dict[str, Sequence[SourceEvent]] = {}
        for stream, events in self._arriving.items():
            first = self._sent[stream]
            last = first
            while last < len(events) and events[last].available_at <= until:
                last += 1
            self._sent[stream] = last
            if last > first:
                arrived[stream] = events[first:last]
        if not arrived:
            return
        started = time.perf_counter()
        await self._desk.wait_consumed(await self._desk.push(arrived))
        count = sum(len(events) for events in arrived.values())
        self._journal.add_lag(Lag(until, count, time.perf_counter() - started))

    async def _finish_briefing(self, *, wait: bool) -> None:
        """Once the day's briefings are stored, ask the ways that use them everything that waited."""
        while self._briefings:
            states = {way: await self._desk.briefing_state(job) for way, job in self._briefings.items()}
            self._briefed = sum(done for _, done, _ in states.values())
            if all(ended for ended, _, _ in states.values()):
                break
            if not wait:
                return
            await asyncio.sleep(0.1)
        dawn = self._settings.local(self._briefing_day, self._settings.dawn)
        for way, job in self._briefings.items():
            self._keep(await self._desk.briefing_rows(way, job, self._flights(self._briefing_day), dawn))
        self._briefings = {}
        waiting, self._waiting = self._waiting, []
        for way in self._settings.ways.applications:
            if way != "online":
                await self._ask(way, waiting)

    async def _ask(self, way: str, asked: Sequence[Question]) -> None:
        """Ask one way, several flights at once; questions about one flight's entity go one after another.

        A stored answer is never served to an earlier moment, so the order within an entity is part of the result.
        """
        application = self._settings.ways.applications[way]
        open_questions = [question for question in asked if (way, "online", question.id) not in self._done]
        queues: dict[tuple[str, ...], list[Question]] = {}
        for question in open_questions:
            queues.setdefault(tuple(question.flight.entity.values()), []).append(question)
        limit = asyncio.Semaphore(CONCURRENCY)

        async def one_after_another(queue: Sequence[Question]) -> list[Answered]:
            answers = []
            for question in queue:
                async with limit:
                    answers.append(await self._desk.ask(way, application, question))
            return answers

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one_after_another(queue)) for queue in queues.values()]
        self._keep([answer for task in tasks for answer in task.result()])

    def _keep(self, answers: Sequence[Answered]) -> None:
        new = [answer for answer in answers if answer.key not in self._done]
        self._journal.add(new)
        self._done |= {answer.key for answer in new}
        self._generated += sum(answer.made == "generated" and not answer.error for answer in new)

    def _tell(self, moment: datetime) -> None:
        asked = sum(way == "online" and path == "online" for way, path, _ in self._done)
        rows = len(self._briefings) * len(self._flights(self._briefing_day))
        self._report(Progress(moment, asked, len(self._questions), self._generated, self._briefed if rows else 0, rows))
