"""The arithmetic of the comparison: whose tokens count, when a text was written, what an age limit would serve."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy
import pytest
from examples.flight_desk.analysis import Bootstrap, Index, Spent, Table, by_age, equal_cost, resolve, sweep
from examples.flight_desk.records import Answered, Journal, Lag
from examples.flight_desk.truth import Series, Truth

NOON = datetime(2013, 4, 10, 12, 0, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def truth_of(*delays: tuple[int, float]) -> Truth:
    """One flight each, scheduled and gone at so many minutes from noon; the window of two hours forgets it."""
    times = numpy.array([microseconds(NOON + timedelta(minutes=minute)) for minute, _ in delays])
    series = Series(times, times, numpy.array([float(delay) for _, delay in delays]))
    return Truth(delays={"JFK": series}, carriers={}, routes={}, winds={})


def answer(way: str, minute: int, delay: int, *, flight: str = "f1", **fields: object) -> Answered:
    named = {"prediction": f"{way}-{flight}-{minute}", "tokens": 10, "seconds": 1.0} | fields
    return Answered(
        way=way, path=named.pop("path", "online"), question=f"{flight}@{minute}", flight=flight,
        day=date(2013, 4, 10), origin="JFK", carrier="B6", dest="MCO", asked=NOON + timedelta(minutes=minute),
        text=f'{{"outlook": "delayed", "notice": "Departures at JFK run {delay} minutes late."}}', **named,
    )  # fmt: skip


def test_an_identical_prompt_costs_its_way_what_it_cost_the_first() -> None:
    first = answer("online", 0, 20, seconds=3.0)
    copy = answer("fingerprint", 0, 20, made="identical-prompt", source=first.prediction, tokens=0, seconds=0.01)
    later = answer("fingerprint", 5, 20, made="stored", source=copy.prediction, tokens=0, seconds=0.02)
    served, _ = resolve([first, copy, later], truth_of((-10, 20)))
    assert [(one.tokens, one.generated, one.seconds) for one in served] == [
        (10, True, 3.0),
        (10, True, 3.0),
        (0, False, 0.02),
    ]
    # The copy was written for its own moment, the stored answer for the copy's.
    assert [one.written for one in served] == [NOON, NOON, NOON]


def test_a_stored_answer_is_as_old_as_the_moment_it_was_made_for() -> None:
    dawn = answer("briefing", -240, 20, path="batch")
    read = answer("briefing", 0, 20, made="stored", source=dawn.prediction, tokens=0)
    served, spent = resolve([dawn, read], truth_of((-250, 20), (-10, 60)))
    assert served[0].written == NOON - timedelta(minutes=240)
    assert served[0].from_batch
    assert [one.verdict for one in served[0].judged] == ["stale"]
    assert [(row.way, row.tokens) for row in spent] == [("briefing", 10)]


def test_a_copied_row_of_a_briefing_costs_what_its_text_cost() -> None:
    first = answer("briefing", -240, 20, path="batch")
    copy = answer("age", -240, 20, path="batch", made="identical-prompt", tokens=0)
    other = answer("fingerprint", -240, 20, path="batch", made="stored", tokens=0)
    _, spent = resolve([first, copy, other], truth_of((-10, 20)))
    assert [(row.way, row.tokens, row.generated) for row in spent] == [
        ("briefing", 10, True),
        ("age", 10, True),
        ("fingerprint", 0, False),
    ]


def test_a_chain_of_reuse_ends_even_when_it_bites_its_tail() -> None:
    one = answer("desk", 0, 20, made="stored", source="desk-f1-1")
    two = answer("desk", 1, 20, made="stored", source="desk-f1-0")
    assert Index([one, two]).origin(one) in (one, two)


def test_failed_answers_are_no_answers() -> None:
    served, spent = resolve([answer("online", 0, 20, error="400")], truth_of((-10, 20)))
    assert (served, spent) == ((), ())


FACTS = truth_of((-10, 20), (12, 60))
"""Mean delay 20 until 12:12, then 40 until the window forgets the first at 13:50."""
ONLINE = [answer("online", minute, 20 if minute < 12 else 40) for minute in (0, 5, 10, 15, 40, 45)]
DAWN = [answer("age", -5, 20, path="batch")]
SPENT = [Spent("f1", "age", 10, True)]


def swept(limits: list[int]):
    served, _ = resolve(ONLINE, FACTS)
    return sweep(served, DAWN, SPENT, limits, FACTS, ["f1"])


def test_an_age_limit_of_nothing_is_online_only_and_one_without_end_is_the_briefing() -> None:
    none, all_day = (point for point, _ in swept([600]))
    assert (none.generations_per_answer, none.false) == (7 / 6, 0)
    # The briefing's 20 minutes are false for the three who read it after the change.
    assert all_day.generations_per_answer == pytest.approx(1 / 6)
    assert all_day.stale == pytest.approx(1000 * 3 / 6)


def test_an_age_limit_serves_the_last_text_it_made_until_that_is_too_old() -> None:
    served, _ = resolve(ONLINE, FACTS)
    kept = by_age(served, DAWN, timedelta(minutes=12), FACTS)
    moments = [round((one.written - NOON).total_seconds() / 60) for one in kept]
    # From dawn (-5) until 12:07, then made at 12:10 until 12:22, then at 12:40.
    assert moments == [-5, -5, 10, 10, 40, 40]
    assert [one.generated for one in kept] == [False, False, True, False, True, False]
    assert [[judged.verdict for judged in one.judged] for one in kept] == [["true"]] * 3 + [["stale"]] + [["true"]] * 2


def test_the_equal_cost_comparison_lies_between_the_two_limits_around_it() -> None:
    served, _ = resolve(ONLINE, FACTS)
    curve = swept([12, 600])
    fingerprint = by_age(served, DAWN, timedelta(minutes=5), FACTS)
    sample = Bootstrap(1, 20, 1)
    compared = equal_cost(curve, Table(["f1"], fingerprint, SPENT), sample)
    assert curve[2][0].stale >= compared.age_false >= curve[0][0].stale
    assert compared.fewer.value == pytest.approx(compared.age_false - compared.fingerprint_false)


def test_an_interval_holds_its_value_and_shrinks_with_more_flights() -> None:
    def width(flights: int) -> float:
        names = [f"f{number}" for number in range(flights)]
        rows = resolve(
            [answer("online", 0, 20 if number % 2 else 60, flight=name) for number, name in enumerate(names)],
            truth_of((-10, 20)),
        )[0]
        sample = Bootstrap(flights, 400, 1)
        interval = sample.interval(1000 * Table(names, rows, ()).rate(["written"], sample.weights))
        assert interval.low <= interval.value <= interval.high
        assert interval.value == 500
        return interval.high - interval.low

    assert width(400) < width(24) / 2


def test_the_journal_keeps_the_first_of_two_and_drops_a_torn_line(tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.add([answer("online", 0, 20), answer("online", 5, 20)])
    journal.add([answer("online", 0, 99)])
    journal.add_lag(Lag(NOON, 3, 0.1))
    with (tmp_path / "answers.jsonl").open("ab") as out:
        out.write(b'{"way": "onl')
    kept = Journal(tmp_path).answers()
    assert [(one.question, one.notice) for one in kept] == [
        ("f1@0", "Departures at JFK run 20 minutes late."),
        ("f1@5", "Departures at JFK run 20 minutes late."),
    ]
    assert Journal(tmp_path).lags() == (Lag(NOON, 3, 0.1),)


@pytest.mark.parametrize("text", ["", "not JSON", "[1]", '{"outlook": "delayed"}', '{"notice": 3}'])
def test_an_answer_without_a_notice_states_nothing(text: str) -> None:
    assert Answered(
        way="online", path="online", question="q", flight="f", day=date(2013, 4, 10), origin="JFK", carrier="B6",
        dest="MCO", asked=NOON, text=text,
    ).notice == ""  # fmt: skip
