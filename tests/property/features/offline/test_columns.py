"""Columns of many entities are bit for bit what the functions over single values make of each: aggregates, finishing,
and the records of the online store."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon import Entity, Source, col, count, distinct, feature_view, first, last, max, mean, min, quantile, std, sum
from antiphon.features.online.snapshots.encoding import FEW, RecordDecoder, base_layout
from antiphon.features.online.snapshots.packing import base_records, event_records
from antiphon.features.plan import LIMIT, ViewPlan, plan_of
from antiphon.features.tiles.aggregate_columns import Aggregates
from antiphon.features.tiles.entity_state import block_of
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.finish_aggregates import finished
from antiphon.features.tiles.row_batches import RowBatch, whole_entities
from antiphon.features.tiles.tile import Tile, pack
from antiphon.features.tiles.tile_files import base_tiles, tile_schema, tiles_in

stop = Entity("stop", ["stop"])
source = Source.table("passes", path="passes.parquet", event_time="due")


@feature_view(entity=stop, source=source)
class Numbers:
    events = count(window=None)
    total = sum(col.x, window=None, scale="0.01")
    average = mean(col.x, window=None, scale="0.01")
    spread = std(col.x, window=None, scale="0.01")
    third = std(col.x, window=None, scale="0.3")
    low = min(col.x, window=None, scale="0.01")
    high = max(col.y, window=None)
    newest = last(col.y)
    oldest = first(col.x, window=None, scale="0.01")
    flag = last(col.flag)


@feature_view(entity=stop, source=source)
class Sketched:
    names = distinct(col.name, window=None)
    name = last(col.name)
    lowest = min(col.name, window=None)
    earliest = first(col.name, window=None)
    median = quantile(col.x, q="0.5", window=None, scale="0.01")
    tenth = quantile(col.x, q="0.1", window=None, scale="0.01")
    greatest = quantile(col.x, q=1, window=None, scale="0.01")


fixed = st.one_of(
    st.none(),
    st.integers(-LIMIT, LIMIT),
    st.integers(-300, 300),
    st.sampled_from([0, 1, -1, LIMIT, -LIMIT, 2**26, 2**27 + 1, -(2**26) - 1, 94_906_267, 255, 256, 257]),
)
doubles = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0))
texts = st.one_of(st.none(), st.sampled_from(["", "a", "Z", "é", "日本", "b" * 40]))
rows = st.tuples(st.integers(0, 50), st.integers(0, 3), fixed, doubles, st.sampled_from([None, True, False]), texts)
entities = st.lists(st.lists(rows, min_size=1, max_size=12), min_size=1, max_size=5)


def batch_of(plan: ViewPlan, told: list[list[Any]]) -> RowBatch:
    """Rows as ``load_rows`` would measure them, in order."""
    columns: dict[str, list[Any]] = {name: [] for name in ("k0", "event_time", "available_at", "seq")}
    kinds = [kind_of(plan, index) for index in range(len(plan.measures))]
    measures: list[list[Any]] = [[] for _ in kinds]
    for entity, events in enumerate(told):
        for place, (time, lag, x, y, flag, name) in enumerate(sorted(events, key=lambda event: event[0])):
            columns["k0"].append(f"stop {entity}")
            columns["event_time"].append(time)
            columns["available_at"].append(time + lag)
            columns["seq"].append(f"{place:024x}")
            for index, kind in enumerate(kinds):
                hashed = None if name is None else hash(name) & (2**63 - 1)
                value = {"count": 1, "fixed": x, "double": y, "flag": flag, "name": name, "hashed": hashed}[kind]
                measures[index].append(value)
    types = {"double": pa.float64(), "flag": pa.bool_(), "name": pa.string()}
    arrays = {
        "k0": pa.array(columns["k0"]),
        "event_time": pa.array(columns["event_time"], pa.int64()),
        "available_at": pa.array(columns["available_at"], pa.int64()),
        "seq": pa.array(columns["seq"]),
        **{f"m{index}": pa.array(values, types.get(kinds[index], pa.int64())) for index, values in enumerate(measures)},
    }
    return RowBatch(pa.RecordBatch.from_pydict(arrays), plan)


def kind_of(plan: ViewPlan, index: int) -> str:
    measure = plan.measures[index]
    if measure.mode != "plain":
        return measure.mode
    return {"y": "double", "flag": "flag", "name": "name"}[measure.expression.name]  # type: ignore[union-attr]


def tile_of(plan: ViewPlan, measure: int, batch: RowBatch, entity: int, chosen: list[bool]) -> Tile:
    start, end = int(batch.starts[entity]), int(batch.starts[entity + 1])
    values = batch.rows.column(f"m{measure}").to_pylist()
    kept = [place for place in range(start, end) if chosen[place] and values[place] is not None]
    seqs, tile = batch.seqs.to_pylist(), Tile()
    tile.add(
        [values[place] for place in kept],
        [int(batch.times[place]) for place in kept],
        [seqs[place] for place in kept],
        plan.parts[measure],
    )
    return tile


def bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else (type(value), value)


WIDE = (5, 0, LIMIT, 1e300, True, "a")


@example([[WIDE] * 12, [(0, 0, None, None, None, None)]], 0)
@example([[(0, 0, 3, 0.1, False, "é")] * (FEW + 1), [(0, 1, 1, None, None, "")]], 40)
@given(entities, st.integers(-1, 50))
@settings(max_examples=150)
def test_columns_are_what_single_values_are(told: list[list[Any]], cut: int) -> None:
    for spec in (Numbers.spec(), Sketched.spec()):
        plan = plan_of(spec)
        batch = batch_of(plan, told)
        inside = batch.times > cut
        chosen = inside.tolist()

        for feature in plan.features:
            measure = plan.measures[feature.measure]
            found = Aggregates(batch, batch.measure(feature.measure), plan.parts[feature.measure], inside)
            values = finished(feature, measure, found).to_pylist()
            finish = finish_of(feature, measure)
            for entity in range(batch.entities):
                tile = tile_of(plan, feature.measure, batch, entity, chosen)
                assert bits(values[entity]) == bits(finish(tile, tile)), (feature.name, entity)
                if tile.count:
                    assert int(batch.times[found.last[entity]]) == tile.latest

        kinds = tuple(
            {"double": "number", "flag": "boolean", "name": "text"}.get(kind_of(plan, index), "number")
            for index in range(len(plan.measures))
        )
        decoder = RecordDecoder(plan, kinds)  # type: ignore[arg-type]
        measured = [batch.rows.schema.field(f"m{index}").type for index in range(len(plan.measures))]
        base = base_tiles(batch, plan, inside, tile_schema(plan, measured))
        if base is not None:
            whose = [int(name.split()[1]) for name in base.column("k0").to_pylist()]
            stored = base_records(base, plan, base_layout(plan, kinds))  # type: ignore[arg-type]
            for entity, tiles, record in zip(whose, tiles_in(base, plan), stored, strict=True):
                wanted = [pack(tile_of(plan, m, batch, entity, chosen)) for m in range(len(plan.measures))]
                assert [pack(tile) for tile in tiles] == wanted
                state = decoder.state(None, record, lambda index: block_of([], [], [], []))
                assert state.base is not None
                assert [pack(tile) for tile in state.base] == wanted

        hashes = [f"{entity:016}".encode() for entity in range(batch.entities)]
        records = dict(zip(*event_records(batch, plan, hashes), strict=True))
        for entity, hashed in enumerate(hashes):
            start, end = int(batch.starts[entity]), int(batch.starts[entity + 1])
            columns = [column.to_pylist()[start:end] for column in batch.rows.columns[1:]]
            events = decoder.state(records[hashed], None, lambda index: block_of([], [], [], [])).events
            if end - start > FEW:
                assert events is None
            else:
                assert events == block_of(columns[0], columns[1], columns[2], columns[3:])


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(1, 7))
def test_no_entity_is_cut_in_two_however_rows_arrive(sizes: list[int], step: int) -> None:
    names = [f"{entity:02}" for entity, size in enumerate(sizes) for _ in range(size)]
    rows = pa.RecordBatch.from_pydict(
        {"k0": pa.array(names, pa.string()), "n": pa.array(range(len(names)), pa.int64())}
    )
    pieces = [rows.slice(first, step) for first in range(0, len(names), step)]
    found = list(whole_entities(pieces, 1))
    assert [value for batch in found for value in batch.column("n").to_pylist()] == list(range(len(names)))
    seen = [set(batch.column("k0").to_pylist()) for batch in found]
    assert sum_of(len(names) for names in seen) == len(sizes)


def sum_of(numbers: Any) -> int:
    total = 0
    for number in numbers:
        total += number
    return total
