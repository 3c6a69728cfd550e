"""Whatever the figures are: a text made from them is true, and one with another number in it is false."""

from __future__ import annotations

from decimal import Decimal

from babel.localedata import locale_identifiers
from babel.numbers import format_decimal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.definitions.application import Figure
from antiphon.learning.evaluation.statements import false_statements, is_read

FIGURES = (
    Figure("congestion.delay", step=5, unit=("minutes", "min"), roles=("late", "delay")),
    Figure("weather.wind", step=5, unit=("mph",), roles=("wind",)),
    Figure("carrier.late", step=5, unit=("%",), roles=("airline",)),
    Figure("route.late", step=5, unit=("%",), roles=("route",)),
)
ORDER = tuple(figure.feature for figure in FIGURES)
SENTENCES = (
    "Departures run {0} minutes late. The wind is {1} mph. The airline: {2}% late. The route: {3}%.",
    "With wind at {1} mph, delays of {0} min; this airline is behind in {2}%, the route in {3}%.",
    "On this route {3}% leave late, of this airline {2}%. Wind {1} mph and {0}-minutes delays.",
)
numbers = st.integers(0, 1_999)


def shown(text: str, values: tuple[int, ...], commas: bool) -> str:
    return text.format(*(f"{value:,}" if commas else str(value) for value in values))


@settings(max_examples=200)
@given(st.sampled_from(SENTENCES), st.tuples(numbers, numbers, numbers, numbers), st.booleans())
def test_a_text_of_the_request_s_figures_is_true(text: str, values: tuple[int, ...], commas: bool) -> None:
    prints = {feature: str(value) for feature, value in zip(ORDER, values, strict=True)}
    assert false_statements(shown(text, values, commas), FIGURES, prints) == ()


@settings(max_examples=200)
@given(st.sampled_from(SENTENCES), st.tuples(numbers, numbers, numbers, numbers), st.integers(0, 3), numbers)
def test_one_other_number_is_found(text: str, values: tuple[int, ...], place: int, other: int) -> None:
    prints: dict[str, str | None] = {feature: str(value) for feature, value in zip(ORDER, values, strict=True)}
    stated = tuple(other if at == place else value for at, value in enumerate(values))
    found = false_statements(shown(text, stated, False), FIGURES, prints)
    assert bool(found) == (other != values[place])
    prints[ORDER[place]] = None
    assert false_statements(shown(text, stated, False), FIGURES, prints)


@settings(max_examples=300)
@given(st.text(max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    false_statements(text, FIGURES, dict.fromkeys(ORDER, "5"), ("B6 1",))


LOCALES = sorted(one for one in locale_identifiers() if is_read(one))
ONE = (Figure("visit.wait", step=0.5, unit=("xun",), roles=()),)


@settings(max_examples=300)
@given(
    st.one_of(
        st.sampled_from(("de", "fr", "de_CH", "hi", "ar", "ar_EG", "fa", "pl", "en_IN")), st.sampled_from(LOCALES)
    ),
    st.integers(-9_999_999, 9_999_999).map(lambda number: Decimal(number) / 10),
    st.sampled_from(("latn", "default")),
    st.booleans(),
)
@example("tok", Decimal(1_234_567), "latn", True)  # Groups of two, apart by spaces.
def test_a_figure_as_its_locale_writes_it_is_true(locale: str, value: Decimal, digits: str, grouped: bool) -> None:
    def text(stated: Decimal) -> str:
        number = format_decimal(stated, locale=locale, numbering_system=digits, group_separator=grouped)
        return f"Lorem {number} xun."

    prints = {"visit.wait": str(value)}
    assert false_statements(text(value), ONE, prints, (), locale) == ()
    assert false_statements(text(value + 1), ONE, prints, (), locale)


@settings(max_examples=200)
@given(st.text(max_size=80), st.sampled_from(sorted(locale_identifiers())))
def test_no_text_of_any_locale_breaks_it(text: str, locale: str) -> None:
    false_statements(text, FIGURES, dict.fromkeys(ORDER, "5"), ("B6 1",), locale)
