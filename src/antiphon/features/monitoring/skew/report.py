"""Counts of equal and different values in a comparison of batch and online."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from antiphon.catalog.features.skew_reports import Difference, FeatureSkew, Path
from antiphon.catalog.features.snapshot_facts import WITHHELD
from antiphon.definitions.sensitivity import Tags
from antiphon.features.values import MeasureValue

EXAMPLES = 3
"""Differences that are shown of each feature."""


def same(one: MeasureValue | tuple[float, ...], other: MeasureValue | tuple[float, ...]) -> bool:
    """Compare two values, floats bit for bit; a number of another type is another value."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def shown_value(value: MeasureValue, tags: Tags) -> MeasureValue:
    """A value as a report keeps it: of a text that is not public its length alone."""
    if isinstance(value, str) and tags.sensitivity != "public":
        return f"{WITHHELD}({len(value)} characters)"
    return value


@dataclass
class ViewCounts:
    """Counts the values of one definition version on one path by feature; keeps the first few differences of each."""

    view: str
    version: str
    path: Path
    features: dict[str, FeatureSkew] = field(default_factory=dict)

    def compared(self, feature: str, difference: Difference | None, basis: str) -> None:
        """One value was compared with one made from ``basis``; ``difference`` is ``None`` when both are the same."""
        known = self._known(feature)
        different = () if difference is None else (difference,)
        self.features[feature] = msgspec.structs.replace(
            known,
            compared=known.compared + 1,
            equal=known.equal + 1 - len(different),
            different=known.different + len(different),
            examples=(*known.examples, *different)[:EXAMPLES],
            judged_by={**known.judged_by, basis: known.judged_by.get(basis, 0) + 1},
        )

    def pass_over(self, features: Iterable[str], reason: str, values: int = 1) -> None:
        """So many values of each of these features could not be compared."""
        for feature in features:
            known = self._known(feature)
            reasons = {**known.not_comparable, reason: known.not_comparable.get(reason, 0) + values}
            self.features[feature] = msgspec.structs.replace(known, not_comparable=reasons)

    def _known(self, feature: str) -> FeatureSkew:
        return self.features.get(feature) or FeatureSkew(self.view, feature, self.version, self.path, 0, 0, 0)


class SkewCounts:
    """Counts of one comparison."""

    def __init__(self) -> None:
        self._views: dict[tuple[str, str, Path], ViewCounts] = {}

    def of(self, view: str, version: str, path: Path) -> ViewCounts:
        """The counts of a definition version on a path."""
        return self._views.setdefault((view, version, path), ViewCounts(view, version, path))

    def features(self) -> tuple[FeatureSkew, ...]:
        """Counts by feature, those with differences first."""
        found = [one for view in self._views.values() for one in view.features.values()]
        return tuple(sorted(found, key=lambda one: (not one.different, one.view, one.path, one.feature)))
