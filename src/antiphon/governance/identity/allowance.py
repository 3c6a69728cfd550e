"""Quotas and tier of an API key."""

from __future__ import annotations

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.token_bucket import Meter

REQUESTS, TOKENS, TOKENS_DAY = "requests_per_minute", "tokens_per_minute", "tokens_per_day"
_LARGEST = 1_000_000_000_000


class Allowance(msgspec.Struct, frozen=True):
    """Quotas of one API key; ``None`` is without bound.

    Attributes:
        requests_per_minute: of chat completions and completions.
        tokens_per_minute, tokens_per_day: prompt and completion together; a day is one of UTC.
        priority: it may ask for ``service_tier: priority``.
        bucket: the key whose usage it goes on with, when that was rotated to it.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    priority: bool = False
    bucket: str = ""

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Meters that measure its use."""
        found = (
            (REQUESTS, self.requests_per_minute, 60.0),
            (TOKENS, self.tokens_per_minute, 60.0),
            (TOKENS_DAY, self.tokens_per_day, 86_400.0),
        )
        return tuple(
            Meter(name, capacity, seconds, calendar=name == TOKENS_DAY)
            for name, capacity, seconds in found
            if capacity is not None
        )


NO_ALLOWANCE = Allowance()
"""An allowance without bounds and without priority."""


def check_allowance(allowance: Allowance) -> None:
    """Refuse a quota that lets nothing in.

    Raises:
        InvalidInputError: names the quota that is not between 1 and a million millions.
    """
    for name in (REQUESTS, TOKENS, TOKENS_DAY):
        value: int | None = getattr(allowance, name)
        if value is not None and not 1 <= value <= _LARGEST:
            raise InvalidInputError(
                f"{value} is no quota.",
                where=name,
                next_step=f"Use a number from 1 to {_LARGEST}, or leave it out for no bound.",
            )
