"""What is published of each view, how old it is and may be."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.skew_reports import ViewSkew


class ViewFreshness(msgspec.Struct, frozen=True):
    """How fresh one view is: ``age_seconds`` of wall time since its values last changed or were confirmed.

    ``as_of`` is the event time its snapshot was computed for, ``source_quality`` the share of source rows without a
    defect behind it. ``verdict`` is what the gates said last (passed, warned, blocked); ``blocked``: why what was made
    since is not served, ``blocked_by`` which rules.
    """

    view: str
    definition_version: str
    snapshot: str | None
    as_of: datetime | None
    refreshed_at: datetime | None
    age_seconds: float | None
    rows: int | None = None
    max_age_seconds: float | None = None
    source_quality: float | None = None
    verdict: str | None = None
    blocked: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()


class ViewGlance(ViewFreshness, frozen=True):
    """Everything about one view that somebody looks for first.

    Attributes:
        state: one of differs (from what batch computes), never, blocked, held, waiting (for the end of an embargo),
            stale, late (its stream is behind a contract), fresh.
        contracts: application to the seconds that it lets the view be old; ``stale_for``: those that it is too old for.
            A streamed view is as old as the first event that it has not applied.
        next_refresh: when the schedule makes it anew; ``None``: only when somebody orders it.
        quarantined: source rows that rules kept out of what is published.
        staged_until: until when a snapshot waits. ``held``: why nothing replaces what is published.
        lag, lag_seconds: events of its stream that it has not applied, and how long the first of them waits.
        skew: what the last comparison of batch and online found of it.
    """

    state: str = "fresh"
    keys: tuple[str, ...] = ()
    source: str = ""
    features: tuple[str, ...] = ()
    contracts: dict[str, float] = {}
    stale_for: tuple[str, ...] = ()
    next_refresh: datetime | None = None
    quarantined: int = 0
    staged_until: datetime | None = None
    held: str | None = None
    lag: int | None = None
    lag_seconds: float | None = None
    skew: ViewSkew | None = None
