"""Measurements of an environment: each counts once in every period, whoever rolls up and whenever it came."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from tests.harness.silence import rings_of
from tests.unit.catalog.examples import NOON

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.measurements import (
    FINEST,
    KEPT,
    MOST_SERIES,
    PLATFORM,
    Amount,
    MeasurementRows,
    Measurements,
    Series,
)
from antiphon.core.clock import ManualClock

ANSWERS: Series = ("antiphon_answers", ("desk", "online"))
SECONDS: Series = ("antiphon_answer_seconds", ("desk",))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def rows(database: Database) -> MeasurementRows:
    return MeasurementRows(database, "dev")


def counted(count: float, tenant: str = "shop") -> dict[str, Measurements]:
    return {tenant: Measurements({ANSWERS: Amount(count)})}


def total(rows: MeasurementRows, period: timedelta, since: datetime = NOON, tenant: str = "shop") -> float:
    found = rows.read(tenant, period, since, since + DAY)
    return sum(one[ANSWERS].total for one in found.values() if ANSWERS in one)


def test_what_two_processes_measured_is_one_truth_in_every_period(rows: MeasurementRows, clock: ManualClock) -> None:
    for _ in range(12):
        for process in ("gateway@one", "gateway@two"):
            rows.append(process, clock.now(), counted(2))
        clock.advance(FINEST)
    assert {total(rows, period) for period in KEPT} == {48}
    assert rows.roll_up() == 22  # Of the last period and the one before, more may come.
    assert rows.roll_up() == 0
    assert {total(rows, period) for period in KEPT} == {48}
    clock.advance(HOUR)
    assert rows.roll_up() == 2
    assert {total(rows, period) for period in KEPT} == {48}
    minutes = rows.read("shop", MINUTE, NOON, NOON + HOUR)
    assert {start: one[ANSWERS].total for start, one in minutes.items()} == {NOON: 24, NOON + MINUTE: 24}


def test_tenants_and_environments_are_kept_apart(rows: MeasurementRows, database: Database, clock: ManualClock) -> None:
    rows.append("gateway", clock.now(), {**counted(1), **counted(5, "rival")})
    MeasurementRows(database, "prod").append("gateway", clock.now(), counted(7))
    clock.advance(MINUTE)
    assert rows.roll_up() == 2
    assert (total(rows, HOUR), total(rows, HOUR, tenant="rival"), total(rows, HOUR, tenant="*")) == (1, 5, 0)
    assert total(MeasurementRows(database, "prod"), HOUR) == 7


def test_what_comes_late_counts_all_the_same(rows: MeasurementRows, clock: ManualClock) -> None:
    rows.append("gateway", clock.now(), counted(1))
    late = clock.now()
    clock.advance(HOUR)
    rows.roll_up()
    rows.append("other", late, counted(2))
    rows.append("gateway", late, counted(4))  # As after the clock was set back: its row was rolled up.
    assert (total(rows, HOUR), total(rows, DAY)) == (7, 7)
    assert rows.roll_up() == 2
    assert (total(rows, HOUR), total(rows, DAY)) == (7, 7)


def test_a_process_that_has_read_a_period_sees_what_others_add_to_it(
    rows: MeasurementRows, database: Database, clock: ManualClock
) -> None:
    other, late = MeasurementRows(database, "dev"), clock.now()
    expected = 0
    for count in (1, 2, 4):
        other.append("gateway@two", late, counted(count))
        expected += count
        assert {total(rows, period) for period in (MINUTE, HOUR, DAY)} == {expected}
        clock.advance(MINUTE)
        # The longer periods are added to twice at one moment.
        other.roll_up()
        assert {total(rows, period) for period in (MINUTE, HOUR, DAY)} == {expected}
        other.append("gateway@three", late, counted(8))
        assert {total(rows, period) for period in (MINUTE, HOUR, DAY)} == {expected + 8}
        other.roll_up()
        expected += 8
        assert {total(rows, period) for period in (MINUTE, HOUR, DAY)} == {expected}


def test_reading_changes_nothing_that_another_reader_has(rows: MeasurementRows, clock: ManualClock) -> None:
    rows.append("gateway@one", clock.now(), {"shop": Measurements({SECONDS: Amount(1.0, 2.0, 0.0, {3: 2})})})
    clock.advance(MINUTE)
    rows.roll_up()
    before = rows.read("shop", DAY, NOON, NOON + DAY)
    rows.append("gateway@two", NOON, {"shop": Measurements({SECONDS: Amount(1.0, 2.0, 0.0, {3: 2})})})
    for _ in range(3):
        (found,) = rows.read("shop", DAY, NOON, NOON + DAY).values()
        assert found[SECONDS] == Amount(2.0, 4.0, 0.0, {3: 4})
    (earlier,) = before.values()
    assert earlier[SECONDS] == Amount(1.0, 2.0, 0.0, {3: 2})


def test_what_was_counted_of_a_tenant_rings_and_levels_and_the_platforms_own_do_not(
    rows: MeasurementRows, database: Database, clock: ManualClock
) -> None:
    rung = rings_of(database, "measurements:dev")
    level = Measurements({("antiphon_feature_age_seconds", ("port",)): Amount(50.0, 10.0, 5.0)})
    rows.append("worker@one", clock.now(), {"shop": level} | counted(0.5, PLATFORM))
    assert not rung, "an idle platform would ring for ever"
    rows.append("gateway@one", clock.now(), counted(2))
    took = Measurements({SECONDS: Amount(0.5, 1.0, 0.0, {3: 1})})
    rows.append("gateway@one", clock.now(), {"shop": took})
    assert len(rung) == 2


def test_durations_and_levels_add_up(rows: MeasurementRows, clock: ManualClock) -> None:
    age: Series = ("antiphon_feature_age_seconds", ("weather",))
    for height in (10.0, 30.0):
        measured = {SECONDS: Amount(1.5, 3.0, 0.0, {7: 2, 9: 1}), age: Amount(height * 10, 10.0, height)}
        rows.append("one", clock.now(), {"shop": Measurements(measured)})
        clock.advance(FINEST)
    clock.advance(MINUTE)
    rows.roll_up()
    (found,) = rows.read("shop", DAY, NOON, NOON + DAY).values()
    assert found[SECONDS] == Amount(3.0, 6.0, 0.0, {7: 4, 9: 2})
    assert found[age] == Amount(400.0, 20.0, 30.0)


def test_old_periods_are_forgotten_each_at_its_time(
    rows: MeasurementRows, database: Database, clock: ManualClock
) -> None:
    rows.append("gateway", clock.now(), counted(1))
    clock.advance(DAY)
    rows.append("gateway", clock.now(), counted(1))
    clock.advance(MINUTE)
    rows.roll_up()
    assert (total(rows, FINEST), total(rows, MINUTE), total(rows, DAY)) == (0, 1, 2)
    clock.advance(timedelta(days=401))
    rows.append("gateway", clock.now(), counted(1))
    clock.advance(MINUTE)
    rows.roll_up()
    assert (total(rows, HOUR), total(rows, DAY)) == (0, 2)
    kept = database.rows(schema.measurements.select())
    assert len(kept) == len(KEPT) + 2 + 2  # The last minute in every period; days and quarters of days before.


def test_a_flood_of_series_is_bounded(rows: MeasurementRows, clock: ManualClock) -> None:
    flood = {("antiphon_answers", (str(number), "online")): Amount(1.0) for number in range(MOST_SERIES + 50)}
    rows.append("gateway", clock.now(), {"shop": Measurements(flood)})
    rows.append("gateway", clock.now(), {"shop": Measurements(flood)})
    (found,) = rows.read("shop", FINEST, NOON, NOON + HOUR).values()
    assert len(found) == MOST_SERIES
    assert {amount.total for amount in found.values()} == {2.0}
