from decimal import Decimal

import pytest
from babel import Locale
from babel.localedata import locale_identifiers
from babel.numbers import format_decimal, get_decimal_symbol, get_group_symbol

from antiphon.serving.answering.guards.numbers import localized, numerals, plain, read


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


def test_every_locale_groups_and_parts_digits_in_its_way() -> None:
    ways = {}
    for name in sorted(locale_identifiers()):
        locale = Locale.parse(name)
        grouping = locale.decimal_formats[None].grouping
        ways[get_decimal_symbol(locale), get_group_symbol(locale), grouping] = name
    assert len(ways) > 10
    for locale in ways.values():
        for value in map(Decimal, ("100", "12345", "1234567.5")):
            text = f"Lorem {format_decimal(value, locale=locale, numbering_system='latn')} xun"
            assert [one.value for one in numerals(plain(text), locale) if not one.words] == [value], (text, locale)


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
