"""The checker of statements: what it finds false, what it lets stand, and that it shares nothing with the guard."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.harness.small_desk import DESK

from antiphon.definitions.application import Figure
from antiphon.learning.evaluation import statements
from antiphon.learning.evaluation.statements import false_statements, is_read, texts_of

FIGURES = (
    Figure("congestion.delay", step=5, unit=("minutes", "minute", "min"), roles=("late", "delay", "behind")),
    Figure("weather.wind", step=5, unit=("mph", "miles per hour"), roles=("wind", "gust")),
    Figure("carrier.late", step=5, scale=100, unit=("%", "percent"), roles=("is late", "airline")),
    Figure("route.late", step=5, scale=100, unit=("%", "percent"), roles=("route",)),
    Figure("weather.sky", unit=(), roles=()),
)
PRINTS = {
    "congestion.delay": "25",
    "weather.wind": "10",
    "carrier.late": "20",
    "route.late": "15",
    "weather.sky": "clear",
}
KNOWN = ("B6 1545", "JFK")

TRUE = (
    "American is late 20% of the time. The route to LAX: 15%.",
    "The wind is 10 mph. Departures at JFK run 25 minutes late.",
    "Departures run twenty-five minutes late, wind at ten mph.",
    "Expect a 25-minute delay.",
    "Flight B6 1545 runs 25min late.",
    "Over the last 2 hours departures ran 25 minutes late.",
    "One of the flights is late.",
    "With wind at 10 miles per hour, departures at JFK run 25 minutes behind.",
    "This airline is late 20 percent of the time and the route 15 percent.",
    "All is well.",
    "",
)
FALSE = (
    ("Departures run 40 minutes late.", "40 minutes"),
    ("American is late 15% of the time, the route to LAX 20%.", "15%"),  # swapped roles
    ("About half an hour late.", "half an hour"),
    ("Between 20 to 25 minutes late.", "20 to 25 minutes"),
    ("Ten to twenty-five minutes late.", "Ten to twenty-five minutes"),
    ("Delays of a hundred and twenty-five minutes.", "a hundred and twenty-five minutes"),
    ("Delays of 1,025 minutes.", "1,025 minutes"),
    ("-25 minutes late.", "25 minutes"),
    ("Wind 25 mph.", "25 mph"),
    ("Boarding closes at 14.", "14"),
    ("A fee of 30 dollars is due.", "30 dollars"),
    ("Expect 3 hours.", "3 hours"),
    ("Flight 99 is late.", "99"),
    ("The delay is 25.5 minutes.", "25.5 minutes"),
)


@pytest.mark.parametrize("text", TRUE)
def test_what_the_request_says_is_true(text: str) -> None:
    assert false_statements(text, FIGURES, PRINTS, KNOWN) == ()


@pytest.mark.parametrize(("text", "words"), FALSE)
def test_what_the_request_does_not_say_is_false(text: str, words: str) -> None:
    found = false_statements(text, FIGURES, PRINTS, KNOWN)
    assert found
    assert words in found[0]


def test_a_figure_without_a_value_has_no_true_number() -> None:
    assert false_statements("Wind 10 mph.", FIGURES, {**PRINTS, "weather.wind": None}, KNOWN)


def test_an_hour_may_be_said_of_sixty_minutes() -> None:
    prints = {**PRINTS, "congestion.delay": "60"}
    assert false_statements("Departures run an hour late.", FIGURES, prints) == ()
    assert false_statements("Departures run 1 hour late.", FIGURES, prints) == ()
    assert false_statements("Departures run 2 hours late.", FIGURES, prints) != ()


WAITS = (
    Figure("line.wait", step=0.5, unit=("Minuten", "minutes", "मिनट", "دقيقة"), roles=("Wartezeit",)),
    Figure("line.calls", step=0.5, unit=("Minuten",), roles=("Gespräch",)),
)


@pytest.mark.parametrize(
    ("locale", "text", "wait"),
    [
        ("de", "Die Wartezeit beträgt 25,5 Minuten.", "25.5"),
        ("de", "Die Wartezeit beträgt 1.025,5 Minuten.", "1025.5"),
        ("de", "Gespräche dauern 3 Minuten und 25,5 Minuten ist die Wartezeit.", "25.5"),
        ("de", "Wartezeit: 2 Stunden.", "120"),
        ("de-CH", "Wartezeit 1’025.5 Minuten.", "1025.5"),
        ("fr", "Attente de 1\u202f025,5 minutes.", "1025.5"),
        ("fr", "Attente de 1 025,5 minutes.", "1025.5"),
        ("hi", "२५.५ मिनट", "25.5"),
        ("ar_EG", "٢٥٫٥ دقيقة", "25.5"),
        ("ar", "\u200e-25.5 دقيقة", "-25.5"),
    ],
)
def test_numbers_are_read_as_their_locale_writes_them(locale: str, text: str, wait: str) -> None:
    prints = {"line.wait": wait, "line.calls": "3"}
    assert false_statements(text, WAITS, prints, (), locale) == ()
    assert false_statements(text, WAITS, {**prints, "line.wait": "7"}, (), locale)


def test_a_number_that_its_locale_does_not_write_like_that_is_false() -> None:
    assert false_statements("Die Wartezeit beträgt 25.5 Minuten.", WAITS, {"line.wait": "25.5"}, (), "de")


def test_no_number_in_words_is_read_in_another_language() -> None:
    assert false_statements("Six ten Minuten.", WAITS, {"line.wait": "25.5"}, (), "de") == ()


def test_a_language_without_spaces_is_not_read() -> None:
    assert [one for one in ("ja", "zh_Hant", "th", "??", "") if is_read(one)] == []
    assert false_statements("25.5 分 99", WAITS, {"line.wait": "7"}, (), "ja") == ()


def test_labels_are_no_texts() -> None:
    assert texts_of('{"outlook": "on_time", "notice": "Wind 10 mph."}', DESK) == ("Wind 10 mph.",)
    assert texts_of("not json", DESK) == ("not json",)


def test_it_shares_no_code_with_what_it_measures() -> None:
    """Neither this checker nor those of the safety suites import from serving, where the guards are."""
    room = Path(statements.__file__).parent
    safety = ("checkers", "personal_data", "toxicity", "quotation", "placement", "probes", "attempts")
    for name in ("statements.py", "scores.py", *(f"safety/{one}.py" for one in safety)):
        imported = [
            node.module or ""
            for node in ast.walk(ast.parse((room / name).read_text()))
            if isinstance(node, ast.ImportFrom)
        ]
        assert not any(module.startswith("antiphon.serving") for module in imported), name
