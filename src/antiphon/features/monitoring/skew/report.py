"""Counts of equal and different values in a comparison of batch and online."""

from __future__ import annotations

import struct

import msgspec

from antiphon.catalog.skew_reports import Difference, FeatureSkew, Path
from antiphon.catalog.snapshot_facts import WITHHELD
from antiphon.definitions.sensitivity import Tags
from antiphon.features.values import MeasureValue


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


class SkewCounts:
    """Counts values by feature; keeps the first few differences of each."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._found: dict[tuple[str, str, str, Path], FeatureSkew] = {}

    def compared(
        self, view: str, version: str, feature: str, path: Path, difference: Difference | None, basis: str
    ) -> None:
        """One value was compared with one made from ``basis``; ``difference`` is ``None`` when both are the same."""
        known = self._known(view, version, feature, path)
        examples = known.examples
        if difference is not None and len(examples) < self._examples:
            examples = (*examples, difference)
        unequal = int(difference is not None)
        self._put(
            msgspec.structs.replace(
                known,
                compared=known.compared + 1,
                equal=known.equal + 1 - unequal,
                different=known.different + unequal,
                examples=examples,
                judged_by={**known.judged_by, basis: known.judged_by.get(basis, 0) + 1},
            )
        )

    def passed_over(self, view: str, version: str, feature: str, path: Path, reason: str, values: int = 1) -> None:
        """Some values could not be compared."""
        known = self._known(view, version, feature, path)
        reasons = {**known.not_comparable, reason: known.not_comparable.get(reason, 0) + values}
        self._put(msgspec.structs.replace(known, not_comparable=reasons))

    def features(self) -> tuple[FeatureSkew, ...]:
        """Counts by feature, those with differences first."""
        return tuple(sorted(self._found.values(), key=lambda one: (not one.different, one.view, one.path, one.feature)))

    def _known(self, view: str, version: str, feature: str, path: Path) -> FeatureSkew:
        found = self._found.get((view, version, feature, path))
        return found if found is not None else FeatureSkew(view, feature, version, path, 0, 0, 0)

    def _put(self, one: FeatureSkew) -> None:
        self._found[one.view, one.definition_version, one.feature, one.path] = one
