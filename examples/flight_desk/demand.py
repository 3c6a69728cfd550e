"""Who asks what when: a deterministic list of questions, declared by the settings and their seed."""

from __future__ import annotations

import math
import random
from datetime import date, datetime, timedelta

import msgspec

from examples.flight_desk.data import Events, connected
from examples.flight_desk.settings import Demand, Settings, Size

QUESTION = "Will my flight leave on time?"
"""Everybody's words. What differs is the flight and the moment."""


class Flight(msgspec.Struct, frozen=True):
    """One flight of a replayed day; ``dep_delay`` is minutes, ``None`` when it was cancelled."""

    event_id: str
    day: date
    origin: str
    dest: str
    carrier: str
    scheduled: datetime
    departed: datetime
    dep_delay: int | None

    @property
    def entity(self) -> dict[str, str]:
        """The key columns a request carries."""
        return {"origin": self.origin, "carrier": self.carrier, "dest": self.dest}


class Question(msgspec.Struct, frozen=True):
    """One passenger asks about a flight that has not left. ``id`` is unique in a run."""

    id: str
    flight: Flight
    asked: datetime


def read_flights(events: Events, days: tuple[date, ...]) -> tuple[Flight, ...]:
    """Every flight of these days, which follow each other, by schedule."""
    with connected() as connection:
        rows = connection.execute(
            "SELECT event_id, day, origin, dest, carrier, scheduled, departed, dep_delay FROM read_parquet($file)"
            " WHERE day BETWEEN $first AND $last ORDER BY scheduled, event_id",
            {"file": str(events.departures), "first": min(days), "last": max(days)},
        ).fetchall()
    return tuple(Flight(*row) for row in rows)


def questions(settings: Settings, size: Size, flights: tuple[Flight, ...]) -> tuple[Question, ...]:
    """The whole demand of a size, by the moment of asking.

    Each day's own generator is seeded by (seed, day), so that a day's demand does not depend on the other days.
    """
    asked: list[Question] = []
    for day in settings.days(size):
        random_numbers = random.Random(f"{settings.seed}/{day.isoformat()}")
        first = settings.local(day, settings.demand.first_departure)
        last = settings.local(day, settings.demand.last_departure)
        eligible = [flight for flight in flights if flight.day == day and first <= flight.scheduled <= last]
        chosen = random_numbers.sample(eligible, min(settings.demand.flights_per_day, len(eligible)))
        for flight in sorted(chosen, key=lambda one: (one.scheduled, one.event_id)):
            asked += _of_flight(flight, settings.demand, settings.local(day, settings.dawn), random_numbers)
    return tuple(sorted(asked, key=lambda question: (question.asked, question.id)))


def _of_flight(flight: Flight, demand: Demand, dawn: datetime, random_numbers: random.Random) -> list[Question]:
    questions: list[Question] = []
    for number in range(max(1, _poisson(demand.asks_per_flight, random_numbers))):
        asked = None
        while asked is None or asked <= dawn or asked >= flight.departed:
            lead = max(demand.shortest_lead_minutes, random_numbers.expovariate(1 / demand.mean_lead_minutes))
            asked = (flight.scheduled - timedelta(minutes=lead)).replace(microsecond=0)
            if flight.departed - dawn < timedelta(minutes=demand.shortest_lead_minutes):
                return questions
            if asked >= flight.departed:
                # It left long before its schedule: whoever asks, asks before that.
                asked = flight.departed - timedelta(minutes=demand.shortest_lead_minutes)
        questions.append(Question(f"{flight.event_id}#{number:03d}", flight, asked))
    return questions


def _poisson(mean: float, random_numbers: random.Random) -> int:
    """A Poisson number by Knuth's product of uniforms (The Art of Computer Programming, 3.4.1)."""
    limit, product, count = math.exp(-mean), random_numbers.random(), 0
    while product > limit:
        product *= random_numbers.random()
        count += 1
    return count


def chosen_flights(asked: tuple[Question, ...]) -> tuple[Flight, ...]:
    """The flights anybody asks about, by schedule: what a briefing covers."""
    found = {question.flight.event_id: question.flight for question in asked}
    return tuple(sorted(found.values(), key=lambda flight: (flight.scheduled, flight.event_id)))
