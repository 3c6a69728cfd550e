"""The plan of a view: which measures its events are reduced to, and how each feature reads them.

Several features share a measure when they aggregate the same expression under the same condition and scale, so an
event is evaluated once however many windows look at it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import msgspec

from antiphon.definitions.feature import COUNTING, FITTED, SUMMED, Aggregation, FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Expression
from antiphon.definitions.quality import admitted

HOUR = 3_600_000_000
DAY = 24 * HOUR

SLACK = 7 * DAY
"""Time before its ``as_of`` for which a snapshot still answers exactly, in microseconds."""

_EVER = -(2**62)
"""Microseconds before every event."""
_DAYS = 10_000_000
"""More than there are tiles of any width, so that no index of an encoding is that of a tile."""

LIMIT = 2**47
"""Greatest magnitude of a fixed-point value: 2³² squares of it still add up inside 127 bits."""

Part = Literal["total", "squares", "low", "high", "first", "last", "distinct", "buckets"]
_PARTS: dict[Aggregation, tuple[Part, ...]] = {
    "count": (),
    "sum": ("total",),
    "mean": ("total",),
    "std": ("total", "squares"),
    "min": ("low",),
    "max": ("high",),
    "last": ("last",),
    "embed": ("last",),
    "first": ("first",),
    "distinct": ("distinct",),
    "quantile": ("buckets",),
    "frequency": (),
    "target": ("total",),
}


class ViewMeasure(msgspec.Struct, frozen=True):
    """The contribution of an event: a fixed-point integer, the plain value, its hash, or a one to count; else null.

    ``scale`` is the step of one unit as an exact fraction (numerator, denominator) when ``mode`` is ``fixed``.
    """

    mode: Literal["count", "fixed", "plain", "hashed"]
    expression: Expression | None
    where: Expression | None
    scale: tuple[int, int]


class PlannedFeature(msgspec.Struct, frozen=True):
    """A feature as an aggregate of one measure over one window (microseconds; ``None``: all time).

    ``share`` is the q of a quantile, ``smoothing`` that of a target encoding, as exact fractions.
    """

    name: str
    aggregation: Aggregation
    measure: int
    window: int | None
    share: tuple[int, int] = (0, 1)
    smoothing: tuple[int, int] = (0, 1)

    @property
    def fitted(self) -> bool:
        """True for an encoding: it is read at the last midnight and compares with all entities together."""
        return self.aggregation in FITTED


class ViewPlan(msgspec.Struct, frozen=True):
    """The computation of a view's values from its events.

    Attributes:
        measures: the values kept of each event.
        parts: for each measure, the parts of a tile that some feature needs, beside the count.
        tile: width of a tile in microseconds.
        longest: the longest bounded window; 0 when there is none.
        unbounded: True when a feature looks at all time.
    """

    spec: FeatureViewSpec
    measures: tuple[ViewMeasure, ...]
    parts: tuple[frozenset[Part], ...]
    features: tuple[PlannedFeature, ...]
    tile: int
    longest: int
    unbounded: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """The entity's key columns."""
        return self.spec.entity.keys

    @property
    def key_columns(self) -> list[str]:
        """Columns of the keys in measured rows: k0, k1 …"""
        return [f"k{index}" for index in range(len(self.keys))]

    @property
    def measure_columns(self) -> list[str]:
        """Columns of the measures in measured rows: m0, m1 …"""
        return [f"m{index}" for index in range(len(self.measures))]

    def retained_from(self, as_of: int) -> int:
        """First instant (of the tile grid) whose raw events a snapshot as of ``as_of`` keeps.

        All events are kept when a feature looks at all time and the log may repeat an event of the history: only a kept
        event is recognized. The log itself never repeats an event.
        """
        source = self.spec.source
        if self.unbounded and source.kind == "stream" and source.path is not None and source.event_id is not None:
            return _EVER // self.tile * self.tile
        return (as_of - self.slack - self.longest) // self.tile * self.tile

    @property
    def fitted_windows(self) -> tuple[int | None, ...]:
        """Windows of encodings, in the order of their features."""
        return tuple(dict.fromkeys(feature.window for feature in self.features if feature.fitted))

    @property
    def slack(self) -> int:
        """Time before its ``as_of`` for which a snapshot answers; encodings go back to a midnight."""
        return SLACK + DAY if self.fitted_windows else SLACK

    def fitted_index(self, window: int | None, fitted_at: int) -> int:
        """Index of the tile of all entities together, for a window that ends at a midnight."""
        return (self.fitted_windows.index(window) + 1) * _DAYS + fitted_at // DAY


def midnight_before(moment: int) -> int:
    """The last midnight (UTC) before a moment; of a midnight the one before, so that nothing of the moment is in it."""
    return (moment - 1) // DAY * DAY


def plan_of(spec: FeatureViewSpec) -> ViewPlan:
    """The plan of a view.

    Measures are numbered in the order of the features' names: a definition that is read back from the catalog may
    list its features in another order, and stored tiles and streamed events know a measure by its number alone.
    """
    measures: dict[bytes, int] = {}
    kept: list[ViewMeasure] = []
    parts: list[set[Part]] = []
    features: list[PlannedFeature] = []
    for name, feature in sorted(spec.features.items()):
        measure = _measure(feature)
        index = measures.setdefault(msgspec.json.encode(measure), len(kept))
        if index == len(kept):
            kept.append(measure)
            parts.append(set())
        parts[index].update(_PARTS[feature.aggregation])
        share, smoothing = (Fraction(text or "0").as_integer_ratio() for text in (feature.q, feature.smoothing))
        features.append(PlannedFeature(name, feature.aggregation, index, feature.window, share, smoothing))
    windows = [feature.window for feature in features if feature.window is not None]
    longest = max(windows, default=0)
    return ViewPlan(
        spec=msgspec.structs.replace(spec, source=admitted(spec.source, spec.quality)),
        measures=tuple(kept),
        parts=tuple(frozenset(part) for part in parts),
        features=tuple(features),
        tile=HOUR if longest and longest <= 2 * DAY else DAY,
        longest=longest,
        unbounded=len(windows) < len(features),
    )


def _measure(feature: FeatureSpec) -> ViewMeasure:
    if feature.aggregation in COUNTING:
        return ViewMeasure("count", None, feature.where, (1, 1))
    if feature.aggregation == "distinct":
        return ViewMeasure("hashed", feature.expression, feature.where, (1, 1))
    if feature.scale is None and feature.aggregation not in SUMMED:
        return ViewMeasure("plain", feature.expression, feature.where, (1, 1))
    return ViewMeasure("fixed", feature.expression, feature.where, Fraction(feature.scale or "1").as_integer_ratio())
