from decimal import Decimal

import pytest

from antiphon.serving.answering.guards.numbers import localized, numerals, read


@pytest.mark.parametrize(
    ("locale", "text", "value"),
    [
        ("en", "1,025.5", "1025.5"),
        ("en", "1,00,000", "100000"),
        ("en", "2,5", None),
        ("en", "1.2.3", None),
        ("en", ".5", "0.5"),
        ("de", "1.025,5", "1025.5"),
        ("de", "1,025.5", None),
        ("fr", "1 025,5", "1025.5"),
        ("ar", "٢٥", "25"),
    ],
)
def test_reads_what_the_locale_writes(locale: str, text: str, value: str | None) -> None:
    assert read(text, locale) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("locale", "text", "values"),
    [
        ("en", "a hundred and twenty-five of two dozen or one thousand", [125, 24, 1000]),
        ("en", "twenty-five hundred", [2500]),
        ("en", "delay and wind", [None]),
        ("de", "einundzwanzig und zweitausenddreihundert", [21, 2300]),
        ("fr", "quatre-vingt-dix-sept", [97]),
        ("es", "setenta y uno", [71]),
        ("pl", "dwadzieścia pięć", [25]),
    ],
)
def test_reads_words(locale: str, text: str, values: list[int | None]) -> None:
    found = [one.value for one in numerals(text, locale) if one.words]
    assert [value for value in found if value is not None] == [value for value in values if value is not None]


@pytest.mark.parametrize(("print_", "written"), [("25.5", "25,5"), ("-0.5", "-0,5"), ("25", "25"), ("v1.2b", "v1.2b")])
def test_figures_are_printed_with_the_sign_of_the_locale(print_: str, written: str) -> None:
    assert localized(print_, "de") == written
    assert localized(print_, "en") == print_
