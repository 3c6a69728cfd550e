"""What is read out of a notice: every figure in its role, every claim in words, nothing else."""

from __future__ import annotations

import pytest
from examples.flight_desk.statements import extract


def said(notice: str) -> list[tuple[str, float | None, str | None]]:
    return [(one.kind, one.figure, one.subject) for one in extract(notice)]


def test_the_usual_notice_gives_four_figures_with_their_subjects() -> None:
    notice = (
        "JetBlue is late 20% of the time, the route to MCO 35%. With wind at 15 mph, departures at JFK run 25 minutes"
        " late."
    )
    assert said(notice) == [
        ("carrier", 20, "B6"),
        ("route", 35, "MCO"),
        ("wind", 15, "JFK"),
        ("delay", 25, "JFK"),
    ]


@pytest.mark.parametrize(
    ("notice", "expected"),
    [
        ("Departures average a 25-minute delay.", [("delay", 25, None)]),
        ("Flights at LGA are about twenty-five minutes late.", [("delay", 25, "LGA")]),
        ("Flights leave 5 minutes early.", [("delay", -5, None)]),
        ("Departures are delayed by 1 hour.", [("delay", 60, None)]),
        ("In the last 2 hours departures ran 10 min late.", [("delay", 10, None)]),
        ("Expect winds of 20 mph.", [("wind", 20, None)]),
        ("Wind 20 miles per hour.", [("wind", 20, None)]),
        ("This carrier runs late on 15 percent of flights.", [("carrier", 15, None)]),
        ("On this route 30% are late.", [("route", 30, None)]),
        ("The airline is late 30%, and the route to BOS 5%.", [("carrier", 30, None), ("route", 5, "BOS")]),
        ("15% of its flights leave late.", [("share", 15, None)]),
        ("15% of flights on this route leave late.", [("route", 15, None)]),
        ("US Airways runs 10% late.", [("carrier", 10, "US")]),
        ("JFK-LAX is late 25% of the time.", [("route", 25, "LAX")]),
        ("Your ticket costs 90 dollars.", [("unsupported", 90, None)]),
        ("Flight B6 leaves from JFK.", []),
        ("Departures at EWR are on time.", [("on_time", None, "EWR")]),
        ("There are no delays at LGA.", [("on_time", None, "LGA")]),
        ("There are no major delays.", [("on_time", None, None)]),
        ("Departures at JFK are delayed.", [("delayed", None, "JFK")]),
        ("Expect that your flight may be delayed.", []),
        ("Your flight is on time.", []),
        ("Departures are not delayed.", [("on_time", None, None)]),
        ("Delays are growing; wind is 5 mph.", [("wind", 5, None), ("delayed", None, None)]),
        ("Delta is late 20% of the time.", [("carrier", 20, "DL")]),
        ("", []),
    ],
)
def test_figures_and_claims(notice: str, expected: list[tuple[str, float | None, str | None]]) -> None:
    assert said(notice) == expected


def test_a_named_airline_is_the_subject_even_when_it_is_not_the_passengers() -> None:
    assert said("United is late 15% of the time, the route to MIA 50%.") == [
        ("carrier", 15, "UA"),
        ("route", 50, "MIA"),
    ]


def test_what_follows_a_figure_says_whose_it_is_when_nothing_stands_before() -> None:
    assert said("20% for the airline, 40% for the route.") == [("carrier", 20, None), ("route", 40, None)]
