"""Entries and prices for tests of cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tests.unit.catalog.examples import NOON

from antiphon.catalog.ledger import LedgerEntry, Resource
from antiphon.catalog.prices import PriceRecord
from antiphon.operations.cost.price_book import OPENING, PriceBook

HOUR = timedelta(hours=1)


def entry(resource: Resource, quantity: int, hour: datetime = NOON, **fields: Any) -> LedgerEntry:
    given: dict[str, Any] = {"tenant": "default", "application": "desk", **fields}
    return LedgerEntry(resource=resource, quantity=quantity, hour=hour, **given)


def price(
    resource: Resource,
    amount: str,
    *,
    since: datetime = OPENING,
    recorded: datetime = NOON - 100 * HOUR,
    model: str = "",
    sequence: int = 0,
) -> PriceRecord:
    return PriceRecord(sequence, resource, model, amount, "EUR", since, recorded, "settings", "")


def book(*records: PriceRecord) -> PriceBook:
    numbered = []
    for number, record in enumerate(records, 1):
        fields = {name: getattr(record, name) for name in record.__struct_fields__} | {"sequence": number}
        numbered.append(PriceRecord(**fields))
    return PriceBook(numbered)
