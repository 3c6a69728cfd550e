"""The online reading as a pure function: an entity's snapshot state and later events → values as of a moment.

Window rule: ``t − w < event_time ≤ t AND available_at ≤ t``. A tile is taken whole when it lies inside the window
and everything in it was available at ``t``; window edges, and tiles with something still hidden, are read event by
event.

A row also says until when it holds: the earliest moment at which an event can enter or leave one of its windows. Until
then a reading of the same state without streamed events gives the same row, so it may be kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from antiphon.features.plan import PlannedFeature, ViewPlan, midnight_before
from antiphon.features.tiles.entity_state import Block, EntityState, block_of, find_event, without_event
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import EVER, EntityRow, MeasureValue, StreamedEvent, oldest_of

_WHOLE = -(2**63)
"""Stands for the tile of an entity whose events are not cut into tiles; no tile has this index."""


class ViewEvaluator:
    """Evaluates the features of a view from an entity's state.

    Features declared by ``embed`` are not in a row: ``embedding.vector_reader`` reads its vectors.
    """

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self._features = tuple(feature for feature in plan.features if feature.aggregation != "embed")
        windows: dict[tuple[int | None, bool], list[int]] = {}
        for feature in self._features:
            needed = windows.setdefault((feature.window, feature.fitted), [])
            if feature.measure not in needed:
                needed.append(feature.measure)
        self._windows = [(window, fitted, measures) for (window, fitted), measures in windows.items()]
        groups = {group: number for number, group in enumerate(windows)}
        # Of each feature itself, for an encoding, in which group of measures its tile is, and where in it.
        self._finishes = [
            (
                feature if feature.fitted else None,
                groups[feature.window, feature.fitted],
                windows[feature.window, feature.fitted].index(feature.measure),
                finish_of(feature, plan.measures[feature.measure]),
            )
            for feature in self._features
        ]
        self.encodes = bool(plan.fitted_windows)
        """True when it needs the state of all entities together."""

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of a row."""
        return tuple(feature.name for feature in self._features)

    def row(
        self,
        state: EntityState,
        streamed: Sequence[StreamedEvent],
        as_of: int,
        together: EntityState | None = None,
        known_by: int | None = None,
    ) -> EntityRow:
        """Every feature's value as of a moment (microseconds).

        Args:
            together: of a plan with encodings, all entities together.
            known_by: the snapshot's own moment; encodings are not fitted later than it.
        """
        fitted_at = midnight_before(as_of if known_by is None else min(as_of, known_by))
        patched: dict[int, Block] = {}
        later: Block | None = None
        if streamed:
            later = self._admit(state, streamed, patched)
        until = as_of + 1 if streamed or (self.encodes and (known_by is None or as_of < known_by)) else EVER
        merged: list[tuple[list[Tile], list[int | None] | None]] = []
        for window, fitted, measures in self._windows:
            moment = fitted_at if fitted else as_of
            tiles, holds = self._from_snapshot(state, patched, window, measures, moment, later is None)
            if not fitted and holds < until:
                until = holds
            start = None if window is None else moment - window + 1
            merged.append((tiles, None if later is None else self._add(later, start, moment, measures, tiles)))
        values: list[MeasureValue] = []
        times: list[int | None] = []
        offsets: list[int | None] = []
        for encoding, group, place, finish in self._finishes:
            of_group, last = merged[group]
            tile = of_group[place]
            every = tile if encoding is None else self._together(together, encoding, fitted_at)
            values.append(finish(tile, every))
            times.append(every.latest)
            if later is not None:
                offsets.append(None if last is None else last[place])
        known_offsets = None if later is None else tuple(offsets)
        return EntityRow(tuple(values), tuple(times), known_offsets, as_of, until, oldest_of(values, times))

    def _together(self, together: EntityState | None, feature: PlannedFeature, fitted_at: int) -> Tile:
        index = self.plan.fitted_index(feature.window, fitted_at)
        row = together.rows.get(index) if together is not None else None
        return Tile() if row is None else row.tiles[feature.measure]

    def _from_snapshot(
        self,
        state: EntityState,
        patched: Mapping[int, Block],
        window: int | None,
        measures: list[int],
        as_of: int,
        shared: bool,
    ) -> tuple[list[Tile], int]:
        """The window's tile of each measure, and until when it is that. ``shared``: nothing will be added to the tiles,
        so one that is whole by itself need not be copied."""
        rows, width = state.rows, self.plan.tile
        start = None if window is None else as_of - window + 1
        if state.events is not None:
            return self._from_few(state, patched.get(_WHOLE, state.events), window, measures, as_of, shared)
        if not rows:
            if window is None and state.base is not None and shared:
                return [state.base[measure] for measure in measures], EVER
        elif start is None or (as_of - start) // width > len(rows):
            indexes = [tile for tile in rows if tile * width <= as_of and (start is None or (tile + 1) * width > start)]
        else:
            indexes = [tile for tile in range(start // width, as_of // width + 1) if tile in rows]
        tiles = [Tile() for _ in measures]
        if window is None and state.base is not None:
            for index, measure in enumerate(measures):
                tiles[index].merge(state.base[measure])
        if not rows:
            return tiles, EVER
        until = min((tile * width for tile in rows if tile * width > as_of), default=EVER)
        for tile in indexes:
            row = rows[tile]
            inside = (start is None or start <= tile * width) and (tile + 1) * width - 1 <= as_of
            if inside and row.available <= as_of and tile not in patched:
                for index, measure in enumerate(measures):
                    tiles[index].merge(row.tiles[measure])
                changes = EVER if window is None else tile * width + window
            else:
                block = patched.get(tile) or state.block(tile)
                self._add(block, start, as_of, measures, tiles)
                changes = _changes(block, start, as_of)
            until = min(until, changes)
        return tiles, until

    def _from_few(
        self, state: EntityState, events: Block, window: int | None, measures: list[int], as_of: int, shared: bool
    ) -> tuple[list[Tile], int]:
        """The same from all events of an entity: as one tile, when that lies inside and nothing of it is hidden."""
        start = None if window is None else as_of - window + 1
        base = state.base if window is None else None
        until = _changes(events, start, as_of)
        tiles = [Tile() for _ in measures]
        untouched = events is state.events and events.newest <= as_of
        if untouched and events.times[-1] <= as_of and (start is None or events.times[0] >= start):
            wholes = [self._whole(state, events, as_of, measure) for measure in measures]
            if base is None and shared:
                return wholes, until
            for tile, whole in zip(tiles, wholes, strict=True):
                tile.merge(whole)
        else:
            self._add(events, start, as_of, measures, tiles)
        if base is not None:
            for tile, measure in zip(tiles, measures, strict=True):
                tile.merge(base[measure])
        return tiles, until

    def _whole(self, state: EntityState, events: Block, as_of: int, measure: int) -> Tile:
        if measure not in state.whole:
            whole = Tile()
            self._add(events, None, as_of, [measure], [whole])
            state.whole[measure] = whole  # Only now: another thread may be reading too.
        return state.whole[measure]

    def _add(
        self, block: Block, start: int | None, as_of: int, measures: list[int], tiles: list[Tile]
    ) -> list[int | None]:
        """Add a block's visible events with ``start ≤ event_time ≤ as_of``; the highest log offset per measure."""
        first = 0 if start is None else bisect_left(block.times, start)
        end = bisect_right(block.times, as_of)
        offsets: list[int | None] = [None] * len(measures)
        if first >= end:
            return offsets
        times, seqs = block.times[first:end], block.seqs[first:end]
        available = block.available[first:end]
        hidden = block.newest > as_of
        for index, measure in enumerate(measures):
            column = block.measures[measure][first:end]
            if hidden:
                chosen = [n for n, value in enumerate(column) if value is not None and available[n] <= as_of]
            else:
                chosen = [n for n, value in enumerate(column) if value is not None]
            if not chosen:
                continue
            if len(chosen) == len(column):
                tiles[index].add(column, times, seqs, self.plan.parts[measure])
            else:
                tiles[index].add(
                    [column[n] for n in chosen],
                    [times[n] for n in chosen],
                    [seqs[n] for n in chosen],
                    self.plan.parts[measure],
                )
            if block.offsets is not None:
                offsets[index] = max(block.offsets[first + n] for n in chosen)
        return offsets

    def _admit(self, state: EntityState, streamed: Sequence[StreamedEvent], patched: dict[int, Block]) -> Block | None:
        """Streamed events without those the snapshot has; where both have one, the one available earliest counts.

        A snapshot's event that loses is taken out of a copy of its tile's block, left in ``patched``.
        """
        width = self.plan.tile
        kept: dict[tuple[int, str], StreamedEvent] = {}
        for event in streamed:
            index = event.event_time // width if state.events is None else _WHOLE
            if state.events is not None or index in state.rows:
                block = patched.get(index) or state.events or state.block(index)
                at = find_event(block, event.event_time, event.seq)
                if at is not None:
                    if block.available[at] <= event.available_at:
                        continue
                    patched[index] = without_event(block, at)
            known = kept.get((event.event_time, event.seq))
            if known is None or event.available_at < known.available_at:
                kept[event.event_time, event.seq] = event
        if not kept:
            return None
        ordered = [kept[place] for place in sorted(kept)]
        return block_of(
            [event.event_time for event in ordered],
            [event.available_at for event in ordered],
            [event.seq for event in ordered],
            [[event.measures[m] for event in ordered] for m in range(len(self.plan.measures))],
            [event.offset for event in ordered],
        )


def _changes(block: Block, start: int | None, as_of: int) -> int:
    """The first moment after ``as_of`` at which one of a block's events enters a window or leaves it."""
    end = bisect_right(block.times, as_of)
    first = 0 if start is None else bisect_left(block.times, start)
    until = block.times[end] if end < len(block.times) else EVER
    if start is not None and first < end:
        until = min(until, block.times[first] + (as_of - start + 1))
    if block.newest > as_of:
        until = min([until, *(moment for moment in block.available[first:end] if moment > as_of)])
    return until
