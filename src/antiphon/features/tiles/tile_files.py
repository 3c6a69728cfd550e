"""The lake's file of tiles: what is kept of events too old to be kept themselves, and of all entities together.

Columns: k0 …, ``tile`` (null for an entity's base tile, else the index of a tile of all entities together, whose keys
are null), ``available_at``, ``rows``, and for each measure those parts of its tile that a feature needs. A sum is two
halves, the upper one signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.aggregate_columns import Aggregates, counted_buckets
from antiphon.features.tiles.row_batches import RowBatch
from antiphon.features.tiles.sketches import KEPT
from antiphon.features.tiles.tile import Tile

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

LOWER = 2**64 - 1


def tile_fields(plan: ViewPlan, measure: int, kind: pyarrow.DataType) -> Iterator[tuple[str, pyarrow.DataType]]:
    """The columns of one measure's tile, whose values have this Arrow type."""
    import pyarrow

    parts, name = plan.parts[measure], f"t{measure}"
    yield f"{name}_count", pyarrow.int64()
    yield f"{name}_latest", pyarrow.int64()
    for part in ("total", "squares"):
        if part in parts:
            yield f"{name}_{part}_lower", pyarrow.uint64()
            yield f"{name}_{part}_upper", pyarrow.int64()
    for part in ("low", "high"):
        if part in parts:
            yield f"{name}_{part}", kind
    for part in ("first", "last"):
        if part in parts:
            yield f"{name}_{part}_time", pyarrow.int64()
            yield f"{name}_{part}_seq", pyarrow.string()
            yield f"{name}_{part}", kind
    if "distinct" in parts:
        yield f"{name}_hashes", pyarrow.list_(pyarrow.int64())
    if "buckets" in parts:
        yield f"{name}_buckets", pyarrow.list_(pyarrow.int64())
        yield f"{name}_bucket_counts", pyarrow.list_(pyarrow.int64())


def tile_schema(plan: ViewPlan, kinds: Sequence[pyarrow.DataType]) -> pyarrow.Schema:
    """The file's columns, given each measure's Arrow type."""
    import pyarrow

    fields = [(f"k{index}", pyarrow.string()) for index in range(len(plan.keys))]
    fields += [(name, pyarrow.int64()) for name in ("tile", "available_at", "rows")]
    for measure, kind in enumerate(kinds):
        fields += tile_fields(plan, measure, kind)
    return pyarrow.schema(fields)


def base_tiles(batch: RowBatch, plan: ViewPlan, old: Array, schema: pyarrow.Schema) -> pyarrow.RecordBatch | None:
    """The base tile of each entity with old rows; ``None`` when none has any."""
    import numpy
    import pyarrow

    rows = numpy.bincount(batch.entity[old], minlength=batch.entities)
    chosen = numpy.flatnonzero(rows)
    if not len(chosen):
        return None
    columns: dict[str, Any] = {f"k{index}": column for index, column in enumerate(batch.keys)}
    columns["tile"] = pyarrow.nulls(batch.entities, pyarrow.int64())
    available = numpy.maximum.reduceat(numpy.where(old, batch.available, -(2**63)), batch.starts[:-1])
    columns["available_at"] = pyarrow.array(available)
    columns["rows"] = pyarrow.array(rows)
    for measure, parts in enumerate(plan.parts):
        found = Aggregates(batch, batch.measure(measure), parts, old)
        columns.update(_of_measure(f"t{measure}", found, parts, batch))
    made = pyarrow.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)
    return made if len(chosen) == batch.entities else made.take(pyarrow.array(chosen))


def _of_measure(name: str, found: Aggregates, parts: Any, batch: RowBatch) -> Iterator[tuple[str, Any]]:
    import pyarrow

    missing = None if bool(found.some.all()) else ~found.some
    yield f"{name}_count", pyarrow.array(found.count)
    yield f"{name}_latest", pyarrow.array(batch.times[found.last], mask=missing)
    for part, sums in (("total", "total"), ("squares", "squares")):
        if part in parts:
            lower, upper = halves(getattr(found, sums))
            yield f"{name}_{part}_lower", pyarrow.array(lower)
            yield f"{name}_{part}_upper", pyarrow.array(upper)
    if "low" in parts:
        yield f"{name}_low", found.column.arrow(found.low, missing)
    if "high" in parts:
        yield f"{name}_high", found.column.arrow(found.high, missing)
    for part, rows in (("first", found.first), ("last", found.last)):
        if part in parts:
            yield f"{name}_{part}_time", pyarrow.array(batch.times[rows], mask=missing)
            yield f"{name}_{part}_seq", batch.seqs.take(pyarrow.array(rows, mask=missing))
            yield f"{name}_{part}", found.column.arrow(found.column.values[rows], missing)
    if "distinct" in parts:
        yield f"{name}_hashes", _least(found)
    if "buckets" in parts:
        numbers, counts, begins = counted_buckets(found)
        for column, values in ((f"{name}_buckets", numbers), (f"{name}_bucket_counts", counts)):
            yield column, _lists(begins, values)


def _least(found: Aggregates) -> pyarrow.Array:
    import numpy

    begins = found.hash_begins
    if int(numpy.diff(begins).max(initial=0)) <= KEPT:
        return _lists(begins, found.hashes)
    place = numpy.arange(len(found.hashes)) - numpy.repeat(begins[:-1], numpy.diff(begins))
    fewer = numpy.concatenate([[0], numpy.cumsum(numpy.minimum(numpy.diff(begins), KEPT))])
    return _lists(fewer, found.hashes[place < KEPT])


def _lists(begins: Array, values: Array) -> pyarrow.Array:
    import numpy
    import pyarrow

    return pyarrow.ListArray.from_arrays(pyarrow.array(begins.astype(numpy.int32)), pyarrow.array(values))


def halves(sums: Array) -> tuple[Array, Array]:
    """Integers of up to 128 bits as two columns: the lower 64 bits, and the upper ones with the sign."""
    import numpy

    if sums.dtype != object:
        return sums.astype(numpy.int64).view(numpy.uint64), sums >> 63
    lower = numpy.array([int(value) & LOWER for value in sums.tolist()], dtype=numpy.uint64)
    return lower, numpy.array([int(value) >> 64 for value in sums.tolist()], dtype=numpy.int64)


def together_tiles(
    plan: ViewPlan, tiles: Mapping[int, tuple[int, int, Sequence[Tile]]], schema: pyarrow.Schema
) -> pyarrow.RecordBatch:
    """Tiles of all entities together: index to (available at, rows, a tile a measure)."""
    import pyarrow

    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for index, (available, rows, measures) in tiles.items():
        for key in range(len(plan.keys)):
            columns[f"k{key}"].append(None)
        columns["tile"].append(index)
        columns["available_at"].append(available)
        columns["rows"].append(rows)
        for measure, tile in enumerate(measures):
            name, parts = f"t{measure}", plan.parts[measure]
            columns[f"{name}_count"].append(tile.count)
            columns[f"{name}_latest"].append(tile.latest)
            for part, number in (("total", tile.total), ("squares", tile.squares)):
                if part in parts:
                    columns[f"{name}_{part}_lower"].append(number & LOWER)
                    columns[f"{name}_{part}_upper"].append(number >> 64)
            for part, value in (("low", tile.low), ("high", tile.high)):
                if part in parts:
                    columns[f"{name}_{part}"].append(value)
            for part, placed in (("first", tile.first), ("last", tile.last)):
                if part in parts:
                    time, seq, value = placed if placed is not None else (None, None, None)
                    columns[f"{name}_{part}_time"].append(time)
                    columns[f"{name}_{part}_seq"].append(seq)
                    columns[f"{name}_{part}"].append(value)
            if "distinct" in parts:
                columns[f"{name}_hashes"].append(tile.least_hashes)
            if "buckets" in parts:
                buckets = sorted((tile.buckets or {}).items())
                columns[f"{name}_buckets"].append([number for number, _ in buckets])
                columns[f"{name}_bucket_counts"].append([count for _, count in buckets])
    return pyarrow.RecordBatch.from_arrays(
        [pyarrow.array(columns[field.name], field.type) for field in schema], schema=schema
    )


def tiles_in(rows: pyarrow.RecordBatch, plan: ViewPlan) -> list[list[Tile]]:
    """The tiles of a batch of the file's rows, one a measure."""
    found: list[list[Tile]] = [[] for _ in range(rows.num_rows)]
    for measure, parts in enumerate(plan.parts):
        name = f"t{measure}"
        names = [column for column in rows.schema.names if column.startswith(f"{name}_")]
        columns = [rows.column(column).to_pylist() for column in names]
        for place, values in enumerate(zip(*columns, strict=True)):
            row = dict(zip(names, values, strict=True))
            tile = Tile()
            tile.count, tile.latest = row[f"{name}_count"], row[f"{name}_latest"]
            if "total" in parts:
                tile.total = (row[f"{name}_total_upper"] << 64) | row[f"{name}_total_lower"]
            if "squares" in parts:
                tile.squares = (row[f"{name}_squares_upper"] << 64) | row[f"{name}_squares_lower"]
            tile.low, tile.high = row.get(f"{name}_low"), row.get(f"{name}_high")
            if tile.count and "first" in parts:
                tile.first = (row[f"{name}_first_time"], row[f"{name}_first_seq"], row[f"{name}_first"])
            if tile.count and "last" in parts:
                tile.last = (row[f"{name}_last_time"], row[f"{name}_last_seq"], row[f"{name}_last"])
            if tile.count and "distinct" in parts:
                tile.hashes = set(row[f"{name}_hashes"])
            if tile.count and "buckets" in parts:
                tile.buckets = dict(zip(row[f"{name}_buckets"], row[f"{name}_bucket_counts"], strict=True))
            found[place].append(tile)
    return found
