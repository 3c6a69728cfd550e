"""Effects of a changed definition on the readers of a view.

Invariant: whatever can change a value makes another definition version; what only adds features is compatible, because
every value that was there stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.feature_view import FeatureViewSpec

Level = Literal["same", "cosmetic", "compatible", "breaking"]


class ViewChange(msgspec.Struct, frozen=True):
    """Difference between two definitions of a view.

    Attributes:
        level: ``cosmetic``: no value changes and the version stays; ``compatible``: features are added; ``breaking``:
            one is gone, or means something else.
        sentences: each difference.
    """

    level: Level
    sentences: tuple[str, ...] = ()


def compare(old: FeatureViewSpec, new: FeatureViewSpec) -> ViewChange:
    """The change from one definition of a view to another."""
    breaking = [*_of_rows(old, new), *_of_features(old, new)]
    added = [f"adds {name}" for name in sorted(new.features.keys() - old.features.keys())]
    cosmetic = [
        f"{field} changed"
        for field in ("owner", "description", "refresh", "tags", "quality", "embargo")
        if getattr(old, field) != getattr(new, field)
    ]
    if old.source != new.source and old.source.meaning() == new.source.meaning():
        cosmetic.append("its source is read from another place")
    sentences = (*breaking, *added, *cosmetic)
    if breaking or (old.definition_version != new.definition_version and not added):
        return ViewChange("breaking", sentences or ("its definition version changed",))
    return ViewChange("compatible" if added else "cosmetic" if cosmetic else "same", sentences)


def _of_rows(old: FeatureViewSpec, new: FeatureViewSpec) -> Iterator[str]:
    if old.entity != new.entity:
        yield f"its entity is {', '.join(new.entity.keys)} instead of {', '.join(old.entity.keys)}"
    before, after = (msgspec.structs.asdict(view.source.meaning()) for view in (old, new))
    for field in {**before, **after}:
        if before.get(field) != after.get(field):
            yield f"its source's {field} is another one"
    rules = [view.quality.quarantining if view.quality is not None else () for view in (old, new)]
    if rules[0] != rules[1]:
        yield "its rules leave other rows out"


def _of_features(old: FeatureViewSpec, new: FeatureViewSpec) -> Iterator[str]:
    for name, feature in sorted(old.features.items()):
        after = new.features.get(name)
        if after is None:
            yield f"removes {name}"
        elif after != feature:
            yield f"{name} means something else: {', '.join(_differences(feature, after))}"


def _differences(old: FeatureSpec, new: FeatureSpec) -> Iterator[str]:
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        if field == "window":
            yield f"window {_span(before)} is {_span(after)}"
        elif isinstance(before, (str, int, float)) and isinstance(after, (str, int, float)):
            yield f"{field} {before} is {after}"
        else:
            yield f"another {field}"


def _span(window: int | None) -> str:
    return "of all time" if window is None else f"{window / 3.6e9:g}h"
