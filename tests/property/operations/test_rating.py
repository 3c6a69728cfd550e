"""Sums of charges are exact, whatever was used, whatever it costs, and whenever its price was known."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import NOON
from tests.unit.operations.cost.ledgers import HOUR, book, entry, price

from antiphon.catalog.ledger import IDLE_TIME, WHOLE_TIME, LedgerEntry, SharedTime, TenantEngineTime
from antiphon.catalog.prices import PriceRecord
from antiphon.core.scope import ANY
from antiphon.operations.cost.amounts import apportion
from antiphon.operations.cost.price_book import PriceBook, hour_of
from antiphon.operations.cost.rating import charges, shared_charges

amounts = st.decimals(min_value=0, max_value=1_000, places=9, allow_nan=False).map(lambda one: format(one, "f"))
hours = st.integers(0, 5).map(lambda number: NOON + number * HOUR)
entries = st.lists(
    st.builds(
        entry,
        st.sampled_from(
            [
                "engine",
                "gpu",
                "prompt_token",
                "completion_token",
                "worker",
                "training_processor",
                "memory",
                "storage",
                "answer",
            ]
        ),
        st.integers(0, 10**13),
        hours,
        model=st.sampled_from(["", "small", "big"]),
        engine=st.sampled_from(["", "main", "cloud"]),
        principal=st.sampled_from(["ann", "ben", "zoe"]),
    ),
    max_size=30,
).map(lambda found: sorted(found, key=lambda one: one.hour))
later = st.builds(
    lambda resource, amount, since, after, model: price(
        resource,
        amount,
        since=since,
        recorded=since + after * HOUR,
        model=model if resource.endswith("token") else "",
    ),
    st.sampled_from(["engine", "prompt_token", "worker", "training_processor"]),
    amounts,
    hours,
    st.floats(-3, 40),
    st.sampled_from(["", "big"]),
)


@st.composite
def books(draw: st.DrawFn) -> tuple[PriceRecord, ...]:
    first = (price("engine", draw(amounts)), price("prompt_token", draw(amounts)), price("worker", draw(amounts)))
    return (*first, *sorted(draw(st.lists(later, max_size=6)), key=lambda one: one.recorded_at))


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=40))
def test_parts_add_up_and_are_less_than_one_from_their_share(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    if not sum(weights):
        assert set(parts) == {0}
        return
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1


def by_todays_prices(used: list[LedgerEntry], prices: PriceBook) -> int:
    """The sum of each hour, resource, engine and model, rounded once, by plain arithmetic."""

    def alike(one: LedgerEntry) -> tuple[object, ...]:
        model = one.model if one.resource.endswith("token") else ""
        return one.hour, one.resource, one.engine, model

    total = 0
    for (hour, resource, _, model), group in groupby(sorted(used, key=alike), key=alike):
        found = prices.at(resource, model, hour)  # type: ignore[arg-type]
        quantity = sum(one.quantity for one in group)
        total += 0 if found is None else round(found.micros * quantity)
    return total


@given(entries, books())
def test_charges_and_corrections_add_up_to_todays_prices(
    used: list[LedgerEntry], records: tuple[PriceRecord, ...]
) -> None:
    prices = book(*records)
    assert sum(one.micros for one in charges(used, prices)) == by_todays_prices(used, prices)


@given(entries, books(), later)
def test_a_later_price_changes_no_row_that_is_there(
    used: list[LedgerEntry], records: tuple[PriceRecord, ...], new: PriceRecord
) -> None:
    moment = max([*(one.recorded_at for one in records), NOON + 7 * HOUR]) + HOUR
    fields = {name: getattr(new, name) for name in new.__struct_fields__} | {"recorded_at": moment}
    before, after = charges(used, book(*records)), charges(used, book(*records, PriceRecord(**fields)))
    kept = [one for one in after if one.kind != "correction" or one.booked < hour_of(moment)]
    assert sorted(map(repr, kept)) == sorted(map(repr, before))


@given(
    st.lists(st.tuples(hours, st.integers(0, 10**10), st.integers(0, 10**10)), max_size=6,
             unique_by=lambda one: one[0]),
    st.lists(st.tuples(hours, st.sampled_from(["default", "rival", "third"]), st.integers(1, 10**10)), max_size=12,
             unique_by=lambda one: one[:2]),
    books(),
    st.sampled_from(get_args(SharedTime)),
)  # fmt: skip
def test_every_microsecond_of_an_engine_and_its_gpus_is_charged_once(
    measured: list[tuple[object, int, int]], answered: list[tuple[object, str, int]], records: tuple[PriceRecord, ...],
    shared: SharedTime,
) -> None:  # fmt: skip
    prices, of = book(*records), {"tenant": ANY, "application": "", "engine": "main"}
    of_meters = []
    for hour, idle, busy in measured:
        of_meters += [entry(WHOLE_TIME[shared], idle + busy, hour, **of), entry(IDLE_TIME[shared], idle, hour, **of)]  # type: ignore[arg-type]
    times = [TenantEngineTime(hour, tenant, "main", taken) for hour, tenant, taken in answered]  # type: ignore[arg-type]
    found = shared_charges(of_meters, times, {"main": NOON}, prices, shared)
    for hour, tenant, taken in answered:
        found += charges([entry(shared, taken, hour, tenant=tenant, engine="main")], prices)  # type: ignore[arg-type]
    whole = [one for one in of_meters if one.resource == WHOLE_TIME[shared]]
    assert sum(one.entry.quantity for one in found if one.kind == "usage") == sum(one.quantity for one in whole)
    assert sum(one.micros for one in found) == by_todays_prices(whole, prices)
