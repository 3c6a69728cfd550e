"""Values that every part of features and serving share: a measure's value, a row of an entity, a feature as read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.features.snapshot_facts import SnapshotFacts

MeasureValue = int | float | bool | str | None
"""A measured or finished value."""

EVER = 2**62
"""A moment (microseconds) after every other."""


NEVER = -EVER
"""One before every other."""


class EntityRow(msgspec.Struct, frozen=True, gc=False):
    """Every feature of an entity as of a moment, in the order of the plan.

    Attributes:
        values: finished values.
        event_times: of the latest event in each (microseconds), ``None`` without any.
        offsets: the highest log offset of a streamed event in each; ``None``: the row is from the snapshot alone.
        since, until: the row holds for every moment ``since ≤ t < until`` (microseconds).
        oldest: the earliest of the event times where every feature has a value and one, otherwise ``NEVER``.
    """

    values: tuple[MeasureValue, ...]
    event_times: tuple[int | None, ...]
    offsets: tuple[int | None, ...] | None
    since: int
    until: int
    oldest: int = NEVER


def oldest_of(values: Sequence[MeasureValue], times: Sequence[int | None]) -> int:
    """``EntityRow.oldest`` of values and event times."""
    if not times or None in times or None in values:
        return NEVER
    return min(times)  # type: ignore[type-var, return-value]


class StreamedEvent(msgspec.Struct, frozen=True, array_like=True):
    """A measured event of the overlay; ``offset`` is its place in the log."""

    event_time: int
    available_at: int
    seq: str
    measures: tuple[int | float | bool | str | None, ...]
    offset: int


class FeatureValue(msgspec.Struct, frozen=True):
    """One feature as read.

    ``event_time`` is that of the latest event in the value, ``None`` when there is none; ``snapshot`` is ``None`` for a
    value of a dataset's row; ``stream_offset`` is the highest log offset among streamed events in it, ``None`` when it
    comes from the snapshot alone.
    """

    value: MeasureValue
    event_time: datetime | None
    definition_version: str
    snapshot: str | None = None
    stream_offset: int | None = None


class FeatureVector(msgspec.Struct, frozen=True):
    """Features of one entity as read.

    Attributes:
        publication: the number every value comes from; ``None`` when all are read from Feast or from a dataset's row.
        values: ``view.feature`` to value.
        refreshed: view to the moment its snapshot was made as of; streamed views also know later events.
        catalog_away: True when the catalog did not answer, so the leased publication was served.
        facts: facts of each view's snapshot: source, quality, sampling rate, rows.
    """

    publication: int | None
    values: dict[str, FeatureValue]
    refreshed: dict[str, datetime] = {}
    catalog_away: bool = False
    facts: dict[str, SnapshotFacts] = {}
