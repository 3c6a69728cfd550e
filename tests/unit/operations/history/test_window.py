"""Windows of the history: columns by label and statistic, one amount, and the period for a span."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.measurements import KEPT, Amount, Measurements
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.histograms import bucket_of
from antiphon.operations.history.measures import MEASURES
from antiphon.operations.history.window import MOST_PERIODS, STATISTICS, HistoryWindow, period_of

MINUTE = timedelta(minutes=1)


def answers(application: str, path: str, count: float) -> Measurements:
    return Measurements({("antiphon_answers", (application, path, "generated", "live")): Amount(count)})


def window(*periods: Measurements | None) -> HistoryWindow:
    there = {NOON + number * MINUTE: one for number, one in enumerate(periods) if one is not None}
    return HistoryWindow(MINUTE, NOON, NOON + len(periods) * MINUTE, there)


def test_a_line_for_each_value_of_a_label() -> None:
    first = answers("desk", "online", 60)
    first.add(answers("triage", "online", 30))
    first.add(answers("desk", "batch", 6))
    found = window(first, None, Measurements()).columns("antiphon_answers", "rate", ("application",))
    assert found.at == (NOON, NOON + MINUTE, NOON + 2 * MINUTE)
    lines = {line.labels["application"]: line.values for line in found.lines}
    # Nobody measured in the second minute; in the third, nothing was counted.
    assert lines == {"desk": (1.1, None, 0.0), "triage": (0.5, None, 0.0)}
    (online,) = window(first).columns("antiphon_answers_total", where={"path": "online"}).lines
    assert online.values == (90.0,)
    assert window(first).amount("antiphon_answers", {"application": ["desk", "triage"]}).total == 96


def test_selections_of_one_measure_in_one_window_are_summed_apart() -> None:
    first = answers("desk", "online", 60)
    first.add(answers("desk", "batch", 6))
    whole = window(first)
    for _ in range(2):
        assert whole.amount("antiphon_answers").total == 66
        assert whole.amount("antiphon_answers", {"path": "online"}).total == 60
        assert whole.amount("antiphon_answers", {"path": ["batch", "online"]}).total == 66
        assert whole.amount("antiphon_answers", {"application": "desk", "path": "batch"}).total == 6
        (total,) = whole.columns("antiphon_answers", "total").lines
        (rate,) = whole.columns("antiphon_answers", "rate").lines
        assert (total.values, rate.values) == ((66.0,), (1.1,))
        assert len(whole.columns("antiphon_answers", by=("path",)).lines) == 2


def test_levels_that_add_up_are_averaged_over_time_and_others_over_looks() -> None:
    measured = Measurements(
        {
            ("antiphon_engine_requests", ("one", "running_online")): Amount(120.0, 30.0, 4.0),
            ("antiphon_engine_requests", ("two", "running_online")): Amount(60.0, 60.0, 1.0),
            ("antiphon_feature_age_seconds", ("weather",)): Amount(3_000.0, 30.0, 110.0),
        }
    )
    whole = window(measured)
    (both,) = whole.columns("antiphon_engine_requests", "mean").lines
    assert both.values == (3.0,)
    (age,) = whole.columns("antiphon_feature_age_seconds", "mean").lines
    assert age.values == (100.0,)
    (greatest,) = whole.columns("antiphon_feature_age_seconds", "greatest").lines
    assert greatest.values == (110.0,)


def test_durations_have_percentiles() -> None:
    buckets = {bucket_of(0.1): 98, bucket_of(2.0): 2}
    measured = Measurements(
        {("antiphon_answer_seconds", ("desk", "online", "generated")): Amount(13.8, 100.0, 0.0, buckets)}
    )
    values = {
        statistic: window(measured).columns("antiphon_answer_seconds", statistic).lines[0].values[0]
        for statistic in STATISTICS["durations"]
    }
    assert values["p50"] == pytest.approx(0.1, rel=0.12)
    assert values["p99"] == pytest.approx(2.0, rel=0.12)
    assert (values["mean"], values["count"], values["rate"]) == (0.138, 100.0, pytest.approx(100 / 60))


def test_a_period_that_is_not_over_has_the_rate_of_its_part() -> None:
    there = {NOON: answers("desk", "online", 60)}
    part = HistoryWindow(MINUTE, NOON, NOON + timedelta(seconds=20), there)
    assert part.columns("antiphon_answers", "rate").lines[0].values == (3.0,)


def test_what_a_measure_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(NotFoundError, match="antiphon_answer"):
        window().columns("antiphon_answer")
    with pytest.raises(InvalidInputError, match="no 'p50'"):
        window().columns("antiphon_answers", "p50")
    with pytest.raises(InvalidInputError, match="no label 'colour'") as refused:
        window().columns("antiphon_answers", by=("colour",))
    assert "application" in (refused.value.next_step or "")


@pytest.mark.parametrize(
    ("span", "age", "period"),
    [
        (timedelta(minutes=15), timedelta(minutes=15), timedelta(seconds=10)),
        (timedelta(hours=1), timedelta(hours=1), timedelta(minutes=1)),
        (timedelta(hours=1), timedelta(days=2), timedelta(minutes=1)),
        (timedelta(hours=6), timedelta(hours=6), timedelta(minutes=1)),
        (timedelta(days=1), timedelta(days=1), timedelta(minutes=10)),
        (timedelta(days=30), timedelta(days=30), timedelta(hours=6)),
        (timedelta(days=365), timedelta(days=365), timedelta(days=1)),
        (timedelta(days=3_650), timedelta(days=9_000), timedelta(days=1)),
    ],
)
def test_the_period_suits_the_span_and_is_still_kept(span: timedelta, age: timedelta, period: timedelta) -> None:
    assert period_of(span, age) == period
    assert span <= period * MOST_PERIODS or period == max(KEPT)


def test_measures_are_named_as_metrics_and_say_what_they_are() -> None:
    for name, measure in MEASURES.items():
        assert measure.text.endswith("."), name
        assert "tenant" not in measure.labels
        assert STATISTICS[measure.kind]


def test_rows_from_before_a_label_was_added_are_read_and_measures_that_are_gone_left_out() -> None:
    older = Measurements(
        {
            ("antiphon_requests", ("desk", "online", "200")): Amount(3.0),
            ("antiphon_requests", ("desk", "online", "502", "platform")): Amount(1.0),
            ("antiphon_gone", ("x",)): Amount(9.0),
        }
    )
    lines = window(older).columns("antiphon_requests", by=("fault",)).lines
    assert {line.labels["fault"]: line.values for line in lines} == {"": (3.0,), "platform": (1.0,)}
    assert window(older).amount("antiphon_requests", {"fault": "platform"}).total == 1
