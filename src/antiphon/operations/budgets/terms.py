"""Terms of budgets: what may be declared, and when their days and months begin. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

from antiphon.catalog.budgets import BudgetPeriod
from antiphon.core.errors import InvalidInputError
from antiphon.operations.cost.amounts import MICROS
from antiphon.operations.cost.price_book import hour_of

MOST_LIMIT = 1_000_000_000
"""Of a limit, in units of the currency."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


def period_of(period: BudgetPeriod, zone: str, now: datetime) -> tuple[datetime, datetime]:
    """The beginning of the present day or month in a zone, and that of the next one: whole hours of UTC, as the ledger
    counts, so that a zone off by half an hour begins with the hour in which its midnight is."""
    local = now.astimezone(ZoneInfo(zone))
    first = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "month":
        first = first.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
    else:
        following = first + timedelta(days=1)
    begins, renews = hour_of(first.astimezone(UTC)), hour_of(following.astimezone(UTC))
    return (renews, _after(period, zone, renews)) if now >= renews else (begins, renews)


def _after(period: BudgetPeriod, zone: str, begins: datetime) -> datetime:
    # The hour of a half-hour zone's midnight already belongs to the period that begins in it.
    return period_of(period, zone, begins + timedelta(hours=1))[1]


def checked_name(name: str) -> str:
    """The name of a budget; raises ``InvalidInputError`` for what is none."""
    if not _NAME.match(name):
        raise refused(f"{name[:80]!r} is no name of a budget.", "name", "Use a-z, 0-9 and . _ -, at most 64 of them.")
    return name


def checked_limit(amount: str) -> int:
    """A limit in micro-units.

    Raises:
        InvalidInputError: it is no number, negative, beyond :data:`MOST_LIMIT`, or finer than a micro-unit.
    """
    try:
        number = Decimal(amount)
    except InvalidOperation:
        raise refused(f"{amount[:80]!r} is no amount.", "limit", "Write it like 250 or 0.05.") from None
    micros = number * MICROS if number.is_finite() else None
    if micros is None or not 0 <= number <= MOST_LIMIT or micros != int(micros):
        raise refused(
            f"{amount[:80]} is no limit.",
            "limit",
            f"It is from 0, which refuses everything, to {MOST_LIMIT:,}, with at most 6 digits after the point.",
        )
    return int(micros)


def checked_zone(zone: str) -> str:
    """A zone's name; raises ``InvalidInputError`` where there is no such zone."""
    try:
        return ZoneInfo(zone).key
    except (KeyError, ValueError, OSError):  # Of a name that is a path, or of a folder.
        raise refused(
            f"There is no time zone {zone[:80]!r}.", "zone", "Write UTC, or a name of IANA's such as Europe/Berlin."
        ) from None


def checked_percent(percent: int, where: str) -> int:
    """A share of the limit; raises ``InvalidInputError`` beyond 1 to 100."""
    if not 1 <= percent <= 100:
        raise refused(f"{percent} % is no share of a limit.", where, "It is from 1 to 100; 100 is the limit itself.")
    return percent


def refused(what: str, where: str, next_step: str) -> InvalidInputError:
    """The error of a term that cannot be."""
    return InvalidInputError(what, where=where, next_step=next_step)
