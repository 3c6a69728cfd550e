"""The lake's file of tiles: what is kept of events too old to be kept themselves, and of all entities together.

Columns: k0 …, ``tile`` (null for an entity's base tile, else the index of a tile of all entities together, whose keys
are null), ``available_at``, ``rows``, and for each measure those parts of its tile that a feature needs. A sum is two
halves, the upper one signed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from antiphon.features.plan import Part, ViewPlan
from antiphon.features.tiles.aggregate_columns import Aggregates, counted_buckets
from antiphon.features.tiles.row_batches import RowBatch
from antiphon.features.tiles.tile import Tile

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

LOWER = 2**64 - 1


def tile_schema(plan: ViewPlan, kinds: Sequence[pyarrow.DataType]) -> pyarrow.Schema:
    """The file's columns, given each measure's Arrow type."""
    import pyarrow

    integer = pyarrow.int64()
    fields = [(name, pyarrow.string()) for name in plan.key_columns]
    fields += [(name, integer) for name in ("tile", "available_at", "rows")]
    for measure, (parts, kind) in enumerate(zip(plan.parts, kinds, strict=True)):
        name = f"t{measure}_"
        fields += [(f"{name}count", integer), (f"{name}latest", integer)]
        for part in ("total", "squares"):
            if part in parts:
                fields += [(f"{name}{part}_lower", pyarrow.uint64()), (f"{name}{part}_upper", integer)]
        fields += [(f"{name}{part}", kind) for part in ("low", "high") if part in parts]
        for part in ("first", "last"):
            if part in parts:
                fields += [(f"{name}{part}_time", integer), (f"{name}{part}_seq", pyarrow.string())]
                fields.append((f"{name}{part}", kind))
        if "distinct" in parts:
            fields.append((f"{name}hashes", pyarrow.list_(integer)))
        if "buckets" in parts:
            fields += [(f"{name}{column}", pyarrow.list_(integer)) for column in ("buckets", "bucket_counts")]
    return pyarrow.schema(fields)


def base_tiles(batch: RowBatch, plan: ViewPlan, old: Array, schema: pyarrow.Schema) -> pyarrow.RecordBatch | None:
    """The base tile of each entity with old rows; ``None`` when none has any."""
    import numpy
    import pyarrow

    rows = numpy.bincount(batch.entity[old], minlength=batch.entities)
    chosen = numpy.flatnonzero(rows)
    if not len(chosen):
        return None
    columns: dict[str, Any] = dict(zip(plan.key_columns, batch.keys, strict=True))
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
    for part in ("total", "squares"):
        if part in parts:
            lower, upper = _halves(getattr(found, part))
            yield f"{name}_{part}_lower", pyarrow.array(lower)
            yield f"{name}_{part}_upper", pyarrow.array(upper)
    for part in ("low", "high"):
        if part in parts:
            yield f"{name}_{part}", found.column.arrow(getattr(found, part), missing)
    for part, rows in (("first", found.first), ("last", found.last)):
        if part in parts:
            yield f"{name}_{part}_time", pyarrow.array(batch.times[rows], mask=missing)
            yield f"{name}_{part}_seq", batch.seqs.take(pyarrow.array(rows, mask=missing))
            yield f"{name}_{part}", found.column.arrow(found.column.values[rows], missing)
    if "distinct" in parts:
        yield f"{name}_hashes", _lists(*found.least_hashes())
    if "buckets" in parts:
        numbers, counts, begins = counted_buckets(found)
        yield f"{name}_buckets", _lists(numbers, begins)
        yield f"{name}_bucket_counts", _lists(counts, begins)


def _lists(values: Array, begins: Array) -> pyarrow.Array:
    import numpy
    import pyarrow

    return pyarrow.ListArray.from_arrays(pyarrow.array(begins.astype(numpy.int32)), pyarrow.array(values))


def _halves(sums: Array) -> tuple[Array, Array]:
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

    found: list[dict[str, Any]] = []
    for index, (available, rows, measures) in tiles.items():
        found.append({"tile": index, "available_at": available, "rows": rows})
        for measure, tile in enumerate(measures):
            found[-1] |= {f"t{measure}_{part}": value for part, value in _parts_of(tile).items()}
    # What the schema does not name is left out, and its keys are null.
    return pyarrow.RecordBatch.from_pylist(found, schema=schema)


def _parts_of(tile: Tile) -> dict[str, Any]:
    parts: dict[str, Any] = {"count": tile.count, "latest": tile.latest, "low": tile.low, "high": tile.high}
    for part, total in (("total", tile.total), ("squares", tile.squares)):
        parts |= {f"{part}_lower": total & LOWER, f"{part}_upper": total >> 64}
    for part, placed in (("first", tile.first), ("last", tile.last)):
        parts[f"{part}_time"], parts[f"{part}_seq"], parts[part] = placed or (None, None, None)
    buckets = sorted((tile.buckets or {}).items())
    return parts | {
        "hashes": tile.least_hashes,
        "buckets": [number for number, _ in buckets],
        "bucket_counts": [count for _, count in buckets],
    }


def tiles_in(rows: pyarrow.RecordBatch, plan: ViewPlan) -> list[list[Tile]]:
    """The tiles of a batch of the file's rows, one a measure."""
    measures = [(f"t{measure}_", parts) for measure, parts in enumerate(plan.parts)]
    return [[_tile_of(row, name, parts) for name, parts in measures] for row in rows.to_pylist()]


def _tile_of(row: Mapping[str, Any], name: str, parts: Collection[Part]) -> Tile:
    tile = Tile()
    tile.count, tile.latest = row[f"{name}count"], row[f"{name}latest"]
    if "total" in parts:
        tile.total = (row[f"{name}total_upper"] << 64) | row[f"{name}total_lower"]
    if "squares" in parts:
        tile.squares = (row[f"{name}squares_upper"] << 64) | row[f"{name}squares_lower"]
    tile.low, tile.high = row.get(f"{name}low"), row.get(f"{name}high")
    if tile.count and "first" in parts:
        tile.first = (row[f"{name}first_time"], row[f"{name}first_seq"], row[f"{name}first"])
    if tile.count and "last" in parts:
        tile.last = (row[f"{name}last_time"], row[f"{name}last_seq"], row[f"{name}last"])
    if tile.count and "distinct" in parts:
        tile.hashes = set(row[f"{name}hashes"])
    if tile.count and "buckets" in parts:
        tile.buckets = dict(zip(row[f"{name}buckets"], row[f"{name}bucket_counts"], strict=True))
    return tile
