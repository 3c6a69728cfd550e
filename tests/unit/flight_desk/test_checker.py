"""The judge of served notices: right on hand-made cases, and no perturbed figure escapes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy
import pytest
from examples.flight_desk.checker import Request, judge
from examples.flight_desk.truth import Series, Truth
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2013, 4, 10, 12, 0, tzinfo=UTC)
REQUEST = Request("JFK", "B6", "MCO")
GOOD = (
    "JetBlue is late 20% of the time, the route to MCO 35%. With wind at 15 mph, departures at JFK run 25 minutes late."
)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def series(*events: tuple[float, float, float]) -> Series:
    """(happened, known, measure), times in minutes from noon."""
    happened, known, measure = zip(*sorted(events), strict=True)
    return Series(
        numpy.array([round(at(minute).timestamp() * 1e6) for minute in happened]),
        numpy.array([round(at(minute).timestamp() * 1e6) for minute in known]),
        numpy.array(measure, dtype=float),
    )


def shares(late: int, of: int) -> Series:
    return series(*[(-1440 - number, -1440 - number, 100.0 if number < late else 0.0) for number in range(of)])


def truth() -> Truth:
    """At noon: mean delay 24 min, wind 14 mph, airline 20 %, route 34 %. Later both of the first two change."""
    return Truth(
        delays={
            "JFK": series((-60, -40, 20), (-30, -2, 28), (10, 70, 60)),
            "LGA": series((-30, -30, 0)),
        },
        carriers={"B6": shares(20, 100), "UA": shares(50, 100)},
        routes={("JFK", "MCO"): shares(34, 100), ("JFK", "BOS"): shares(5, 100)},
        winds={"JFK": series((-60, -40, 14), (60, 80, 25)), "LGA": series((-60, -40, 4))},
    )


def verdicts(notice: str, written: datetime = NOON, read: datetime = NOON) -> list[tuple[str, str]]:
    return [(one.statement.kind, one.verdict) for one in judge(notice, REQUEST, written, read, truth())]


def test_a_true_notice_is_true_in_every_statement() -> None:
    assert verdicts(GOOD) == [("carrier", "true"), ("route", "true"), ("wind", "true"), ("delay", "true")]


@pytest.mark.parametrize(
    ("notice", "verdict"),
    [
        ("Departures at JFK run 20 minutes late.", "written"),
        ("Departures at JFK run 30 minutes late.", "written"),
        ("Departures at LGA run 25 minutes late.", "written"),
        ("Departures at LGA run 0 minutes late.", "true"),
        ("Wind is 10 mph.", "written"),
        ("Wind at LGA is 5 mph.", "true"),
        ("United is late 20% of the time.", "written"),
        ("United is late 50% of the time.", "true"),
        ("The route to BOS is late 35%.", "written"),
        ("The route to BOS is late 5%.", "true"),
        ("35% leave late.", "true"),
        ("50% leave late.", "written"),
        ("Departures at JFK are on time.", "written"),
        ("There are no delays at LGA.", "true"),
        ("Departures at JFK are delayed.", "true"),
        ("Departures at LGA are delayed.", "written"),
        ("Seats cost 80 dollars.", "written"),
        ("Departures at EWR run 5 minutes late.", "written"),
    ],
)
def test_statements_are_judged_by_their_own_subject(notice: str, verdict: str) -> None:
    assert [found for _, found in verdicts(notice)] == [verdict]


def test_half_a_step_is_still_what_is_printed() -> None:
    edge = Truth(delays={"JFK": series((-10, -5, 22.5))}, carriers={}, routes={}, winds={})
    for figure, verdict in ((25, "true"), (20, "true"), (30, "written")):
        judged = judge(f"Departures run {figure} minutes late.", REQUEST, NOON, NOON, edge)
        assert [one.verdict for one in judged] == [verdict]


def test_a_figure_that_was_true_has_gone_stale() -> None:
    # At 12:30 the flight scheduled at 12:10 has not left; at 13:10 it has, and one of 11:00 is out of the window.
    assert verdicts("Departures at JFK run 25 minutes late.", NOON, at(30)) == [("delay", "true")]
    assert verdicts("Departures at JFK run 25 minutes late.", NOON, at(75)) == [("delay", "stale")]


def test_an_observation_that_is_made_and_not_yet_known_is_a_lag_not_a_fault() -> None:
    # The wind of 13:00 is known at 13:20.
    assert verdicts("Wind is 15 mph.", at(65), at(65)) == [("wind", "lag")]
    assert verdicts("Wind is 15 mph.", NOON, at(65)) == [("wind", "lag")]
    assert verdicts("Wind is 15 mph.", NOON, at(85)) == [("wind", "stale")]
    assert verdicts("Wind is 25 mph.", at(85), at(85)) == [("wind", "true")]


def test_what_was_false_when_written_stays_so_however_late_it_is_read() -> None:
    assert verdicts("Departures at JFK run 50 minutes late.", NOON, at(30)) == [("delay", "written")]


def test_a_figure_about_something_never_measured_is_false() -> None:
    nothing = Truth(delays={}, carriers={}, routes={}, winds={})
    assert [one.verdict for one in judge(GOOD, REQUEST, NOON, NOON, nothing)] == ["written"] * 4


@given(
    place=st.sampled_from(["20%", "35%", "15 mph", "25 minutes"]),
    by=st.integers(min_value=-12, max_value=12).filter(bool),
)
def test_no_mutant_escapes(place: str, by: int) -> None:
    """Each figure, moved by whole steps, is caught, and only it."""
    figure = int(place.split("%")[0].split(" ")[0])
    mutated = figure + 5 * by
    if mutated < 0:
        return
    notice = GOOD.replace(place, place.replace(str(figure), str(mutated)))
    false = [one for one in judge(notice, REQUEST, NOON, NOON, truth()) if one.verdict != "true"]
    assert [(one.statement.figure, one.verdict) for one in false] == [(mutated, "written")]
