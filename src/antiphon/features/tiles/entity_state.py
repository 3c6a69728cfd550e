"""State of one entity in a snapshot: tiles, and events in columns."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.tile import Tile


class Block(msgspec.Struct, array_like=True):
    """Measured events of one entity as columns, in the order of (event time, sequence).

    ``offsets`` are places in the event log and only known for streamed events; ``measures`` holds one column each.
    """

    times: list[int]
    available: list[int]
    seqs: list[str]
    measures: list[list[int | float | bool | str | None]]
    offsets: list[int] | None = None
    newest: int = 0
    """Greatest ``available_at``; set by :func:`block_of`."""


class TileRow(msgspec.Struct):
    """A tile of every measure, and when the last of its events became available."""

    available: int
    tiles: list[Tile]


class EntityState:
    """State of one entity in a snapshot.

    Either ``events`` has all of its few events, or ``rows`` holds tiles of them, and ``load`` reads a tile's events
    when a window edge needs them.
    """

    __slots__ = ("_load", "base", "blocks", "events", "rows", "whole")

    def __init__(
        self,
        base: list[Tile] | None,
        rows: dict[int, TileRow],
        load: Callable[[int], Block],
        events: Block | None = None,
    ) -> None:
        self.base = base
        self.events = events
        self.rows = rows
        self.whole: dict[int, Tile] = {}
        """All of ``events`` as a tile, by measure, once one was needed."""
        self.blocks: dict[int, Block] = {}
        """Events of tiles that were read."""
        self._load = load

    def block(self, index: int) -> Block:
        """The events of a tile."""
        found = self.blocks.get(index)
        if found is None:
            found = self.blocks[index] = self._load(index)
        return found


NOTHING = EntityState(None, {}, lambda _index: block_of([], [], [], []))
"""The state of an entity a snapshot has never seen."""


def block_of(
    times: list[int],
    available: list[int],
    seqs: list[str],
    measures: list[list[int | float | bool | str | None]],
    offsets: list[int] | None = None,
) -> Block:
    """A block of events already in the order of (event time, sequence)."""
    return Block(times, available, seqs, measures, offsets, max(available, default=0))


def find_event(block: Block, event_time: int, seq: str) -> int | None:
    """The place of an event; ``None`` when it is not there."""
    at = bisect_left(block.times, event_time)
    while at < len(block.times) and block.times[at] == event_time:
        if block.seqs[at] == seq:
            return at
        at += 1
    return None


def without_event(block: Block, at: int) -> Block:
    """The block but for the event at a place."""

    def cut(column: list[Any]) -> list[Any]:
        return column[:at] + column[at + 1 :]

    return block_of(cut(block.times), cut(block.available), cut(block.seqs), [cut(column) for column in block.measures])


def edge_tiles(plan: ViewPlan, as_of: int) -> set[int]:
    """Tiles that window edges cut as of a moment (microseconds), which are read event by event.

    A remote store fetches them in the round trip of the entity's state. The set may be too large, and a missing tile is
    fetched when it is needed.
    """
    width = plan.tile
    cut = {as_of // width} if (as_of + 1) % width else set()
    for window in {feature.window for feature in plan.features}:
        if window is not None and (as_of - window + 1) % width:
            cut.add((as_of - window + 1) // width)
    return cut


def hidden_tiles(plan: ViewPlan, rows: Mapping[int, TileRow], as_of: int) -> Collection[int]:
    """The entity's tiles inside the widest window that hold events not available yet."""
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
