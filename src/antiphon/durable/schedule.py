"""Scheduled runs: whether one is due, and the key under which it is submitted, the same in every process."""

from __future__ import annotations

from datetime import datetime, timedelta

from antiphon.core.clock import microseconds, parse_duration
from antiphon.core.errors import InvalidInputError

OFF = "off"
"""The setting without a schedule."""


def interval(setting: str, where: str) -> timedelta | None:
    """The interval that a setting names, ``None`` for :data:`OFF`; raises ``InvalidInputError``, with ``where``."""
    if setting == OFF:
        return None
    try:
        return parse_duration(setting)
    except InvalidInputError as error:
        raise InvalidInputError(error.what, where=where, next_step=f"Write a duration such as 24h, or {OFF}.") from None


def due(workflow: str, now: datetime, every: timedelta, since: datetime | None) -> str | None:
    """The key of the run that is due, ``None`` while none is, after the last one that ended well (``since``; before the
    first, the moment from which there is something to do, ``None`` without any). One that failed is due again an
    interval later, under another key."""
    if since is None or now - since < every:
        return None
    return f"{workflow}:{microseconds(since)}:{(now - since) // every}"
