"""The checks of the ledger find what they are for: each is shown evidence of which one thing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.chaos.harness.ledger_checks import LedgerEvidence, check_ledger

HOUR = 3_600_000_000
_EMPTY = dict.fromkeys(("application", "release", "path", "role", "principal", "engine", "model", "work"), "")


def row(resource: str, quantity: int, tenant: str = "default", **more: Any) -> dict[str, Any]:
    return {**_EMPTY, "tenant": tenant, "hour": HOUR, "resource": resource, "quantity": quantity, **more}


OF_ANSWER = {"application": "desk", "release": "r1", "path": "batch", "role": "live", "principal": "ann",
             "engine": "main", "model": "m", "work": "batch_1"}  # fmt: skip
ENTRIES = (
    row("answer", 1, **OF_ANSWER),
    row("engine", 333_333, **OF_ANSWER),
    row("prompt_token", 30, **OF_ANSWER),
    row("cached_prompt_token", 10, **OF_ANSWER),
    row("completion_token", 7, **OF_ANSWER),
    row("worker", 2_000_000, role="refresh", work="run_1"),
    row("training_processor", 1_500_000, role="train", work="run_2"),
    row("memory", 90, role="train", work="run_2"),
    row("memory", 10_000_000_000_000, "*", engine="main"),
    row("storage", 10_000_000_000_000, work="lake"),
    row("engine_measured", 3_000_000, "*", engine="main"),
    row("engine_idle", 2_500_000, "*", engine="main"),
)
USAGE = {"prompt_tokens": 40, "cached_prompt_tokens": 10, "completion_tokens": 7, "engine_seconds": 0.333333}
RECEIPT = {"tenant": "default", **OF_ANSWER, "request": "batch_1_3", "attempts": [{"model": "m"}], "usage": USAGE}
# 1,000 micro-units a second of engine, 10 of worker, 5 a completion token, 1,000 a GiB-month: 3.6 for what is stored.
PRICES = tuple(
    {"resource": resource, "model": "", "amount": amount}
    for resource, amount in {
        "engine": "0.001", "worker": "0.00001", "completion_token": "0.000005", "storage": "0.001",
        "memory": "0.00001",
    }.items()
)  # fmt: skip
# 3,000 of the engine, of which 333 are the answer's, 35 tokens, 20 of the worker, 4 of storage, 26 of memory.
TOTAL = 3_000 + 35 + 20 + 4 + 26
SPENT = 333 + 35
WHOLE = LedgerEvidence(
    entries=ENTRIES,
    receipts=(RECEIPT,),
    readings=(
        {"meter": "engine/main", "process": "p1", "total": 900_000, "part": 100_000, "read_at": 0},
        {"meter": "engine/main", "process": "p1", "total": 1_000_000, "part": 200_000, "read_at": 1},
        {"meter": "engine/main", "process": "p2", "total": 2_000_000, "part": 300_000, "read_at": 2},
        {"meter": "training/run_2/a", "process": "a", "total": 400_000, "part": 10, "read_at": 0},
        {"meter": "training/run_2/a", "process": "a", "total": 700_000, "part": 40, "read_at": 1},
        {"meter": "training/run_2/b", "process": "b", "total": 800_000, "part": 50, "read_at": 2},
        {"meter": "memory/engine/main", "process": "p1", "total": 5_000_000_000_000, "part": 900_000, "read_at": 0},
        {"meter": "memory/engine/main", "process": "p1", "total": 5_000_000_000_000, "part": 1_000_000, "read_at": 1},
        {"meter": "memory/engine/main", "process": "p2", "total": 2_500_000_000_000, "part": 2_000_000, "read_at": 2},
        {"meter": "storage/lake", "process": "", "total": 1, "part": 0, "read_at": 0},
        {"meter": "storage/lake", "process": "", "total": 1_000_000_000_000, "part": 0, "read_at": 10_500_000},
    ),
    attempts=({"run": "run_1", "workflow": "refresh", "begun": 0, "ended": 2_000_000, "lost": 0},),
    prices=PRICES,
    totals={"application": (TOTAL, TOTAL)},
    budgets=(
        {"budget": {"name": "whole", "kind": "tenant", "subject": ""}, "spent_micros": SPENT + 20 + 4},
        {"budget": {"name": "desk", "kind": "application", "subject": "desk"}, "spent_micros": SPENT},
        {"budget": {"name": "ben", "kind": "key", "subject": "ben"}, "spent_micros": 0},
    ),
    held=((10, 12.0),),
    wall_micros=4_000_000,
)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert check_ledger(WHOLE) == {name: [] for name in check_ledger(WHOLE)}


def _entry(place: int, **changed: Any) -> Callable[[LedgerEvidence], dict[str, Any]]:
    return lambda found: {"entries": tuple(
        {**one, **changed} if number == place else one for number, one in enumerate(found.entries)
    )}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (lambda found: {"receipts": (*found.receipts, RECEIPT)}, {"answers = receipts"}),
        (_entry(0, quantity=2), {"answers = receipts"}),
        (_entry(3, work=""), {"answers = receipts"}),
        (_entry(1, principal="ben", quantity=1), {"answers = receipts", "budgets = ledger"}),
        (lambda found: {"attempts": ()}, {"workers = attempts"}),
        (_entry(5, work="run_2"), {"workers = attempts"}),
        (lambda found: {"readings": found.readings[1:2] + found.readings[3:]}, {"engines = counters"}),
        (_entry(11, quantity=2_000_000), {"engines = counters"}),
        (_entry(10, quantity=3_000_001), {"engines = counters"}),
        (lambda found: {"wall_micros": 2_000_000}, {"engines = counters"}),
        (_entry(6, quantity=1_900_000), {"trainings = readings"}),
        (_entry(6, work="run_3"), {"trainings = readings"}),
        (_entry(7, quantity=91), {"trainings = readings"}),
        (_entry(8, quantity=10_000_000_000_001), {"memory = readings"}),
        (_entry(9, quantity=10_500_000_000_000), {"storage = readings"}),
        (lambda found: {"totals": {"application": (TOTAL, TOTAL + 1)}}, {"sum = measured"}),
        (lambda found: {"totals": {"application": (TOTAL - 1, TOTAL - 1)}}, {"sum = measured"}),
        (lambda found: {"budgets": ({**found.budgets[0], "spent_micros": SPENT},)}, {"budgets = ledger"}),
        (lambda found: {"held": ((10, 40.0),)}, {"budgets = ledger"}),
    ],
)
def test_each_fault_is_found_by_its_check(changed: Callable[[LedgerEvidence], dict[str, Any]], names: set[str]) -> None:
    found = check_ledger(msgspec.structs.replace(WHOLE, **changed(WHOLE)))
    assert {name for name, wrong in found.items() if wrong} == names
