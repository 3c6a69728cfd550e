"""Fill a sealed snapshot from the lake's files: one pass over events with values and one over base tiles, by columns.

Nothing is held but a batch of entities; that records come in the order of their keys is the writer's concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.core.errors import CorruptionError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake
from antiphon.features.offline.batch_values import holds_until
from antiphon.features.offline.compute import parquet_reader
from antiphon.features.online.snapshots.encoding import FORMAT, META, SnapshotMeta, base_key, base_layout, encode_tiles
from antiphon.features.online.snapshots.finished import PackedRows, RowLayout, ValuesAlong, codes_of
from antiphon.features.online.snapshots.packing import base_records, event_records, events_are_few
from antiphon.features.plan import SLACK, ViewPlan, plan_of
from antiphon.features.tiles.entity_state import TileRow
from antiphon.features.tiles.row_batches import RowBatch, whole_entities
from antiphon.features.tiles.tile_files import tile_schema, tiles_in
from antiphon.features.values import EVER

if TYPE_CHECKING:
    import pyarrow

    from antiphon.definitions.nodes import Kind


_COPIED = 1_000


class SnapshotWriter(Protocol):
    """Writer of a snapshot, which no reader sees before it is sealed: ``LmdbWriter`` and ``RedisWriter``.

    Attributes:
        joins: whether a finished row stands before the value, in one record.
    """

    joins: bool

    def write(self, keys: list[bytes], values: list[bytes], rows: list[bytes] | None = None, /) -> None:
        """Write records, in any order; a key comes once.

        Args:
            rows: the finished row of each, empty where there is none. A value beside a row may be empty: the entity
                has no record then.
        """
        ...

    def discard(self) -> None:
        """Drop what was written."""
        ...


Writer = TypeVar("Writer", bound=SnapshotWriter)


def fill(
    manifest: SnapshotManifest,
    spec: FeatureViewSpec,
    lake: Lake,
    *,
    begin: Callable[[SnapshotMeta], Writer],
    entity_hashes: Callable[[str, Iterable[Sequence[str | None]]], list[bytes]],
) -> Writer:
    """Write every entity of a snapshot's lake files into the writer that ``begin`` makes; it is left to be sealed.

    Args:
        entity_hashes: of the store, by the entity's name and keys.

    Raises:
        CorruptionError: a lake file is gone, or is not what it is to be.
        UnavailableError: disk or the store ran out or went away.
    """
    import pyarrow.compute as pc

    plan = plan_of(spec)

    def hashes_of(keys: Sequence[pyarrow.Array]) -> list[bytes]:
        texts = [column.to_numpy(zero_copy_only=False).tolist() for column in keys]
        return entity_hashes(spec.entity.name, zip(*texts, strict=True))

    with ExitStack() as files:
        opened = [files.enter_context(lake.open(file.path)) for file in manifest.files]
        of_events, of_tiles, of_values = map(parquet_reader, opened)
        measured = _measured(of_events.schema, plan)
        kinds, codes = _kinds(measured, plan), codes_of(of_values.schema, plan)
        expected = tile_schema(plan, measured)
        if of_tiles.schema.names != expected.names or of_tiles.schema.types != expected.types:
            raise _other("tile", of_tiles.schema.names)
        meta = _meta(manifest, plan, kinds, codes)
        writer = begin(meta)
        try:
            batches = (RowBatch(rows, plan) for rows in whole_entities(of_events, len(plan.keys)))
            if codes is None:
                for batch in batches:
                    writer.write(*event_records(batch, plan, hashes_of(batch.keys)))
            else:
                for records in _with_rows(batches, of_values, plan, codes, meta.as_of, hashes_of, writer.joins):
                    writer.write(*records)
            layout = base_layout(plan, kinds)
            for rows in of_tiles:
                base = rows.filter(pc.is_null(rows.column("tile")))
                if base.num_rows:
                    keys = [base_key(hashed) for hashed in hashes_of(base.columns[: len(plan.keys)])]
                    writer.write(keys, base_records(base, plan, layout))
                # The tiles of all entities together, which stand last, as an entity's.
                together = rows.filter(pc.is_valid(rows.column("tile")))
                if together.num_rows:
                    nothing = None if codes is None else [RowLayout(codes, meta.as_of).nothing]
                    every = entity_hashes(spec.entity.name, [[None] * len(plan.keys)])
                    indexes, available = (together.column(name).to_pylist() for name in ("tile", "available_at"))
                    each = zip(indexes, available, tiles_in(together, plan), strict=True)
                    tiles = {index: TileRow(known, own) for index, known, own in each}
                    writer.write(every, [encode_tiles(tiles)], nothing)
        except BaseException:
            writer.discard()
            raise
        return writer


def _with_rows(
    batches: Iterable[RowBatch],
    values: Iterable[pyarrow.RecordBatch],
    plan: ViewPlan,
    codes: str,
    as_of: int,
    hashes_of: Callable[[Sequence[pyarrow.Array]], list[bytes]],
    joined: bool,
) -> Iterator[tuple[list[bytes], list[bytes], list[bytes] | None]]:
    """Keys, values and finished rows. An entity whose events are all part of its base tile has a row alone. ``joined``:
    rows may stand in the values."""
    import numpy

    width = len(plan.keys)
    along = ValuesAlong(values, width)
    for batch in batches:
        found = along.through(batch.keys)
        if found is None or found.num_rows < batch.entities:
            raise _unlike()
        hashes, until = hashes_of(found.columns[:width]), holds_until(batch, plan, as_of)
        if found.num_rows == batch.entities:
            if any(not there.equals(column) for there, column in zip(found.columns, batch.keys, strict=False)):
                raise _unlike()
            own = hashes
        else:
            own = hashes_of(batch.keys)
            with_events = set(own)
            there = numpy.array([hashed in with_events for hashed in hashes])
            if int(there.sum()) != batch.entities:
                raise _unlike()
            every = numpy.full(found.num_rows, EVER)
            every[there] = until
            until = every
        packed = PackedRows(found, until, plan, codes)
        if joined and own is hashes and not packed.texts and events_are_few(batch):
            yield *event_records(batch, plan, own, packed), None
            continue
        keys, records = event_records(batch, plan, own)
        rows = packed.rows()
        if keys is hashes:
            yield keys, records, rows
            continue
        row_of = dict(zip(hashes, rows, strict=True))
        beside = [row_of.pop(key, b"") for key in keys]
        yield [*keys, *row_of], [*records, *[b""] * len(row_of)], [*beside, *row_of.values()]
    for found in along.rest():
        hashes = hashes_of(found.columns[:width])
        yield hashes, [b""] * len(hashes), PackedRows(found, numpy.full(found.num_rows, EVER), plan, codes).rows()


def copy_records(records: Iterator[tuple[bytes, bytes]], writer: SnapshotWriter) -> None:
    """Write the clear values of another build of the same snapshot, but for its meta record; discards the writer when
    that fails."""
    try:
        while taken := list(islice(records, _COPIED)):
            kept = [(key, value) for key, value in taken if key != META]
            writer.write([key for key, _ in kept], [value for _, value in kept])
    except BaseException:
        writer.discard()
        raise


def _unlike() -> CorruptionError:
    return CorruptionError(
        "The lake's files of events and of values are not of the same entities.",
        where="lake",
        next_step="Materialize the view again.",
    )


def _measured(schema: pyarrow.Schema, plan: ViewPlan) -> list[pyarrow.DataType]:
    measures = plan.measure_columns
    if schema.names != [*plan.key_columns, "event_time", "available_at", "seq", *measures]:
        raise _other("events", schema.names)
    return [schema.field(name).type for name in measures]


def _other(what: str, names: list[str]) -> CorruptionError:
    return CorruptionError(
        f"The lake's {what} file has other columns than this version writes: {', '.join(names)[:200]}.",
        where="lake",
        next_step="Materialize the view again.",
    )


def _kinds(measured: list[pyarrow.DataType], plan: ViewPlan) -> tuple[Kind, ...]:
    import pyarrow

    named: dict[Any, Kind] = {pyarrow.string(): "text", pyarrow.bool_(): "boolean"}
    return tuple(
        named.get(kind, "number") if measure.mode == "plain" else "number"
        for measure, kind in zip(plan.measures, measured, strict=True)
    )


def _meta(manifest: SnapshotManifest, plan: ViewPlan, kinds: tuple[Kind, ...], codes: str | None) -> SnapshotMeta:
    as_of = microseconds(manifest.as_of)
    return SnapshotMeta(
        format=FORMAT,
        snapshot=manifest.id,
        spec=plan.spec,
        as_of=as_of,
        answers_from=as_of - SLACK,
        stream_offset=manifest.stream_offset,
        kinds=kinds,
        facts=manifest.facts(),
        rows=codes,
    )
