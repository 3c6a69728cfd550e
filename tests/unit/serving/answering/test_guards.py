import pytest

from antiphon.definitions.application import Figure
from antiphon.serving.answering.guards import violations

FIGURES = (
    Figure(feature="congestion.delay_2h", step=5, unit=("minutes", "minute", "min"), roles=("delay", "late")),
    Figure(feature="weather.wind", step=5, unit=("mph",), roles=("wind", "gust")),
    Figure(feature="carrier.late_share", step=5, unit=("%", "percent"), roles=("carrier", "airline")),
    Figure(feature="route.late_share", step=5, unit=("%", "percent"), roles=("route",)),
)
PRINTS = {
    "congestion.delay_2h": "25",
    "weather.wind": "10",
    "carrier.late_share": "20",
    "route.late_share": "30",
}
ENTITY = ("B6 123", "JFK", "2013-04-02")


def judged(text: str, prints: dict[str, str | None] | None = None) -> list[str]:
    return violations(text, FIGURES, PRINTS if prints is None else prints, ENTITY)


@pytest.mark.parametrize(
    "text",
    [
        "Delays at JFK average 25 minutes and the wind blows at 10 mph.",
        "Flight B6 123 may be late: delays run at 25 min.",
        "The carrier runs late 20% of the time; this route 30%.",
        "On this route 30 percent are late, while the airline has 20 percent.",
        "Expect a quiet departure.",
        "No figures, one of the calm days.",
        "Delays average twenty-five minutes.",
        "Over the past two hours delays average 25 minutes.",
    ],
)
def test_passes_what_the_features_say(text: str) -> None:
    assert judged(text) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Delays average 27 minutes.", "prints 25"),
        ("Delays average 10 minutes.", "prints 25"),
        ("The wind is 25 mph.", "prints 10"),
        ("The carrier runs late 30% of the time.", "carrier.late_share prints 20"),
        ("Your flight leaves from gate 12.", "no unit"),
        ("Boarding takes 25 minutes.", "no declared role"),
        ("Delays of twenty minutes are common.", "prints 25"),
        ("Delays average -25 minutes.", "prints 25"),
        ("Delays average 25.5 minutes.", "prints 25"),
        ("Delays average 1,025 minutes.", "prints 25"),
        ("Flight B6 124 has delays of 25 minutes.", "no unit"),
        ("Delays average twenty-four minutes.", "prints 25"),
        ("Delays average a hundred and twenty-five minutes.", "prints 25"),
        ("Delays average 25–30 minutes.", "no unit"),
        ("Delays of two hours are common.", "no unit"),
        ("Expect a delay of half an hour.", "no unit"),
        ("Delays of 1 hour are common.", "no unit"),
        ("Delays average ２５0 minutes.", "prints 25"),
    ],
)
def test_refuses_what_they_do_not(text: str, reason: str) -> None:
    found = judged(text)
    assert found
    assert reason in "; ".join(found)


def test_a_figure_without_value_may_not_be_stated() -> None:
    found = judged("The wind blows at 10 mph.", {**PRINTS, "weather.wind": None})
    assert found == ["weather.wind has no value, the text says 10"]


def test_an_entity_key_does_not_excuse_a_figure() -> None:
    entity = ("40", "JFK")
    assert violations("Flight 40 may be late: delays run at 25 minutes.", FIGURES, PRINTS, entity) == []
    found = violations("Flight 40 may be late: delays run at 40 minutes.", FIGURES, PRINTS, entity)
    assert found == ["congestion.delay_2h prints 25, the text says 40"]


def test_a_longer_key_is_masked_before_the_shorter_one_inside_it() -> None:
    assert violations("Flight 12-345 leaves.", FIGURES, PRINTS, ("12", "12-345")) == []
