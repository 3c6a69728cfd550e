"""Entities with many events: written by columns they are, byte for byte, what one event after the other gives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon import Entity, Source, col, count, distinct, feature_view, first, last, mean, quantile, std
from antiphon import max as greatest
from antiphon import min as least
from antiphon.features.expressions.compile_python import SEQUENCE_DIGITS
from antiphon.features.online.snapshots.encoding import block_key, encode, encode_tiles
from antiphon.features.online.snapshots.tiled import tiled_records
from antiphon.features.plan import ViewPlan, plan_of
from antiphon.features.tiles.entity_state import Block, TileRow, block_of
from antiphon.features.tiles.row_batches import RowBatch
from antiphon.features.tiles.sketches import KEPT
from antiphon.features.tiles.tile import Tile

HOUR = 3_600_000_000


def plan() -> ViewPlan:
    source = Source.table("sales", path="x.parquet", event_time="at")

    @feature_view(entity=Entity("shop", ["shop"]), source=source)
    class Sales:
        sales = count(window="1h")
        some = count(where=col.amount > 1, window="2h")
        spread = std(col.amount, window="2h", scale="0.01")
        middle = quantile(col.amount, q=0.5, window="2h", scale="0.01")
        low, high = least(col.price, window="2h"), greatest(col.price, window="2h")
        words = distinct(col.note, window="2h")
        first_note, last_note = first(col.note, window="2h"), last(col.note, window="2h")
        opened, closed = first(col.open, window="2h"), last(col.open, window="2h")
        mean_2h = mean(col.price, window="2h", scale="0.1")

    return plan_of(Sales.spec())


PLAN = plan()


def one_by_one(rows: pa.RecordBatch, hashed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of one entity as they are defined: tiles of ``Tile.add``, and everything packed value by value."""
    index = [time // PLAN.tile for time in rows.column(1).to_pylist()]
    cuts = [0, *(at + 1 for at, (one, other) in enumerate(pairwise(index)) if one != other), len(index)]
    times, available, seqs, *measures = (rows.column(place).to_pylist() for place in range(1, rows.num_columns))
    tiles: dict[int, TileRow] = {}
    for start, end in pairwise(cuts):
        block = block_of(
            times[start:end], available[start:end], seqs[start:end], [column[start:end] for column in measures]
        )
        tiles[index[start]] = TileRow(block.newest, [tile_of(block, measure) for measure in range(len(measures))])
        yield block_key(hashed, index[start]), encode(block)
    yield hashed, encode_tiles(tiles)


def tile_of(block: Block, measure: int) -> Tile:
    tile, column = Tile(), block.measures[measure]
    chosen = [place for place, value in enumerate(column) if value is not None]
    places: list[list[Any]] = [[of[place] for place in chosen] for of in (column, block.times, block.seqs)]
    tile.add(*places, PLAN.parts[measure])
    return tile


NUMBERS = st.one_of(
    st.integers(-(2**47), 2**47), st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, -1, -32, -33])
)
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 1.5]), st.floats(allow_nan=False, allow_infinity=False, width=32))
TEXTS = st.one_of(st.sampled_from(["", "a", "b" * 31, "c" * 32]), st.text(max_size=4))


def values(index: int) -> st.SearchStrategy[Any]:
    """Of one measure: what its column holds."""
    measure, parts = PLAN.measures[index], PLAN.parts[index]
    if measure.mode == "count":
        return st.just(1)
    if "distinct" in parts:
        return st.integers(0, 2**63 - 1)
    if measure.mode != "plain":
        return NUMBERS
    return {"note": TEXTS, "open": st.booleans()}.get(named(index), FLOATS)


def named(index: int) -> str:
    return str(getattr(PLAN.measures[index].expression, "name", ""))


KINDS: dict[str, Any] = {"note": pa.string(), "open": pa.bool_()}


def kind(index: int) -> Any:
    measure = PLAN.measures[index]
    return pa.int64() if measure.mode != "plain" else KINDS.get(named(index), pa.float64())


EVENT = st.tuples(
    st.integers(-3 * HOUR, 3 * HOUR),
    st.integers(0, HOUR),
    st.tuples(*(st.one_of(st.none(), values(index)) for index in range(len(PLAN.measures)))),
)
Event = tuple[int, int, tuple[Any, ...]]


def batch_of(entities: list[list[Event]]) -> pa.RecordBatch:
    rows = [
        (f"shop {number:03}", time, time + late, f"{place:0{SEQUENCE_DIGITS}x}", *measures)
        for number, events in enumerate(entities)
        for place, (time, late, measures) in enumerate(sorted(events, key=lambda one: one[0]))
    ]
    kinds = [pa.string(), pa.int64(), pa.int64(), pa.string(), *map(kind, range(len(PLAN.measures)))]
    names = ["k0", "event_time", "available_at", "seq", *(f"m{index}" for index in range(len(PLAN.measures)))]
    columns = [pa.array(list(column), of) for column, of in zip(zip(*rows, strict=True), kinds, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names)


def require_same(rows: pa.RecordBatch) -> None:
    batch = RowBatch(rows, PLAN)
    hashes = [number.to_bytes(16, "big") for number in range(batch.entities)]
    wanted = [
        record
        for hashed, (start, end) in zip(hashes, pairwise(batch.starts.tolist()), strict=True)
        for record in one_by_one(rows.slice(start, end - start), hashed)
    ]
    assert list(tiled_records(batch, PLAN, hashes)) == wanted


ZEROS = [(n, 0, tuple({"m": 1}.get(kind(i)) for i in range(len(PLAN.measures)))) for n in range(3)]


@given(st.lists(st.lists(EVENT, min_size=1, max_size=12), min_size=1, max_size=4))
@example([ZEROS])
@settings(max_examples=60)
def test_records_by_columns_are_those_of_one_event_after_the_other(entities: list[list[Event]]) -> None:
    require_same(batch_of(entities))


def test_sums_beyond_64_bits_and_more_values_than_a_sketch_keeps() -> None:
    def event(number: int) -> Event:
        sign = -1 if number % 3 else 1
        found = [
            1 if PLAN.measures[index].mode == "count"
            else number * 2**40 if "distinct" in PLAN.parts[index]
            else sign * (2**47 - number) if PLAN.measures[index].mode != "plain"
            else {"note": f"note {number % 50}", "open": number % 2 == 0}.get(named(index), -0.0 if number % 2 else 0.0)
            for index in range(len(PLAN.measures))
        ]  # fmt: skip
        return number, number % 7, tuple(found)

    require_same(batch_of([[event(number) for number in range(3 * KEPT)], [event(5)]]))
