"""Materialization: a view's source as of a moment becomes an immutable snapshot in the lake, with a manifest.

A snapshot holds per entity the state for any later reading: the measured events back to the longest window and a
slack, one base tile of everything older when a feature looks at all time, and the values as of the moment. All of it
comes from one pass over the rows in the order of entities, a batch of whole entities at a time, so that memory does not
grow with the number of entities. Invariant: a reading at any ``as_of ≥ snapshot − slack`` from it and later streamed
events equals the batch query, bit for bit.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from antiphon.catalog.features.snapshot_facts import SnapshotCost, SourceRead, Statistics
from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest
from antiphon.core.clock import Clock, microseconds, utc
from antiphon.core.errors import UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.embedding.snapshot_embedding import SnapshotEmbedding
from antiphon.features.embedding.vectors import Embedders
from antiphon.features.lake.content import Lake
from antiphon.features.monitoring.quality.custom_rules import Functions, check_values, needs_values
from antiphon.features.monitoring.quality.inspection import Inspection
from antiphon.features.monitoring.quality.snapshot_values import snapshot_values
from antiphon.features.monitoring.quality.statistics import KeyedHash, StatisticsBuilder, TextNames
from antiphon.features.offline.batch_values import BatchValues, window_condition
from antiphon.features.offline.compute import (
    STOP_CHECK_SECONDS,
    ComputeLimits,
    ParquetFile,
    compute,
    interrupting,
    one_row,
)
from antiphon.features.plan import DAY, SLACK, ViewPlan, midnight_before, plan_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import hashed_files, source_errors
from antiphon.features.sources.source_rows import ROWS, load_rows
from antiphon.features.sources.taking_over import TakenOver, taken_over
from antiphon.features.tiles.row_batches import row_batches
from antiphon.features.tiles.row_digest import RowDigest
from antiphon.features.tiles.tile import Tile
from antiphon.features.tiles.tile_files import base_tiles, tile_schema, together_tiles
from antiphon.features.tiles.tile_sql import tile_columns, tiles_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow

SUFFIX = ".parquet"
"""A manifest lists a snapshot's files in the order events, tiles, values."""


class Materialization(msgspec.Struct, frozen=True):
    """A view to materialize, with the moment, the principal and the reason.

    Attributes:
        through: last log offset to read; the log's end by default.
        previous: the snapshot to replace. Later rows count as new, histograms keep its edges, and unchanged rows are
            taken over from it, unless ``whole`` asks for the whole source.
        compared: the snapshot whose histograms' edges are kept where there is none to replace.
    """

    scope: Scope
    spec: FeatureViewSpec
    as_of: datetime
    through: int | None = None
    run: str | None = None
    previous: SnapshotManifest | None = None
    principal: str = ""
    reason: str = ""
    whole: bool = False
    compared: SnapshotManifest | None = None


def materialize(
    request: Materialization,
    *,
    lake: Lake,
    log: LogReader | None,
    clock: Clock,
    limits: ComputeLimits | None = None,
    functions: Functions | None = None,
    embedders: Embedders | None = None,
    keyed_hash: KeyedHash | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> SnapshotManifest:
    """Compute a snapshot and store its files. Nothing points at them until the manifest is added to the catalog.

    Args:
        keyed_hash: makes pseudonyms of texts that are not public, for statistics; without it they have no name there.
        progress: is given the number of texts embedded so far, and of all to embed.
        stop: once it is set, queries are interrupted and this raises; what was written so far has no reference.

    Raises:
        SetupError: the source's file is missing, or the model of a vector.
        InvalidInputError: the source does not fit the definition.
        UnavailableError: out of memory or disk; the source changed while it was read; it was stopped.
    """
    started, cpu = clock.monotonic(), time.process_time()
    plan = plan_of(request.spec)
    as_of = microseconds(request.as_of)
    bounds = limits or ComputeLimits()
    stop = stop or threading.Event()

    def embedding(texts: int, of: int) -> None:
        _require_going(stop, request.spec)
        if progress is not None:
            progress(texts, of)

    vectors = SnapshotEmbedding(request.spec, embedders, lake, request.previous, embedding)
    # Spilled rows would be clear: an encrypted lake's are computed in memory or not at all.
    folder = None if lake.sealed else lake.scratch()
    if lake.sealed:
        bounds = msgspec.structs.replace(bounds, spill=None, scratch=None)
    elif bounds.spill is None:
        bounds = msgspec.structs.replace(bounds, spill=str(folder))
    try:
        with (
            source_errors(request.spec.source.name),
            compute(bounds) as connection,
            interrupting(connection, stop.is_set, STOP_CHECK_SECONDS),
        ):
            rows = hashed_files(connection, request.spec.source)
            before: TakenOver | str = "it was requested"
            if not request.whole:
                before = taken_over(
                    connection, plan, rows, request.previous, lake, as_of=as_of, through=request.through
                )
            taken = before if isinstance(before, TakenOver) else None
            names = TextNames(request.spec, keyed_hash)
            inspection = Inspection(
                connection, request.spec, scope=request.scope, previous=request.previous, names=names
            )
            inspection.read(log, request.through, max(microseconds(clock.now()), as_of), taken)
            with inspection.explaining():
                loaded = load_rows(
                    connection, plan, scope=request.scope, log=log, known_by=as_of, through=request.through,
                    identified=False, before=taken, rows=rows,
                )  # fmt: skip
            inspection.require_unchanged()
            quarantined = inspection.keep_aside(lake)
            written = _write_files(connection, request, plan, as_of, lake, inspection, vectors, names)
            with inspection.timed():
                if needs_values(request.spec):
                    name, allowed = request.spec.name, bounds.memory * 2**20
                    with snapshot_values(
                        connection, lake, written.values, name, folder=folder, most_bytes=allowed
                    ) as found:
                        inspection.add(check_values(connection, request.spec, found, functions))
            embedded = vectors.finished(request.scope)
            _require_going(stop, request.spec)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    events, tiles, values = written.events, written.tiles, written.values
    logical = content_hash([plan.spec.key, as_of, list(loaded.kinds), written.digest])
    identity = content_hash([request.spec.key, logical, as_of, loaded.stream_offset, str(request.scope)])
    snapshot = f"snap_{identity[:26]}"
    return SnapshotManifest(
        id=snapshot,
        scope=request.scope,
        view=request.spec.name,
        definition_version=request.spec.definition_version,
        as_of=utc(request.as_of),
        files=(events, tiles, values),
        logical_hash=logical,
        rows_in=loaded.rows_in + inspection.kept_aside,
        rows_out=values.rows,
        rows_rejected=loaded.rows_rejected + inspection.kept_aside,
        source=loaded.source,
        source_hash=loaded.source_hash,
        created_at=clock.now(),
        statistics=written.statistics,
        online_file=f"{request.scope.tenant}/{request.scope.environment}/{request.spec.name}/{snapshot}.mdb",
        duration_seconds=clock.monotonic() - started,
        run=request.run,
        stream_offset=loaded.stream_offset,
        rejections=inspection.rejections(loaded.rows_rejected),
        source_quality=inspection.quality,
        sampling_rate=inspection.rules.sampling_rate,
        checks=inspection.checks(),
        quarantined=quarantined,
        cost=SnapshotCost(
            cpu_seconds=time.process_time() - cpu,
            bytes_read=inspection.bytes_read,
            bytes_written=sum(file.bytes for file in (events, tiles, values)),
            quality_seconds=inspection.seconds,
        ),
        principal=request.principal,
        reason=request.reason,
        vectors=embedded,
        read=SourceRead(
            rows=loaded.read,
            taken_over=taken.snapshot.id if taken is not None else None,
            whole=before if isinstance(before, str) else None,
            files=loaded.files,
            kinds=loaded.kinds,
            columns=loaded.columns,
            withheld=loaded.withheld,
        ),
    )


def _require_going(stop: threading.Event, spec: FeatureViewSpec) -> None:
    if stop.is_set():
        raise UnavailableError(f"The materialization of {spec.name} was stopped.", where="features")


class _SnapshotFiles(msgspec.Struct, frozen=True):
    """The three files of a snapshot, with statistics and digest of its rows."""

    events: SnapshotFile
    tiles: SnapshotFile
    values: SnapshotFile
    statistics: dict[str, Statistics]
    digest: list[object]


def _write_files(
    connection: duckdb.DuckDBPyConnection,
    request: Materialization,
    plan: ViewPlan,
    as_of: int,
    lake: Lake,
    inspection: Inspection,
    vectors: SnapshotEmbedding,
    names: TextNames,
) -> _SnapshotFiles:
    """Events, tiles and values in one pass over the rows in the order of entities."""
    import pyarrow

    cut = plan.retained_from(as_of)
    digest, compared = RowDigest(), request.previous or request.compared
    features = [feature.name for feature in plan.features]
    statistics = StatisticsBuilder(
        features, compared.statistics if compared is not None else None, names.of_features(features)
    )
    values = BatchValues(connection, plan, as_of)
    types = [field.type for field in connection.sql(f"SELECT * FROM {ROWS} LIMIT 0").to_arrow_table().schema]
    schema = tile_schema(plan, types[len(types) - len(plan.measures) :])
    together = together_tiles(plan, _fitted(connection, plan, as_of), schema)
    with_texts: list[pyarrow.RecordBatch] = []
    # Rows that are older than any reading looks back are part of the base of features of all time, or of nothing.
    batches = row_batches(connection, plan, ROWS if plan.unbounded else f"(FROM {ROWS} WHERE event_time >= {cut})")
    with (
        lake.writing(request.scope, SUFFIX) as of_events,
        lake.writing(request.scope, SUFFIX) as of_tiles,
        lake.writing(request.scope, SUFFIX) as of_values,
        ParquetFile(of_events) as events,
        ParquetFile(of_tiles) as tiles,
        ParquetFile(of_values) as finished,
    ):

        def write_values(rows: pyarrow.RecordBatch) -> None:
            finished.write(rows)
            with inspection.timed():
                statistics.add(rows, prefix=f"{plan.spec.name}.")

        for batch in batches:
            digest.add(batch.rows)
            retained = batch.rows
            if plan.unbounded:
                old = (batch.times < cut) & (batch.available <= as_of - plan.slack)
                base = base_tiles(batch, plan, old, schema)
                if base is not None:
                    tiles.write(base)
                if old.any():
                    retained = batch.rows.filter(pyarrow.array(~old))
            events.write(retained)
            found = values.of(batch)
            if request.spec.models:
                with_texts.append(found)
            else:
                write_values(found)
        if with_texts:
            # Each different text is embedded once, so all rows are embedded together.
            for found in vectors.replaced(pyarrow.Table.from_batches(with_texts)).to_batches():
                write_values(found)
        if together.num_rows:
            tiles.write(together)
        events.ensure(_event_schema(plan, types))
        tiles.ensure(schema)
        finished.ensure(values.schema())
    with inspection.timed():
        found_statistics = statistics.finish()
    return _SnapshotFiles(
        SnapshotFile(of_events.path, of_events.sha256, events.rows, of_events.size),
        SnapshotFile(of_tiles.path, of_tiles.sha256, tiles.rows, of_tiles.size),
        SnapshotFile(of_values.path, of_values.sha256, finished.rows, of_values.size),
        found_statistics,
        digest.finish(),
    )


def _event_schema(plan: ViewPlan, types: list[pyarrow.DataType]) -> pyarrow.Schema:
    import pyarrow

    names = [*plan.key_columns, "event_time", "available_at", "seq", *plan.measure_columns]
    measured = types[len(types) - len(plan.measures) :]
    kinds = [pyarrow.string()] * len(plan.keys) + [pyarrow.int64(), pyarrow.int64(), pyarrow.string(), *measured]
    return pyarrow.schema(list(zip(names, kinds, strict=True)))


def _fitted(
    connection: duckdb.DuckDBPyConnection, plan: ViewPlan, as_of: int
) -> dict[int, tuple[int, int, list[Tile]]]:
    """Tiles of all entities together, for encodings, at each midnight that a reading may go back to."""
    found: dict[int, tuple[int, int, list[Tile]]] = {}
    every = range(len(plan.measures))
    for window in plan.fitted_windows:
        for fitted_at in range(midnight_before(as_of - SLACK), midnight_before(as_of) + 1, DAY):
            condition = window_condition(window, fitted_at)
            columns = [column for index in every for column in tile_columns(plan, index, f"t{index}", condition)]
            rows, *tiles = one_row(
                connection, f"SELECT count(*) FILTER (WHERE {condition}), {', '.join(columns)} FROM {ROWS}"
            )
            found[plan.fitted_index(window, fitted_at)] = (fitted_at, rows, tiles_of(plan, every, tiles))
    return found
