"""Tiles: what is kept of a stretch of events, and how two are added.

Invariant: merging is exact and order does not matter. Sums are Python integers of any size, extremes and first and last
are picked by total orders, sketches are functions of the values alone, so a window cut into tiles in any way gives the
same tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from antiphon.features.tiles.sketches import KEPT, bucket, kept
from antiphon.features.values import MeasureValue

Placed = tuple[int, str, MeasureValue]
"""An event time, the sequence that orders events of that instant, and the measure's value."""


class Tile:
    """Count, Σx, Σx², extremes, first, last, latest event time and sketches of one measure's values.

    Nulls are not in it. ``total``, ``squares`` and ``buckets`` (bucket to count) are only meaningful for fixed-point
    measures, ``hashes`` for hashed ones; it may hold more than are kept, never fewer. Sketches no feature needs are
    ``None``.
    """

    __slots__ = ("buckets", "count", "first", "hashes", "high", "last", "latest", "low", "squares", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.squares = 0
        self.low: Any = None
        self.high: Any = None
        self.first: Placed | None = None
        self.last: Placed | None = None
        self.latest: int | None = None
        self.hashes: set[int] | None = None
        self.buckets: dict[int, int] | None = None

    @property
    def least_hashes(self) -> list[int]:
        """The state of the sketch of distinct values."""
        return kept(self.hashes or ())

    def merge(self, other: Tile) -> None:
        """Add another tile of the same measure to this one."""
        if not other.count:
            return
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        if other.low is not None and (self.low is None or other.low < self.low):
            self.low = other.low
        if other.high is not None and (self.high is None or other.high > self.high):
            self.high = other.high
        if other.first is not None and (self.first is None or other.first[:2] < self.first[:2]):
            self.first = other.first
        if other.last is not None and (self.last is None or other.last[:2] > self.last[:2]):
            self.last = other.last
        if other.latest is not None and (self.latest is None or other.latest > self.latest):
            self.latest = other.latest
        if other.hashes is not None:
            self.hashes = other.hashes | (self.hashes or set())
            if len(self.hashes) > 4 * KEPT:
                self.hashes = set(kept(self.hashes))
        if other.buckets is not None:
            if self.buckets is None:
                self.buckets = dict(other.buckets)
            else:
                for number, count in other.buckets.items():
                    self.buckets[number] = self.buckets.get(number, 0) + count

    def add(self, values: Sequence[MeasureValue], times: Sequence[int], seqs: Sequence[str], parts: Any) -> None:
        """Add events, given as columns in the order of (time, seq); nulls must be left out."""
        if not values:
            return
        # An empty tile needs no other one that is added to it.
        other = Tile() if self.count else self
        other.count = len(values)
        numbers: Any = values
        if "total" in parts:
            other.total = sum(numbers)
        if "squares" in parts:
            other.squares = sum(value * value for value in numbers)
        if "low" in parts:
            other.low = min(numbers)
        if "high" in parts:
            other.high = max(numbers)
        if "first" in parts:
            other.first = (times[0], seqs[0], values[0])
        if "last" in parts:
            other.last = (times[-1], seqs[-1], values[-1])
        if "distinct" in parts:
            other.hashes = set(kept(numbers))
        if "buckets" in parts:
            other.buckets = Counter(bucket(value) for value in numbers)
        other.latest = times[-1]
        if other is not self:
            self.merge(other)


def pack(tile: Tile) -> list[Any]:
    """A tile as a short list for storage; integers beyond 64 bits become decimal text. Sketches stand at the end, when
    there are any."""
    sketches = [
        None if tile.hashes is None else tile.least_hashes,
        None if tile.buckets is None else [list(pair) for pair in zip(*sorted(tile.buckets.items()), strict=True)],
    ]
    return [
        tile.count,
        _narrow(tile.total),
        _narrow(tile.squares),
        tile.low,
        tile.high,
        tile.first,
        tile.last,
        tile.latest,
        *(sketches if sketches != [None, None] else ()),
    ]


def unpack(stored: Sequence[Any]) -> Tile:
    """The inverse of :func:`pack`."""
    count, total, squares, low, high, first, last, latest, *sketches = stored
    tile = Tile.__new__(Tile)  # Every slot is filled here.
    tile.count = count
    tile.total = total if total.__class__ is int else int(total)
    tile.squares = squares if squares.__class__ is int else int(squares)
    tile.low = low
    tile.high = high
    tile.first = None if first is None else (first[0], first[1], first[2])
    tile.last = None if last is None else (last[0], last[1], last[2])
    tile.latest = latest
    tile.hashes = tile.buckets = None
    if sketches:
        tile.hashes = None if stored[8] is None else set(stored[8])
        tile.buckets = None if stored[9] is None else dict(zip(*stored[9], strict=True))
    return tile


def _narrow(value: int) -> int | str:
    return value if -(2**63) <= value < 2**63 else str(value)
