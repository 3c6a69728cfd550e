"""Which tiles a reading takes event by event, told before it: a store far away fetches them in the same round trip.

It may name too many and, where a feature is read in a new way, too few; whatever is missing is read when it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.entity_state import TileRow


def edge_tiles(plan: ViewPlan, as_of: int) -> set[int]:
    """The tiles that a window's edges cut as of a moment (microseconds); nothing of the entity has to be known."""
    width = plan.tile
    cut = {as_of // width} if (as_of + 1) % width else set()
    for window in {feature.window for feature in plan.features}:
        if window is not None and (as_of - window + 1) % width:
            cut.add((as_of - window + 1) // width)
    return cut


def hidden_tiles(plan: ViewPlan, rows: Mapping[int, TileRow], as_of: int) -> Collection[int]:
    """The entity's tiles inside the widest window that hold something not available yet."""
    windows = [feature.window for feature in plan.features]
    first: int | None = None
    if None not in windows:
        first = (as_of - max(window for window in windows if window is not None) + 1) // plan.tile
    last = as_of // plan.tile
    return [
        index
        for index, row in rows.items()
        if row.available > as_of and index <= last and (first is None or index >= first)
    ]
