import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.definitions.application import Figure
from antiphon.serving.features.printing import fingerprint, print_all, printed

DELAY = Figure(feature="congestion.delay_2h", step=5)


def test_rounds_half_away_from_zero_to_the_step() -> None:
    assert printed(12.5, DELAY) == "15"
    assert printed(12.49, DELAY) == "10"
    assert printed(-12.5, DELAY) == "-15"
    assert printed(-2.4, DELAY) == "0"


def test_scale_comes_before_the_step() -> None:
    assert printed(0.226, Figure(feature="a.b", step=5, scale=100)) == "25"


def test_fractional_steps_print_as_decimals() -> None:
    assert printed(1.26, Figure(feature="a.b", step=0.5)) == "1.5"
    assert printed(1.2, Figure(feature="a.b", step=0.5)) == "1"


def test_no_value_prints_as_none_and_text_as_it_is() -> None:
    assert printed(None, DELAY) is None
    assert printed("JFK", DELAY) == "JFK"
    assert printed(7, Figure(feature="a.b")) == "7"


@given(st.floats(-1e6, 1e6), st.sampled_from([0.5, 1, 2, 5, 10]))
def test_a_printed_figure_is_within_half_a_step(value: float, step: float) -> None:
    text = printed(value, Figure(feature="a.b", step=step))
    assert text is not None
    assert abs(float(text) - value) <= step / 2 + 1e-9


def test_the_fingerprint_changes_exactly_with_what_is_printed() -> None:
    figures = (DELAY, Figure(feature="weather.wind", step=5))
    base = {"congestion.delay_2h": 26.0, "weather.wind": 11.0}
    same = {"congestion.delay_2h": 24.0, "weather.wind": 12.0}
    other = {"congestion.delay_2h": 28.0, "weather.wind": 11.0}
    assert fingerprint(print_all(base, figures)) == fingerprint(print_all(same, figures))
    assert fingerprint(print_all(base, figures)) != fingerprint(print_all(other, figures))
    assert fingerprint(print_all(base, figures)) != fingerprint(print_all({**base, "weather.wind": None}, figures))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_has_no_print(value: float) -> None:
    assert printed(value, DELAY) is None


def test_a_huge_value_is_rounded_exactly() -> None:
    assert printed(1e300, DELAY) == "1" + "0" * 300
    assert printed(10**40 + 3, DELAY) == str(10**40 + 5)
