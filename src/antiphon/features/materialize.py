"""Materialise: a view's source as of a moment → an immutable snapshot in the lake, and its manifest.

A snapshot holds per entity what any later reading needs: the measured events back to the longest window and a
slack, whole tiles of them, one base tile of everything older when a feature looks at all time, and the values as
of the moment. Invariant: a reading at any ``as_of ≥ snapshot − slack`` from it and the events that came later
through the stream equals the batch query, bit for bit.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.snapshot_facts import Cost, Statistics
from antiphon.catalog.snapshots import SnapshotFile, SnapshotManifest
from antiphon.core.clock import Clock, microseconds, utc
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.batch_values import values_at, window_condition
from antiphon.features.compute import ComputeLimits, compute, write_parquet
from antiphon.features.custom_rules import Functions, check_tables
from antiphon.features.embedding.batch import SnapshotEmbedding
from antiphon.features.embedding.ports import Embedders
from antiphon.features.inspection import Inspection
from antiphon.features.plan import DAY, SLACK, Plan, midnight_before, plan_of
from antiphon.features.ports import Lake, LogReader
from antiphon.features.source_rows import ROWS, LoadedRows, load_rows
from antiphon.features.statistics import StatisticsBuilder
from antiphon.features.tile_sql import tile_columns, tile_index

if TYPE_CHECKING:
    import duckdb
    import pyarrow

SUFFIX = ".parquet"
"""A manifest lists a snapshot's files in the order events, tiles, values."""


class Materialisation(msgspec.Struct, frozen=True):
    """What to materialise, for whom and why. ``through`` is the last log offset to take; the log's end by default.
    ``previous`` is the snapshot that it is to replace: what came since then is new, and histograms take over its edges.
    """

    scope: Scope
    spec: FeatureViewSpec
    as_of: datetime
    through: int | None = None
    kind: str = "batch"
    run: str | None = None
    previous: SnapshotManifest | None = None
    principal: str = ""
    reason: str = ""


def materialize(
    wanted: Materialisation,
    *,
    lake: Lake,
    log: LogReader | None,
    clock: Clock,
    limits: ComputeLimits | None = None,
    functions: Functions | None = None,
    embedders: Embedders | None = None,
) -> SnapshotManifest:
    """Compute a snapshot and store its files. Nothing points at them until the manifest is added to the catalog.

    Raises:
        SetupError: the source's file is missing, or the model of a vector.
        InvalidInput: the source does not fit the definition.
        Unavailable: out of memory or disk; the source changed while it was read.
    """
    started, cpu = clock.monotonic(), time.process_time()
    plan = plan_of(wanted.spec)
    as_of = microseconds(wanted.as_of)
    bounds = limits or ComputeLimits()
    vectors = SnapshotEmbedding(wanted.spec, embedders, lake, wanted.previous)
    # Spilled rows would be clear: an encrypted lake's are computed in memory or not at all.
    folder = None if lake.sealed else lake.scratch()
    if lake.sealed:
        bounds = msgspec.structs.replace(bounds, spill=None)
    elif bounds.spill is None:
        bounds = msgspec.structs.replace(bounds, spill=str(folder))
    try:
        with compute(bounds) as connection:
            inspection = Inspection(connection, wanted.spec, scope=wanted.scope, previous=wanted.previous)
            inspection.read(log, wanted.through, max(microseconds(clock.now()), as_of))
            with inspection.explaining():
                loaded = load_rows(
                    connection, plan, scope=wanted.scope, log=log, known_by=as_of, through=wanted.through
                )
            inspection.require_unchanged()
            quarantined = inspection.keep_aside(lake)
            table, values = _write_values(connection, plan, as_of, lake, wanted.scope, vectors)
            with inspection.timed():
                statistics = _statistics(plan, table, wanted.previous)
                inspection.add(check_tables(connection, wanted.spec, table, functions))
            embedded = vectors.finished(wanted.scope)
            _split(connection, plan, as_of)
            events, tiles = (
                _written(connection, sql, lake, wanted.scope) for sql in (_events_sql(plan), _tiles_sql(plan, as_of))
            )
            logical = _logical_hash(connection, plan, loaded, as_of)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    identity = content_hash([wanted.spec.key, logical, as_of, loaded.stream_offset, str(wanted.scope)])
    snapshot = f"snap_{identity[:26]}"
    return SnapshotManifest(
        id=snapshot,
        scope=wanted.scope,
        view=wanted.spec.name,
        definition_version=wanted.spec.definition_version,
        as_of=utc(wanted.as_of),
        files=(events, tiles, values),
        logical_hash=logical,
        rows_in=loaded.rows_in + inspection.kept_aside,
        rows_out=values.rows,
        rows_rejected=loaded.rows_rejected + inspection.kept_aside,
        source=loaded.source,
        source_hash=loaded.source_hash,
        created_at=clock.now(),
        kind=wanted.kind,
        statistics=statistics,
        online_file=f"{wanted.scope.tenant}/{wanted.scope.environment}/{wanted.spec.name}/{snapshot}.mdb",
        duration_seconds=clock.monotonic() - started,
        run=wanted.run,
        stream_offset=loaded.stream_offset,
        rejections=inspection.rejections(loaded.rows_rejected),
        source_quality=inspection.quality,
        sampling_rate=inspection.rules.sampling_rate,
        checks=inspection.checks(),
        quarantined=quarantined,
        cost=Cost(
            cpu_seconds=time.process_time() - cpu,
            bytes_read=inspection.bytes_read,
            bytes_written=sum(file.bytes for file in (events, tiles, values)),
            quality_seconds=inspection.seconds,
        ),
        principal=wanted.principal,
        reason=wanted.reason,
        vectors=embedded,
    )


def _keys(plan: Plan) -> str:
    return ", ".join(f"k{index}" for index in range(len(plan.keys)))


def _measures(plan: Plan) -> str:
    return ", ".join(f"m{index}" for index in range(len(plan.measures)))


def _split(connection: duckdb.DuckDBPyConnection, plan: Plan, as_of: int) -> None:
    """Mark each row: part of the base (older than anything a reading has to cut), retained, or too old to matter."""
    cut = plan.retained_from(as_of)
    old = f"event_time < {cut} AND available_at <= {as_of - plan.slack}" if plan.unbounded else f"event_time < {cut}"
    kept = "" if plan.unbounded else f" WHERE NOT ({old})"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE split AS SELECT *, ({old}) AS base, {tile_index(plan, 'event_time')} AS tile "
        f"FROM {ROWS}{kept}"
    )


def _events_sql(plan: Plan) -> str:
    return (
        f"SELECT {_keys(plan)}, tile, event_time, available_at, seq, {_measures(plan)} FROM split WHERE NOT base "
        f"ORDER BY {_keys(plan)}, event_time, seq"
    )


def _tiles_sql(plan: Plan, as_of: int) -> str:
    """Tiles of the retained rows by index, and the base tile with a null index. Wide sums are stored as text.

    What encodings are set against, all entities together at each midnight that a reading may go back to, are tiles of
    an entity without keys: no row has one.
    """
    columns = [column for index in range(len(plan.measures)) for column in tile_columns(plan, index, f"t{index}")]
    wide = " ".join(
        f", CAST(t{index}_{part} AS VARCHAR) AS t{index}_{part}"
        for index in range(len(plan.measures))
        for part in ("total", "squares")
    )
    together = "".join(_fitted_sql(plan, as_of))
    return (
        f"SELECT * REPLACE ({wide.lstrip(', ')}) FROM (SELECT {_keys(plan)}, CASE WHEN NOT base THEN tile END AS tile, "
        f"max(available_at) AS available_at, count(*) AS rows, {', '.join(columns)} FROM split "
        f"GROUP BY {_keys(plan)}, CASE WHEN NOT base THEN tile END{together}) ORDER BY {_keys(plan)}, tile NULLS FIRST"
    )


def _fitted_sql(plan: Plan, as_of: int) -> Iterator[str]:
    keys = ", ".join(f"NULL::VARCHAR AS k{index}" for index in range(len(plan.keys)))
    first, last = midnight_before(as_of - SLACK), midnight_before(as_of)
    for window in plan.fitted_windows:
        for fitted_at in range(first, last + 1, DAY):
            condition = window_condition(window, fitted_at)
            columns = [
                column
                for index in range(len(plan.measures))
                for column in tile_columns(plan, index, f"t{index}", condition)
            ]
            yield (
                f" UNION ALL BY NAME SELECT {keys}, {plan.fitted_index(window, fitted_at)} AS tile, {fitted_at} AS "
                f"available_at, count(*) FILTER (WHERE {condition}) AS rows, {', '.join(columns)} FROM split"
            )


def _written(connection: duckdb.DuckDBPyConnection, sql: str, lake: Lake, scope: Scope) -> SnapshotFile:
    with lake.writing(scope, SUFFIX) as draft:
        rows = write_parquet(connection, sql, draft)
    return SnapshotFile(draft.path, draft.sha256, rows, draft.size)


def _write_values(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    as_of: int,
    lake: Lake,
    scope: Scope,
    vectors: SnapshotEmbedding,
) -> tuple[pyarrow.Table, SnapshotFile]:
    """Finished values as of the snapshot, for people, other tools and rules."""
    import pyarrow
    import pyarrow.parquet

    keys: list[tuple[str, ...]] = []
    columns: dict[str, list[Any]] = {feature.name: [] for feature in plan.features}
    times: dict[str, list[int | None]] = {feature.name: [] for feature in plan.features}
    for entity, values in values_at(connection, plan, as_of):
        keys.append(entity)
        for name, computed in values.items():
            columns[name].append(computed.value)
            times[name].append(computed.event_time)
    arrays: dict[str, Any] = {
        key: pyarrow.array([entity[index] for entity in keys], pyarrow.string()) for index, key in enumerate(plan.keys)
    }
    instant = pyarrow.timestamp("us", tz="UTC")
    for name, column in columns.items():
        arrays[f"{plan.spec.name}.{name}"] = pyarrow.array(column)
        arrays[f"{plan.spec.name}.{name}.event_time"] = pyarrow.array(times[name], instant)
    table = vectors.replaced(pyarrow.table(arrays))
    with lake.writing(scope, SUFFIX) as draft:
        pyarrow.parquet.write_table(table, draft, compression="zstd")
    return table, SnapshotFile(draft.path, draft.sha256, len(keys), draft.size)


def _statistics(plan: Plan, table: pyarrow.Table, previous: SnapshotManifest | None) -> dict[str, Statistics]:
    builder = StatisticsBuilder(
        [feature.name for feature in plan.features], previous.statistics if previous is not None else None
    )
    builder.add(table, prefix=f"{plan.spec.name}.")
    return builder.finish()


def _logical_hash(connection: duckdb.DuckDBPyConnection, plan: Plan, loaded: LoadedRows, as_of: int) -> str:
    """A hash of the values alone, whatever the files' order, compression or row groups.

    Rows are hashed one by one, the sorted hashes by leading digits, then the buckets: any order of rows gives the
    same, and no step holds more than one bucket.
    """
    columns = f"{_keys(plan)}, event_time, available_at, seq, base, {_measures(plan)}"
    buckets = connection.execute(
        f"SELECT left(h, 2), sha256(string_agg(h, '' ORDER BY h)) FROM (SELECT sha256(CAST(r AS VARCHAR)) AS h FROM "
        f"(SELECT {columns} FROM split) AS r) GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return content_hash([plan.spec.key, as_of, list(loaded.kinds), [list(bucket) for bucket in buckets]])
