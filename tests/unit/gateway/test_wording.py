from __future__ import annotations

import pytest

from antiphon.gateway.dashboard import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (0.000_042, "42 µs"),
        (0.012, "12 ms"),
        (0.9996, "1000 ms"),
        (2.34, "2.3 s"),
        (59.6, "60 s"),
        (610, "10 min"),
        (10_800, "3 h"),
        (400_000, "5 d"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, text) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "0 USD"), (0.0000168, "16.8 µUSD"), (0.0123, "0.0123 USD"), (12.5, "12.5 USD")]
)
def test_costs_show_the_digits_that_count(amount, text) -> None:
    assert wording.money(amount, "USD") == text


def test_texts_numbers_and_absence() -> None:
    assert wording.pretty('{"a":1}') == '{\n  "a": 1\n}'
    assert wording.pretty("plain") == "plain"
    assert wording.pretty(None) == "(erased)"
    assert wording.number(0.1 + 0.2) == "0.3"
    assert wording.number("AA") == "AA"
    assert wording.number(None) == "none"
    assert wording.count(1234567) == "1\u202f234\u202f567"
    assert wording.count(None) == wording.size(None) == wording.moment(None) == "–"
    assert wording.share(0.1234) == "12.3 %"
