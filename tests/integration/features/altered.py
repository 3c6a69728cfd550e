"""A sealed file with other tiles under a seal that fits: what a broken builder or disk leaves. No row is finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from antiphon.core.codec import Codec
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.snapshot import LmdbSnapshot
from antiphon.features.online.lmdb.writer import LmdbWriter, read_seal
from antiphon.features.online.snapshots.encoding import (
    BASE,
    META,
    block_key,
    encode,
    encode_base,
    encode_tiles,
)
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.entity_state import Block, TileRow, block_of
from antiphon.features.tiles.tile import Tile


def tile_of(block: Block, plan: ViewPlan, measure: int) -> Tile:
    """One measure of a tile, of its events one after the other."""
    tile, column = Tile(), block.measures[measure]
    chosen = [place for place, value in enumerate(column) if value is not None]
    values = [column[place] for place in chosen]
    times, seqs = ([of[place] for place in chosen] for of in (block.times, block.seqs))
    tile.add(values, times, seqs, plan.parts[measure])
    return tile


def alter(
    file: Path, snapshot: str, change: Callable[[Tile], None], latest: int | None = None, codec: Codec | None = None,
    scope: Scope | None = None,
) -> None:  # fmt: skip
    """Change the tiles of every entity, or the latest ones of each alone; what has few events gets tiles for it."""
    opened = LmdbSnapshot(file, snapshot, codec, scope)
    writer = LmdbWriter(file, opened.meta, opened.size, codec, scope)
    nothing = b"" if opened._rows is None else opened._rows.nothing
    for key, value in opened.values():
        if key == META:
            continue
        found = {key: value}
        if len(key) == 16:
            record = value if opened._rows is None else opened._rows.after(value)
            state = opened._decoder.state(record or None, None, lambda index, of=key: opened._block(of, index))  # type: ignore[misc]
            rows = state.rows
            if state.events is not None:
                rows = {}
                for index, block in cut(state.events, opened.plan.tile).items():
                    rows[index] = TileRow(
                        block.newest, [tile_of(block, opened.plan, m) for m in range(len(block.measures))]
                    )
                    found[block_key(key, index)] = encode(block)
            for row in list(rows.values())[0 if latest is None else -latest :]:
                for tile in row.tiles:
                    change(tile)
            found[key] = nothing + encode_tiles(rows)
        elif key[16:] == BASE and latest is None:
            base = opened._decoder.state(None, value, lambda _: block_of([], [], [], [])).base or []
            for tile in base:
                change(tile)
            found[key] = encode_base(base)
        writer.write(list(found), list(found.values()))
    writer.seal(instead_of=read_seal(file))
    opened.close()


def cut(events: Block, width: int) -> dict[int, Block]:
    """Events by tile."""
    places: dict[int, list[int]] = {}
    for place, time in enumerate(events.times):
        places.setdefault(time // width, []).append(place)
    return {
        index: block_of(
            [events.times[place] for place in of],
            [events.available[place] for place in of],
            [events.seqs[place] for place in of],
            [[column[place] for place in of] for column in events.measures],
        )
        for index, of in places.items()
    }
