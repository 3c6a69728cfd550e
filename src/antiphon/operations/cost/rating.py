"""Rates what was used: charges in whole micro-units, and corrections for prices that were recorded later.

Invariants:
- The charges of an hour, resource, engine and (of tokens) model add up to their quantity's price, rounded once.
- A charge never changes once its hour is closed: a price that is recorded later for an hour before makes corrections,
  rows of their own, booked in the hour of that record. Charges and corrections add up to today's prices.
- The time of an engine, and of its GPUs, is charged whole: what its answers took, what it was idle, and the rest (work
  under way, and work without an answer), which is what is left of the measured time, in microseconds as in money.

As two time axes are kept apart: when something was used, and when its price was known (Snodgrass, *Developing
Time-Oriented Database Applications in SQL*, ch. 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Literal

import msgspec

from antiphon.catalog.ledger import HOUR, IDLE_TIME, WHOLE_TIME, LedgerEntry, Resource, SharedTime, TenantEngineTime
from antiphon.core.scope import ANY
from antiphon.operations.cost.amounts import apportion, rounded
from antiphon.operations.cost.price_book import PRICED_AS, TOKENS, PriceBook, hour_of

CLOSED_AFTER = timedelta(minutes=5)
"""After its end an hour is closed: prices that are recorded until then count as known in it."""

UNANSWERED = "under way or unanswered"
"""In the place of work: engine time that no answer has been charged with."""

IDLE = "idle"


class Charge(msgspec.Struct, frozen=True):
    """The cost of something in an hour.

    Attributes:
        entry: what was used; of a correction too.
        kind: ``saved`` is what was not used, because an answer was served again: no part of any sum.
        booked: the hour that it is booked in: its own, or of a correction that of the record that made it.
        currency, unit_price: by which it is priced, empty where there is no price.
    """

    entry: LedgerEntry
    kind: Literal["usage", "correction", "saved"]
    booked: datetime
    micros: int
    currency: str = ""
    unit_price: str = ""


Rate = Callable[[PriceBook], list[Charge]]


def rate(entries: Sequence[LedgerEntry], book: PriceBook) -> list[Charge]:
    """The charges of one tenant's entries of one hour."""
    found: list[Charge] = []
    for _, group in groupby(sorted(entries, key=_priced_by), key=_priced_by):
        alike = list(group)
        resource, _, model = _priced_by(alike[0])
        price = book.at(resource, model, alike[0].hour)
        total = 0 if price is None else rounded(price.of(sum(one.quantity for one in alike)))
        micros = apportion(total, [one.quantity for one in alike])
        named = ("", "") if price is None else (price.record.currency, price.record.amount)
        kind: Literal["saved", "usage"] = "saved" if resource.startswith("saved_") else "usage"
        found += [Charge(one, kind, one.hour, part, *named) for one, part in zip(alike, micros, strict=True)]
    return found


def rate_shared(
    measured: Sequence[LedgerEntry], answered: Sequence[TenantEngineTime], hour: datetime, book: PriceBook,
    of: SharedTime = "engine",
) -> list[Charge]:  # fmt: skip
    """The charges of time of engines, or of their GPUs, in one hour that belong to no tenant.

    Args:
        measured: idle and measured time, by engine. answered: what answers of each tenant took of these engines.
    """
    price = book.at(of, "", hour)
    named = ("", "") if price is None else (price.record.currency, price.record.amount)

    def money(quantity: int) -> int:
        return 0 if price is None else rounded(price.of(quantity))

    found: list[Charge] = []
    for engine in sorted({one.engine for one in measured} | {one.engine for one in answered}):
        of_engine: dict[Resource, int] = {one.resource: one.quantity for one in measured if one.engine == engine}
        whole, idle = of_engine.get(WHOLE_TIME[of], 0), of_engine.get(IDLE_TIME[of], 0)
        taken = [one.quantity for one in answered if one.engine == engine]
        rest, rest_money = whole - idle - sum(taken), money(whole) - money(idle) - sum(map(money, taken))
        of_none: tuple[tuple[Resource, int, int, str], ...] = (
            (IDLE_TIME[of], idle, money(idle), IDLE),
            (of, rest, rest_money, UNANSWERED),
        )
        for resource, quantity, micros, work in of_none:
            entry = LedgerEntry(resource=resource, quantity=quantity, engine=engine, work=work, tenant=ANY, hour=hour)
            found.append(Charge(entry, "usage", hour, micros, *named))
    return found


def charges_of_hour(hour: datetime, book: PriceBook, rated: Rate) -> list[Charge]:
    """The charges of an hour by the prices that were known when it was closed, and a correction for each that was
    recorded later."""
    closed = hour + HOUR + CLOSED_AFTER
    before = rated(book.known_at(closed))
    found = list(before)
    for moment in book.recorded_later(hour, closed):
        after = rated(book.known_at(moment))
        found += [
            msgspec.structs.replace(new, kind="correction", booked=hour_of(moment), micros=new.micros - old.micros)
            for old, new in zip(before, after, strict=True)
            if new.micros != old.micros and new.kind == "usage"
        ]
        before = after
    return found


def charges(entries: Sequence[LedgerEntry], book: PriceBook) -> list[Charge]:
    """The charges of one tenant's entries, which are in the order of their hours."""
    found: list[Charge] = []
    for hour, group in groupby(entries, key=lambda entry: entry.hour):
        found += charges_of_hour(hour, book, partial(rate, list(group)))
    return found


def shared_charges(
    measured: Iterable[LedgerEntry],
    answered: Iterable[TenantEngineTime],
    since: dict[str, datetime],
    book: PriceBook,
    of: SharedTime = "engine",
) -> list[Charge]:
    """The charges of time of engines, or of their GPUs, that belong to no tenant.

    Args:
        since: engine to the first hour in which its time was measured; what answers took before is not held against it.
    """
    of_hours: dict[datetime, tuple[list[LedgerEntry], list[TenantEngineTime]]] = {}
    for entry in measured:
        if entry.resource in (IDLE_TIME[of], WHOLE_TIME[of]):
            of_hours.setdefault(entry.hour, ([], []))[0].append(entry)
    for one in answered:
        if one.engine in since and one.hour >= since[one.engine]:
            of_hours.setdefault(one.hour, ([], []))[1].append(one)
    found: list[Charge] = []
    for hour, (of_meters, of_answers) in sorted(of_hours.items(), key=lambda item: item[0]):

        def rated(
            known: PriceBook,
            hour: datetime = hour,
            of_meters: Sequence[LedgerEntry] = of_meters,
            of_answers: Sequence[TenantEngineTime] = of_answers,
        ) -> list[Charge]:
            return rate_shared(of_meters, of_answers, hour, known, of)

        found += [one for one in charges_of_hour(hour, book, rated) if one.micros or one.entry.quantity]
    return found


def _priced_by(entry: LedgerEntry) -> tuple[Resource, str, str]:
    priced_as = PRICED_AS.get(entry.resource, entry.resource)
    return entry.resource, entry.engine, entry.model if priced_as in TOKENS else ""
