"""Amounts of budgets: the worst case covers whatever an answer turns out to be, and the ledger never has more."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import receipt

from antiphon.catalog.ledger import LedgerEntry, MeteredUsage, Resource
from antiphon.catalog.prices import PriceRecord
from antiphon.catalog.serving.receipt import CacheReceipt, UsageReceipt
from antiphon.operations.budgets.amounts import amount_of, worst_case
from antiphon.operations.cost.metering import usages_of
from antiphon.operations.cost.price_book import OPENING, PriceBook
from antiphon.operations.cost.rating import charges

GPUS = 4
HOUR = datetime(2026, 12, 2, 9, tzinfo=UTC)
RESOURCES: tuple[Resource, ...] = ("engine", "gpu", "prompt_token", "cached_prompt_token", "completion_token")
prices = st.fixed_dictionaries({name: st.sampled_from(["0", "0.00004", "0.0000025", "0.3", "7"]) for name in RESOURCES})
counts = st.integers(0, 500)
usages = st.tuples(counts, counts, counts, st.floats(0, 1)).map(
    lambda one: UsageReceipt(
        one[0] + one[1], one[1], one[2], engine_seconds=one[3] * sum(one[:3]) * 0.1, attempts=1,
        gpu_seconds=one[3] * sum(one[:3]) * 0.1 * GPUS,
    )
)  # fmt: skip


def book_of(amounts: dict[Resource, str]) -> PriceBook:
    named = enumerate(amounts.items(), 1)
    return PriceBook(
        PriceRecord(number, name, "", text, "EUR", OPENING, HOUR, "ann", "") for number, (name, text) in named
    )


def charged(book: PriceBook, usage: UsageReceipt, **fields: object) -> int:
    found = usages_of(receipt("pred_1", usage=usage, **fields))
    return sum(amount_of(((use.resource, use.quantity),), use.model, book, HOUR) for use in found)


@given(prices, usages)
def test_the_worst_case_covers_what_an_answer_is_charged(amounts: dict[Resource, str], usage: UsageReceipt) -> None:
    book = book_of(amounts)
    worst = worst_case(usage.prompt_tokens, usage.completion_tokens, "", book, HOUR, 0.1, GPUS)
    assert charged(book, usage) <= worst


@given(prices, st.lists(usages, max_size=12))
def test_the_ledger_never_has_more_than_its_answers_were_charged(
    amounts: dict[Resource, str], answers: list[UsageReceipt]
) -> None:
    book = book_of(amounts)
    sums: dict[MeteredUsage, int] = {}
    for usage in answers:
        for use in usages_of(receipt("pred_1", usage=usage)):
            key = MeteredUsage(use.resource, 0)
            sums[key] = sums.get(key, 0) + use.quantity
    entries = [LedgerEntry(key.resource, quantity, tenant="default", hour=HOUR) for key, quantity in sums.items()]
    ledger = sum(one.micros for one in charges(entries, book))
    assert ledger <= sum(charged(book, usage) for usage in answers)


@given(
    prices, usages, st.sampled_from(["online", "batch"]), st.sampled_from(["live", "evaluation", "shadow", "canary"])
)
def test_every_form_of_a_request_is_charged_by_one_rule(
    amounts: dict[Resource, str], usage: UsageReceipt, path: str, role: str
) -> None:
    book = book_of(amounts)
    assert charged(book, usage, path=path, role=role) == charged(book, usage)
    again = charged(book, UsageReceipt(), path=path, cache=CacheReceipt("stored", "pred_0", saved=usage))
    assert again == 0, "an answer that is served again costs nothing"
