from __future__ import annotations

from fractions import Fraction

import pytest
from tests.unit.catalog.examples import NOON
from tests.unit.operations.cost.ledgers import HOUR, book, entry, price

from antiphon.catalog.ledger import TenantEngineTime
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import ANY
from antiphon.operations.cost.amounts import apportion, decimal_text, plain_decimal, rounded
from antiphon.operations.cost.price_book import OPENING, checked_price
from antiphon.operations.cost.rating import IDLE, UNANSWERED, charges, shared_charges


def test_parts_add_up_and_the_largest_remainders_are_rounded_up() -> None:
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(10, [5, 3, 1]) == [6, 3, 1]
    assert apportion(0, [5, 3]) == [0, 0]
    assert apportion(0, []) == []
    assert apportion(0, [0, 0]) == [0, 0]


def test_amounts_are_decimal_and_exact() -> None:
    assert [decimal_text(one) for one in (0, 1, -40, 12_345_678)] == ["0.000000", "0.000001", "-0.000040", "12.345678"]
    assert [plain_decimal(one) for one in (0.00004, 1e-7, 0.0, "1.50")] == ["0.00004", "0.0000001", "0", "1.5"]
    assert [rounded(Fraction(one, 2)) for one in (1, 3, 5)] == [0, 2, 2]


def test_an_hour_of_an_engine_adds_up_to_its_price() -> None:
    found = charges(
        [entry("engine", 333_333, principal=name) for name in ("ann", "ben", "zoe")], book(price("engine", "0.00004"))
    )
    # 999,999 microseconds at 40 micro-units a second.
    assert sum(one.micros for one in found) == 40
    assert sorted(one.micros for one in found) == [13, 13, 14]
    assert {one.unit_price for one in found} == {"0.00004"}


def test_a_model_s_own_price_goes_first_and_what_has_none_is_free() -> None:
    prices = book(
        price("prompt_token", "0.000002"),
        price("prompt_token", "0.000001", model="big", since=OPENING),
        price("prompt_token", "0.000009", since=NOON - HOUR),
    )
    found = charges(
        [
            entry("prompt_token", 1_000, model="big"),
            entry("prompt_token", 1_000, model="small"),
            entry("completion_token", 1_000, model="big"),
            entry("answer", 3),
        ],
        prices,
    )
    assert {(one.entry.resource, one.entry.model): one.micros for one in found} == {
        ("prompt_token", "big"): 1_000,
        ("prompt_token", "small"): 9_000,
        ("completion_token", "big"): 0,
        ("answer", ""): 0,
    }


def test_a_price_of_the_past_makes_corrections_and_changes_no_charge() -> None:
    used = [entry("engine", 5_000_000, NOON + number * HOUR) for number in range(4)]
    first = price("engine", "0.01")
    before = charges(used, book(first))
    late = price("engine", "0.03", since=NOON + 2 * HOUR, recorded=NOON + 9 * HOUR)
    after = charges(used, book(first, late))
    assert [one for one in after if one.kind == "usage"] == before
    corrections = [one for one in after if one.kind == "correction"]
    assert [(one.entry.hour, one.booked, one.micros) for one in corrections] == [
        (NOON + number * HOUR, NOON + 9 * HOUR, 100_000) for number in (2, 3)
    ]
    # A second thought about the same hour corrects the correction.
    back = price("engine", "0.01", since=NOON + 2 * HOUR, recorded=NOON + 11 * HOUR)
    assert sum(one.micros for one in charges(used, book(first, late, back))) == sum(one.micros for one in before)


def test_a_price_that_was_known_before_its_hour_was_over_corrects_nothing() -> None:
    soon = price("engine", "0.03", since=NOON, recorded=NOON + HOUR / 2)
    found = charges([entry("engine", 1_000_000)], book(price("engine", "0.01"), soon))
    assert [(one.kind, one.micros) for one in found] == [("usage", 30_000)]


def test_idle_time_and_the_rest_make_the_measured_time_whole() -> None:
    measured = [
        entry("engine_measured", 3_600_000_000, tenant=ANY, application="", engine="main"),
        entry("engine_idle", 3_000_000_000, tenant=ANY, application="", engine="main"),
    ]
    answered = [TenantEngineTime(NOON, name, "main", 111_111_111) for name in ("default", "rival")]
    prices = book(price("engine", "0.00004"))
    found = shared_charges(measured, answered, {"main": NOON}, prices)
    assert {one.entry.work: one.entry.quantity for one in found} == {IDLE: 3_000_000_000, UNANSWERED: 377_777_778}
    own = [
        one
        for name in ("default", "rival")
        for one in charges([entry("engine", 111_111_111, tenant=name, engine="main")], prices)
    ]
    assert sum(one.micros for one in found + own) == 3_600 * 40
    assert sum(one.entry.quantity for one in found + own) == 3_600_000_000


def test_what_answers_took_before_an_engine_was_measured_is_not_held_against_it() -> None:
    answered = [TenantEngineTime(NOON, "default", "main", 1_000), TenantEngineTime(NOON, "default", "cloud", 1_000)]
    prices = book(price("engine", "1"))
    assert shared_charges([], answered, {"main": NOON + HOUR}, prices) == []
    # An answer that ended in a later hour than it was worked on: the hour's rest is below nothing, the sum is right.
    (rest,) = shared_charges([], answered, {"main": NOON}, prices)
    assert (rest.entry.quantity, rest.micros) == (-1_000, -1_000)


@pytest.mark.parametrize(
    ("resource", "model", "amount", "since", "said"),
    [
        ("gold", "", "1", NOON, "no price"),
        ("engine", "big", "1", NOON, "not by model"),
        ("engine", "", "-1", NOON, "no price of a second"),
        ("engine", "", "nan", NOON, "no price of a second"),
        ("engine", "", "1e9", NOON, "no price of a second"),
        ("engine", "", "1e-19", NOON, "no price of a second"),
        ("engine", "", "ten", NOON, "no number"),
        ("engine", "", "1", NOON + HOUR / 2, "whole hour"),
    ],
)
def test_a_price_that_is_none_is_refused(resource: str, model: str, amount: str, since: object, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        checked_price(resource, model, amount, "EUR", since)  # type: ignore[arg-type]


def test_a_price_of_nothing_is_one() -> None:
    assert checked_price("engine", "", "0", "EUR", NOON) == "engine"
    with pytest.raises(InvalidInputError, match="no currency"):
        checked_price("engine", "", "1", "euro", NOON)
