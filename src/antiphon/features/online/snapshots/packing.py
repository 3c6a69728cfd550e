"""Records of many entities at once: the words of ``encoding``, written by columns.

Invariant: a record made here decodes into what its rows say. All words of a batch lie in one array, a column scattered
over the entities' records, and a record is a slice of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antiphon.features.online.snapshots.encoding import (
    FEW,
    HAS_AVAILABLE,
    HAS_NULLS,
    WORDS,
    encode_base,
    mask_words,
    masks_of,
    sequence_bytes,
    sequence_words,
    sliced,
    text_words,
)
from antiphon.features.online.snapshots.finished import PackedRows
from antiphon.features.online.snapshots.sorting import key_order
from antiphon.features.online.snapshots.tiled import tiled_records
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.row_batches import NO_SEQUENCE, MeasureColumn, RowBatch
from antiphon.features.tiles.tile_files import tiles_in

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

Records = tuple[list[bytes], list[bytes]]
"""Keys and values."""


def events_are_few(batch: RowBatch) -> bool:
    """Tell whether every entity's events fit in its own record."""
    import numpy

    return int(numpy.diff(batch.starts).max(initial=0)) <= FEW


def event_records(batch: RowBatch, plan: ViewPlan, hashes: list[bytes], ahead: PackedRows | None = None) -> Records:
    """The events of a batch of entities, given their hashes: a record each, and of one with many events its tiles and a
    value for each tile's events. ``ahead``: what comes first in each record, where all have few events; then records
    come in the order of their keys, and lie so in memory."""
    import numpy
    import pyarrow

    if ahead is not None:
        order = key_order(hashes)
        return [hashes[place] for place in order.tolist()], _few(batch, plan, ahead, order)
    counts = numpy.diff(batch.starts)
    few = counts <= FEW
    if bool(few.all()):
        return hashes, _few(batch, plan)
    keys = [hashes[place] for place in numpy.flatnonzero(few).tolist()]
    values: list[bytes] = []
    if keys:
        values = _few(RowBatch(batch.rows.filter(pyarrow.array(few[batch.entity])), plan), plan)
    many = RowBatch(batch.rows.filter(pyarrow.array(~few[batch.entity])), plan)
    for key, value in tiled_records(many, plan, [hashes[place] for place in numpy.flatnonzero(~few).tolist()]):
        keys.append(key)
        values.append(value)
    return keys, values


def _few(batch: RowBatch, plan: ViewPlan, ahead: PackedRows | None = None, order: Array | None = None) -> list[bytes]:
    import numpy

    starts, entity = batch.starts[:-1], batch.entity
    counts = numpy.diff(batch.starts)
    later = numpy.logical_or.reduceat(batch.available != batch.times, starts)
    stored = [(index, batch.measure(index)) for index, measure in enumerate(plan.measures) if measure.mode != "count"]
    columns = [batch.measure(index) for index in range(len(plan.measures))]
    absent = numpy.zeros(len(entity), dtype=bool)
    for column in columns:
        if column.present is not None:
            absent |= ~column.present
    partly = numpy.logical_or.reduceat(absent, starts)
    masks = masks_of(plan)
    width = 1 + later.astype(numpy.int64) + len(stored) + masks * partly
    sizes = WORDS + counts * width + sequence_words(counts)
    if ahead is not None:
        sizes += ahead.sizes
    places = numpy.concatenate([[0], numpy.cumsum(sizes)])
    begins = places[:-1]
    words = numpy.zeros(int(places[-1]), dtype=numpy.int64)
    if ahead is not None:
        ahead.put(words, begins)
        begins = begins + ahead.sizes
    words[begins] = counts | (later * HAS_AVAILABLE + partly * HAS_NULLS) << 32
    at = begins[entity] + WORDS + numpy.arange(len(entity)) - starts[entity]
    step = counts[entity]
    words[at] = batch.times
    at += step
    if later.any():
        rows = later[entity]
        words[at[rows]] = batch.available[rows]
        at[rows] += step[rows]
    texts: list[tuple[bytes, Array]] = []
    for index, column in stored:
        if column.texts is None:
            words[at] = _words(column)
        else:
            lengths, content = text_words(batch.rows.column(len(plan.keys) + 3 + index))
            words[at] = lengths
            texts.append((bytes(content), numpy.concatenate([[0], numpy.cumsum(numpy.add.reduceat(lengths, starts))])))
        at += step
    if partly.any():
        rows = partly[entity]
        for mask in range(masks):
            present = [column.present for column in columns[64 * mask : 64 * mask + 64]]
            words[at[rows]] = mask_words(present, len(entity))[rows]
            at[rows] += step[rows]
    _put_sequences(words, batch, begins + WORDS + counts * width, counts)
    records = sliced(words, places * 8, order)
    for text, cuts in texts:
        records = [record + part for record, part in zip(records, sliced(text, cuts, order), strict=True)]
    return records


def _put_sequences(words: Array, batch: RowBatch, begins: Array, counts: Array) -> None:
    """Twelve bytes for each sequence of 24 hexadecimal digits."""
    import numpy

    packed = sequence_bytes(batch.seqs).view(numpy.uint32)
    within = numpy.arange(len(batch.entity)) - batch.starts[:-1][batch.entity]
    places = 2 * begins[batch.entity] + 3 * within
    half = words.view(numpy.uint32)
    for part in range(3):
        half[places + part] = packed[:, part]


def _words(column: MeasureColumn) -> Array:
    import numpy

    values = column.values
    return values.view(numpy.int64) if values.dtype == numpy.float64 else values.astype(numpy.int64, copy=False)


def base_records(rows: pyarrow.RecordBatch, plan: ViewPlan, layout: str | None) -> list[bytes]:
    """The base tiles of a batch of entities, a value each. ``layout``: of their words; ``None`` when a part is a sketch
    or a text: they are packed one by one."""
    import numpy
    import pyarrow
    import pyarrow.compute as pc

    if layout is None:
        return [encode_base(tiles) for tiles in tiles_in(rows, plan)]
    columns: list[Array] = []
    for name in rows.schema.names[len(plan.keys) + 3 :]:
        column = rows.column(name)
        if name.endswith("_seq"):
            packed = numpy.zeros((rows.num_rows, 16), dtype=numpy.uint8)
            packed[:, :12] = sequence_bytes(pc.fill_null(column, NO_SEQUENCE))
            columns += list(packed.view(numpy.int64).T)
            continue
        if pyarrow.types.is_boolean(column.type):
            column = column.cast(pyarrow.int64())
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        columns.append(values.view(numpy.int64))
    words = numpy.zeros((rows.num_rows, len(columns) + 1), dtype=numpy.int64)
    for place, values in enumerate(columns):
        words[:, place + 1] = values
    return sliced(words, numpy.arange(0, words.nbytes + 1, 8 * (len(columns) + 1)))
