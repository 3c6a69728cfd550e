"""Triggers as they are declared, joined, described and checked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from antiphon import (
    Entity,
    Source,
    count,
    cron,
    drift,
    every,
    expected,
    feature_view,
    misses,
    outcomes,
    published,
    requests,
)
from antiphon.definitions.cron import CronTime
from antiphon.definitions.triggers import (
    AllOf,
    AnyOf,
    Interval,
    NewDrift,
    NewOutcomes,
    NewPublication,
    Trigger,
    describe,
    is_timed,
    simple_triggers,
    trigger_mistakes,
)


@feature_view(entity=Entity("customer", ["customer"]), source=Source.table("opened", path="t.csv", event_time="at"))
class Tickets:
    week = count(window="7d")


VIEWS = frozenset({"tickets", "orders"})
DAY, NIGHT = every("24h"), cron("0 3 * * *", zone="Europe/Berlin")


def test_functions_make_values() -> None:
    assert every("24h") == Interval("24h")
    assert cron("0 3 * * *") == CronTime("0 3 * * *", "UTC")
    assert outcomes(500) == NewOutcomes(500)
    assert drift() == NewDrift()
    assert drift("delay", "price") == NewDrift(("delay", "price"))
    assert published(Tickets, "orders") == NewPublication(("tickets", "orders"))


def test_conditions_of_one_sign_are_flat_and_of_two_are_nested() -> None:
    assert DAY | NIGHT | outcomes(5) == AnyOf((DAY, NIGHT, outcomes(5)))
    assert DAY | (NIGHT | outcomes(5)) == AnyOf((DAY, NIGHT, outcomes(5)))
    assert NIGHT.__or__(NIGHT) == AnyOf((NIGHT, NIGHT))
    assert DAY & outcomes(5) & drift() == AllOf((DAY, outcomes(5), drift()))
    assert DAY & outcomes(5) | drift() == AnyOf((AllOf((DAY, outcomes(5))), drift()))
    assert (DAY | drift()) & outcomes(5) == AllOf((AnyOf((DAY, drift())), outcomes(5)))


def test_only_conditions_are_joined() -> None:
    for wrong in ("24h", None, 5):
        with pytest.raises(TypeError, match="unsupported operand"):
            DAY | wrong  # type: ignore[operator]
        with pytest.raises(TypeError, match="unsupported operand"):
            NIGHT & wrong  # type: ignore[operator]


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (outcomes(500) | every("24h"), "500 new outcomes or every 24h"),
        (outcomes(1), "1 new outcome"),
        (expected(2000, within="2h") | every("7d"), "2000 requests expected within 2h or every 7d"),
        (requests(1000) | misses(1), "1000 new requests or 1 new request without a stored answer"),
        (NIGHT, "at 03:00 every day (Europe/Berlin)"),
        (drift(), "drift"),
        (drift("delay"), "drift of delay"),
        (drift("delay", "price") | DAY, "(drift of one of delay, price) or every 24h"),
        (published("orders"), "a publication of orders"),
        (published("orders", "tickets"), "a publication of one of orders, tickets"),
        (DAY & outcomes(5) | drift(), "(every 24h and 5 new outcomes) or drift"),
        ((DAY | drift()) & outcomes(5), "(every 24h or drift) and 5 new outcomes"),
    ],
)
def test_a_trigger_survives_json_and_is_described(trigger: Trigger, said: str) -> None:
    assert describe(trigger) == said
    assert msgspec.json.decode(msgspec.json.encode(trigger), type=Trigger) == trigger  # type: ignore[arg-type]


def test_time_and_simple_conditions_are_told() -> None:
    assert is_timed(DAY | NIGHT)
    assert not is_timed(DAY | drift())
    assert list(simple_triggers((DAY | drift()) & outcomes(5))) == [DAY, drift(), outcomes(5)]


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (DAY | NIGHT | outcomes(1) | drift("delay") | published(Tickets), None),
        (DAY & outcomes(1), None),
        (every("1m"), None),
        (every("59s"), "when: every 59s is too often; write a minute or more"),
        (every("daily"), "when: every: 'daily' is not a duration"),
        (every(24), "when: every: 24 is not a duration"),
        (outcomes(0), "when: outcomes(0) is no number of outcomes"),
        (outcomes(True), "outcomes(True) is no number"),
        (outcomes("5"), "outcomes('5') is no number"),
        (requests(1) & misses(9), None),
        (requests(0), "requests(0) is no number of requests"),
        (expected(1, within="24h"), None),
        (expected(0, within="2h"), "expected(0) is no number of requests; write one from 1 to 1,000,000."),
        (expected(9, within="soon"), "within: 'soon' is not a duration"),
        (expected(9, within="5m"), "within 5m is not from 15m to 24h"),
        (expected(9, within="2d"), "within 2d is not from 15m to 24h"),
        (misses(10**9), "misses(1000000000) is no number of requests; write one from 1 to 1,000,000."),
        (drift(""), "drift takes names of variables"),
        (drift(5), "drift takes names of variables"),
        (published(), "published() names no view"),
        (published("gone"), "the project publishes no view 'gone'; there are orders, tickets."),
        (published(7), "the project publishes no view 7"),
        (cron("0 0 30 2 *"), "when: '0 0 30 2 *' never fires"),
        (DAY & NIGHT, "times joined by & are rarely true together"),
        ((DAY | NIGHT) & DAY, "times joined by & are rarely true together"),
        ((DAY & NIGHT) | drift(), "times joined by & are rarely true together"),
        (DAY & outcomes(0), "outcomes(0) is no number"),
        (AnyOf(()), "AnyOf holds no condition"),
        (AllOf(()), "AllOf holds no condition"),
        (AnyOf((DAY, "24h")), "when must be a condition, such as every('24h')"),
        ("24h", "when must be a condition, such as every('24h'), cron('0 3 * * *') or outcomes(500), not '24h'."),
        (None, "when must be a condition"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(trigger: Any, said: str | None) -> None:
    found = list(trigger_mistakes(trigger, "when", VIEWS))
    assert len(found) == (said is not None), found
    assert said is None or said in found[0]
