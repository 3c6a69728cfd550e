"""The price book: which price of a resource holds in which hour, as of now and as it was known at an earlier moment.

A price holds from its hour until that of the next one. Where two were recorded for one hour, the later record counts. A
price of a model goes before one of all models, whenever they begin.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec

from antiphon.catalog.ledger import HOUR, Resource
from antiphon.catalog.prices import PriceRecord
from antiphon.core.errors import InvalidInputError

OPENING = datetime(1970, 1, 1, tzinfo=UTC)
"""The hour from which the first price of a resource holds: it was never another one."""

_DIGITS = 18
_MOST = Decimal(1_000_000)


class Unit(msgspec.Struct, frozen=True):
    """The unit that a resource is priced by, and how many quantities of the ledger it is."""

    name: str
    quantities: int


_SECOND = Unit("second", 1_000_000)
_TOKEN = Unit("token", 1)
UNITS: dict[Resource, Unit] = {
    "engine": _SECOND,
    "gpu": _SECOND,
    "prompt_token": _TOKEN,
    "cached_prompt_token": _TOKEN,
    "completion_token": _TOKEN,
    "worker": _SECOND,
    "training_processor": _SECOND,
    "memory": Unit("GiB-hour", 1_073_741_824 * 3_600),
    "storage": Unit("GiB-month", 1_073_741_824 * 30 * 86_400),
}
"""Units of what has a price; a month is 30 days."""

PRICED_AS: dict[Resource, Resource] = {
    "engine_idle": "engine",
    "engine_measured": "engine",
    "gpu_idle": "gpu",
    "gpu_measured": "gpu",
    "saved_engine": "engine",
    "saved_gpu": "gpu",
    "saved_prompt_token": "prompt_token",
    "saved_completion_token": "completion_token",
}
"""Resources that cost what another one does."""

TOKENS: tuple[Resource, ...] = ("prompt_token", "cached_prompt_token", "completion_token")
"""Resources that may have a price for each model."""


class Price(msgspec.Struct, frozen=True):
    """A price that holds: ``micros`` of one quantity of the ledger."""

    record: PriceRecord
    micros: Fraction

    def of(self, quantity: int) -> Fraction:
        """The price of so much, in micro-units."""
        return self.micros * quantity


class PriceBook:
    """Prices by resource, model and hour."""

    def __init__(self, records: Iterable[PriceRecord]) -> None:
        self.records: Sequence[PriceRecord] = sorted(records, key=lambda record: record.sequence)
        self._lines: dict[tuple[Resource, str], tuple[list[datetime], list[Price]]] = {}
        self._known: dict[tuple[int, ...], PriceBook] = {}
        lines: dict[tuple[Resource, str], dict[datetime, PriceRecord]] = {}
        for record in self.records:
            lines.setdefault((record.resource, record.model), {})[record.since] = record
        for name, line in lines.items():
            hours = sorted(line)
            self._lines[name] = hours, [Price(line[hour], _micros(line[hour])) for hour in hours]

    def at(self, resource: Resource, model: str, hour: datetime) -> Price | None:
        """The price of a resource in an hour; ``None``: it has none, and costs nothing."""
        resource = PRICED_AS.get(resource, resource)
        for name in (model, "") if model and resource in TOKENS else ("",):
            hours, prices = self._lines.get((resource, name), ((), ()))
            if place := bisect_right(hours, hour):
                return prices[place - 1]
        return None

    def known_at(self, moment: datetime) -> PriceBook:
        """The book as it was then. First prices count as known from the beginning."""
        known = [record for record in self.records if record.recorded_at <= moment or record.since == OPENING]
        if len(known) == len(self.records):
            return self
        named = tuple(record.sequence for record in known)
        if named not in self._known:
            self._known[named] = PriceBook(known)
        return self._known[named]

    @property
    def currency(self) -> str | None:
        """The currency of every price; ``None`` of an empty book."""
        return self.records[0].currency if self.records else None

    def recorded_later(self, hour: datetime, closed: datetime) -> list[datetime]:
        """Moments after ``closed`` at which a price was recorded that holds in this hour or did."""
        return sorted(
            {one.recorded_at for one in self.records if OPENING < one.since <= hour and one.recorded_at > closed}
        )


def checked_price(resource: str, model: str, amount: str | float, currency: str, since: datetime) -> Resource:
    """The resource of a price that may be recorded.

    Raises:
        InvalidInputError: there is no such resource, its price is not by model, the amount is negative or no number,
            the currency is none, or the moment is no whole hour of UTC.
    """
    known = next((name for name in UNITS if name == resource), None)
    if known is None:
        raise _refused(f"{resource!r} has no price.", f"Name one of {', '.join(UNITS)}.")
    if model and known not in TOKENS:
        raise _refused(f"The price of {resource} is not by model.", f"Of models are {', '.join(TOKENS)}.")
    try:
        number = Decimal(str(amount))
    except InvalidOperation:
        raise _refused(f"{str(amount)!r} is no number.", "Write it like 0.00004.") from None
    if not number.is_finite() or not 0 <= number <= _MOST or number != round(number, _DIGITS):
        raise _refused(
            f"{amount} is no price of a {UNITS[known].name}.",
            f"It is from 0 to {_MOST:,}, with at most {_DIGITS} digits after the point.",
        )
    if len(currency) != 3 or not (currency.isascii() and currency.isupper()):
        raise _refused(f"{currency!r} is no currency.", "Write its three letters, such as EUR (ISO 4217).")
    if since != hour_of(since):
        raise _refused("A price holds from a whole hour on (UTC).", f"Write {hour_of(since):%Y-%m-%dT%H:00Z}.")
    return known


def hour_of(moment: datetime) -> datetime:
    """The hour that a moment is in."""
    moment = moment.astimezone(UTC)
    return moment.replace(minute=0, second=0, microsecond=0)


def next_hour(moment: datetime) -> datetime:
    """The hour after the one that a moment is in."""
    return hour_of(moment) + HOUR


def _micros(record: PriceRecord) -> Fraction:
    return Fraction(record.amount) * 1_000_000 / UNITS[record.resource].quantities


def _refused(what: str, next_step: str) -> InvalidInputError:
    return InvalidInputError(what, where="price", next_step=next_step)
