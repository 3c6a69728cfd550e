"""When batch and online are compared by themselves."""

from __future__ import annotations

from datetime import datetime, timedelta

from antiphon.core.clock import microseconds

WORKFLOW = "skew"
"""The workflow's name in the registry."""

OFF = "off"
"""The setting that compares only when somebody asks."""


def due(now: datetime, every: timedelta, since: datetime | None) -> str | None:
    """The key of the run that is due; ``None`` while none is.

    Args:
        since: the last comparison by the schedule; before the first, the first publication, ``None`` without any.

    One that failed is due again an interval later, under another key.
    """
    if since is None or now - since < every:
        return None
    return f"skew:{microseconds(since)}:{(now - since) // every}"
