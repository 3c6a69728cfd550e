"""The rule of freshness contracts, for one value, for a row and for a column.

Answers, lookups, vectors, substitutes for stale values, training sets and datasets all call it, so that a value which a
contract withholds online is withheld in training too. A value violates its contract when its latest event is older than
``max_age``, or when the quality of its snapshot's source is below ``min_source_quality`` or unknown. A value that
belongs to no snapshot (of a point-in-time join) has no source quality to check unless a snapshot was current then.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from antiphon.core.clock import microseconds, parse_duration
from antiphon.definitions.application import Freshness

if TYPE_CHECKING:
    import pyarrow

ContractOutcome = Literal["fresh", "absent", "flagged", "defaulted", "rejected"]
"""Result of checking one value; a value is withheld as ``defaulted`` or ``rejected``."""

_OUTCOMES: dict[str, ContractOutcome] = {"flag": "flagged", "default": "defaulted", "reject": "rejected"}
_NO_AGE_LIMIT = 2**62


class FreshnessRule(msgspec.Struct, frozen=True):
    """A freshness contract in numbers.

    Attributes:
        max_age: of the latest event in a value (microseconds).
        min_source_quality: share of the snapshot's source rows that must be without a defect.
        substitutes: whether the contract asks for another value in place of a violating one.
        violation: outcome of a violating value without a substitute.
    """

    max_age: int = _NO_AGE_LIMIT
    min_source_quality: float = 0.0
    substitutes: bool = False
    violation: ContractOutcome = "fresh"

    @property
    def withholds(self) -> bool:
        """True when a violating value without a substitute is replaced by null."""
        return self.violation in ("defaulted", "rejected")

    def accepts_source(self, quality: float | None) -> bool:
        """Tell whether the source of a snapshot is good enough; an unknown quality is not."""
        return self.min_source_quality <= 0 or (quality is not None and quality >= self.min_source_quality)

    def oldest(self, as_of: int) -> int:
        """Earliest event time (microseconds) that is young enough at a moment."""
        return as_of - self.max_age

    def accepts_age(self, event_time: int | None, as_of: int) -> bool:
        """Tell whether a value with its latest event at ``event_time`` is young enough; without events it is."""
        return event_time is None or event_time >= as_of - self.max_age

    def outcome(
        self, value: object, event_time: int | None, as_of: int, source_accepted: bool = True
    ) -> ContractOutcome:
        """Check one value at a moment (microseconds)."""
        if value is None:
            return "absent"
        if source_accepted and (event_time is None or event_time >= as_of - self.max_age):
            return "fresh"
        return self.violation


@lru_cache(maxsize=4_096)
def rule_of(contract: Freshness | None) -> FreshnessRule:
    """The rule of a contract; without one every value is fresh."""
    if contract is None:
        return FreshnessRule()
    return FreshnessRule(
        max_age=int(parse_duration(contract.max_age).total_seconds() * 1e6),
        min_source_quality=contract.min_source_quality,
        substitutes=contract.when_stale in ("previous", "recompute"),
        violation=_OUTCOMES[contract.withheld],
    )


class SnapshotQuality(msgspec.Struct, frozen=True):
    """Source quality of one snapshot, from the moment that it was made as of."""

    as_of: datetime
    quality: float | None


def withheld_column(
    rule: FreshnessRule,
    column: pyarrow.ChunkedArray,
    event_times: pyarrow.ChunkedArray,
    moments: pyarrow.ChunkedArray,
    qualities: Sequence[SnapshotQuality] = (),
) -> pyarrow.ChunkedArray:
    """A feature's column with nulls where the rule withholds the value at the row's moment.

    Args:
        event_times, moments: of each row, UTC to the microsecond.
        qualities: of the view's snapshots; a row's snapshot is the newest that was made as of its moment or before.
            Rows before the first snapshot have no source quality to check.
    """
    import pyarrow
    import pyarrow.compute as compute

    if not rule.withholds:
        return column
    allowed = pyarrow.scalar(min(rule.max_age, _NO_AGE_LIMIT // 2), pyarrow.duration("us"))
    violating: Any = compute.fill_null(compute.less(event_times, compute.subtract(moments, allowed)), False)
    if rule.min_source_quality > 0 and qualities:
        poor = pyarrow.array(_poor_sources(rule, moments, qualities))
        violating = compute.or_(violating, pyarrow.chunked_array([poor]))
    return compute.if_else(violating, pyarrow.scalar(None, column.type), column)


def _poor_sources(rule: FreshnessRule, moments: pyarrow.ChunkedArray, qualities: Sequence[SnapshotQuality]) -> Any:
    import numpy as np

    ordered = sorted(qualities, key=lambda one: one.as_of)
    starts = np.array([microseconds(one.as_of) for one in ordered], dtype=np.int64)
    poor = np.array([False, *(not rule.accepts_source(one.quality) for one in ordered)])
    rows = moments.cast("int64").to_numpy()
    return poor[np.searchsorted(starts, rows, side="right")]
