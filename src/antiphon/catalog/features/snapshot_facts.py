"""Parts of a snapshot's manifest beside its files: its source, the source's quality, and statistics of its values."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.definitions.nodes import Kind

WITHHELD = "withheld "
"""The prefix of pseudonyms in statistics."""


class Statistics(msgspec.Struct, frozen=True):
    """One feature's or column's values.

    Attributes:
        rows: of which ``null_share`` have no value; NaN and infinity count as none, and in ``not_finite``.
        distinct: different values, counted up to 1,000.
        latest_event_time: of the latest event in any value, microseconds.
        edges: of the histogram, ascending; ``counts`` has one bin more: bin i holds ``edges[i-1] < x <= edges[i]``.
        top: of a text or boolean, its most frequent values, and of a text that is not public pseudonyms of them
            (:data:`WITHHELD` and digits); ``other`` counts the rest.
    """

    rows: int = 0
    null_share: float = 1.0
    distinct: int = 0
    latest_event_time: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    not_finite: int = 0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    top: dict[str, int] = {}
    other: int = 0

    @property
    def present(self) -> int:
        """Rows with a value."""
        return sum(self.counts) if self.counts else sum(self.top.values()) + self.other


class SourceQuality(msgspec.Struct, frozen=True):
    """The source's rows as they were read, before anything was left out.

    Attributes:
        rows: rows read. The shares are of rows: with a null in a column that the view reads; known later than
            ``late_after`` after they happened; repeating another row; with a number that is not finite or an instant
            in the future; without usable keys or times.
        score: share of rows with none of these.
        new_rows: rows known only since the snapshot before (all of them for the first); ``new_span_seconds`` since
        then. latest_event_time: microseconds.
        kinds: column to kind, of every column of the source.
        columns: statistics of the columns that the view or a rule reads, over at most 200,000 of the new rows.
        duplicates_estimated: whether duplicates were counted among a sample of row hashes.
    """

    rows: int
    null_share: float
    late_share: float
    duplicate_share: float
    out_of_range_share: float
    rejected_share: float
    future_share: float
    score: float
    new_rows: int
    new_span_seconds: float | None
    latest_event_time: int | None
    kinds: dict[str, str] = {}
    columns: dict[str, Statistics] = {}
    duplicates_estimated: bool = False


class RuleCheck(msgspec.Struct, frozen=True):
    """Result of a rule over rows, found while the source was at hand: ``offenders`` of ``of`` rows; ``seen``: which
    values; ``reasons`` of a
    function; ``error`` when it could not be checked."""

    rule: str
    offenders: int = 0
    of: int = 0
    seen: str = ""
    reasons: tuple[str, ...] = ()
    error: str | None = None


class SourceRead(msgspec.Struct, frozen=True):
    """The part of the source that was read for a snapshot, and what the next one need not read again.

    Attributes:
        rows: read now; the others stand in the events of the snapshot ``taken_over``.
        whole: why all of the source was read; ``None`` when something was taken over.
        files: path and SHA-256 of every file, read now or before.
        kinds: of each measure's column. columns: a hash of the names and types of all columns of the files.
        withheld: rows of files that were not known yet; they have to be read again.
    """

    rows: int = 0
    taken_over: str | None = None
    whole: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    kinds: tuple[Kind, ...] = ()
    columns: str = ""
    withheld: int = 0


class SnapshotCost(msgspec.Struct, frozen=True):
    """Cost of making a snapshot: CPU seconds of the process meanwhile, bytes of the source's files and of ours, and
    which part of the time went into statistics and rules."""

    cpu_seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    quality_seconds: float = 0.0


class SnapshotFacts(msgspec.Struct, frozen=True):
    """Facts about a value's snapshot that a reader has without a query to the catalog.

    ``source_quality`` is the share of source rows without a defect, from 0 to 1; the shares are those of
    :class:`SourceQuality`. ``None``: the snapshot was made before they were kept.
    """

    snapshot: str
    as_of: datetime
    created_at: datetime
    source: str
    source_hash: str
    source_quality: float | None
    null_share: float | None
    late_share: float | None
    duplicate_share: float | None
    sampling_rate: float
    rows_in: int
    rows_out: int
    rows_rejected: int
