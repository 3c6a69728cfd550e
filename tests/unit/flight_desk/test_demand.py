"""The declared demand: the same for the same seed, and only about flights that have not left."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec
from examples.flight_desk import demand, settings
from examples.flight_desk.demand import Flight
from examples.flight_desk.drive import ticks

DECLARED = settings.load()
DAYS = DECLARED.days(DECLARED.demo)


def flights(days: tuple[date, ...] = DAYS) -> tuple[Flight, ...]:
    """Sixty flights a day, some early, some very late, one cancelled."""
    found = []
    for day in days:
        first = DECLARED.local(day, "06:00")
        for number in range(60):
            scheduled = first + timedelta(minutes=17 * number)
            delay = (-8, 0, 95)[number % 3]
            found.append(
                Flight(
                    event_id=f"{day}-{number}",
                    day=day,
                    origin=("EWR", "JFK", "LGA")[number % 3],
                    dest="BOS",
                    carrier="B6",
                    scheduled=scheduled,
                    departed=scheduled + timedelta(minutes=delay),
                    dep_delay=None if number == 30 else delay,
                )
            )
    return tuple(found)


def test_the_same_seed_asks_the_same_questions() -> None:
    asked = demand.questions(DECLARED, DECLARED.demo, flights())
    assert asked == demand.questions(DECLARED, DECLARED.demo, flights())
    other = msgspec.structs.replace(DECLARED, seed=DECLARED.seed + 1)
    assert asked != demand.questions(other, DECLARED.demo, flights())


def test_a_days_demand_does_not_depend_on_the_other_days() -> None:
    one = msgspec.structs.replace(DECLARED.demo, days=1)
    first = demand.questions(DECLARED, one, flights())
    assert first == tuple(
        question
        for question in demand.questions(DECLARED, DECLARED.demo, flights())
        if question.flight.day == DECLARED.demo.first_day
    )


def test_everybody_asks_after_dawn_and_before_the_flight_has_left() -> None:
    for question in demand.questions(DECLARED, DECLARED.demo, flights()):
        assert DECLARED.local(question.flight.day, DECLARED.dawn) < question.asked < question.flight.departed
        assert question.asked < question.flight.scheduled


def test_the_amounts_are_the_declared_ones() -> None:
    asked = demand.questions(DECLARED, DECLARED.demo, flights())
    per_flight = len(asked) / len(demand.chosen_flights(asked))
    assert len(demand.chosen_flights(asked)) == len(DAYS) * DECLARED.demand.flights_per_day
    assert abs(per_flight - DECLARED.demand.asks_per_flight) < 3
    leads = [(question.flight.scheduled - question.asked).total_seconds() / 60 for question in asked]
    assert 45 < sum(leads) / len(leads) < 75
    assert len({question.id for question in asked}) == len(asked)


def test_ticks_hold_every_question_once_and_end_after_it() -> None:
    asked = demand.questions(DECLARED, DECLARED.demo, flights())
    seen = []
    before = datetime(2013, 1, 1, tzinfo=UTC)
    for tick in ticks(DECLARED, DECLARED.demo, asked):
        assert tick.end > before
        before = tick.end
        for question in tick.questions:
            assert tick.end - timedelta(minutes=DECLARED.demo.tick_minutes) < question.asked <= tick.end
        seen += tick.questions
    assert seen == list(asked)


def test_local_times_follow_the_zone() -> None:
    assert DECLARED.local(date(2013, 4, 10), "08:00") == datetime(2013, 4, 10, 12, 0, tzinfo=UTC)
    assert DECLARED.local(date(2013, 1, 10), "08:00") == datetime(2013, 1, 10, 13, 0, tzinfo=UTC)
