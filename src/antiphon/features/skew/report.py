"""What a comparison of batch and online found: values to be shown, stored or sent, and how they are counted."""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.features.expressions.compile_python import MeasureValue

Path = Literal["online", "served"]
"""``online``: read now for a sample of entities. ``served``: what predictions used, at their moments."""

Basis = Literal["source", "files", "lake"]
"""What batch was computed from: the source, which is what the snapshot read; the files that it was made from, which lie
there unchanged among others; or the events and tiles that the snapshot keeps in the lake."""


class Difference(msgspec.Struct, frozen=True):
    """One value that the two paths do not agree on.

    Attributes:
        entity: the entity's keys; ``None`` for whoever may not see them.
        online: the value that was read or served, with the time of its latest event; ``batch``: the one computed now.
        through: last log offset that was known, of a stream.
        prediction: which one used it.
    """

    entity: dict[str, str] | None
    as_of: datetime
    online: MeasureValue
    batch: MeasureValue
    online_event_time: datetime | None
    batch_event_time: datetime | None
    snapshot: str | None
    through: int | None = None
    prediction: str | None = None


class FeatureSkew(msgspec.Struct, frozen=True):
    """One feature on one path: ``equal`` and ``different`` of those ``compared``, a few examples of the different, how
    many could not be compared, by reason, and how many were ``judged_by`` what: a :data:`Basis`, the ``request``, or
    the source as it is ``now``, to which a value may be equal all the same."""

    view: str
    feature: str
    definition_version: str
    path: Path
    compared: int
    equal: int
    different: int
    examples: tuple[Difference, ...] = ()
    not_comparable: dict[str, int] = {}
    judged_by: dict[str, int] = {}


class SkewReport(msgspec.Struct, frozen=True):
    """A whole comparison.

    Attributes:
        publication: what was current; ``None`` when nothing is published.
        as_of: the moment of the online readings.
        sample: entities asked for of each view, predictions asked for.
        predictions: how many were looked at.
        complete: whether it ended before its time was over; what was left out is counted as not comparable.
    """

    publication: int | None
    as_of: datetime
    sample: int
    predictions: int
    seconds: float
    complete: bool
    compared: int
    different: int
    features: tuple[FeatureSkew, ...]

    def without_entities(self) -> SkewReport:
        """The same without entity keys and predictions, which lead to them."""
        return msgspec.structs.replace(
            self,
            features=tuple(
                msgspec.structs.replace(
                    feature,
                    examples=tuple(
                        msgspec.structs.replace(example, entity=None, prediction=None) for example in feature.examples
                    ),
                )
                for feature in self.features
            ),
        )


def same(one: MeasureValue, other: MeasureValue) -> bool:
    """Whether two values are the same, floats bit for bit; a number of another type is another value."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    return type(one) is type(other) and one == other


class Tally:
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
        """What was found, the different first."""
        return tuple(sorted(self._found.values(), key=lambda one: (not one.different, one.view, one.path, one.feature)))

    def _known(self, view: str, version: str, feature: str, path: Path) -> FeatureSkew:
        found = self._found.get((view, version, feature, path))
        return found if found is not None else FeatureSkew(view, feature, version, path, 0, 0, 0)

    def _put(self, one: FeatureSkew) -> None:
        self._found[one.view, one.definition_version, one.feature, one.path] = one
