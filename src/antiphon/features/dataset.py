"""Datasets: a point-in-time join kept as one immutable lake file with a logical hash."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compute import ComputeLimits
from antiphon.features.point_in_time import point_in_time
from antiphon.features.ports import Lake, LogReader

if TYPE_CHECKING:
    import pyarrow


class Dataset(msgspec.Struct, frozen=True):
    """A training set: what it was joined from and where it lies. ``logical_hash`` is of its values in order."""

    id: str
    scope: Scope
    views: dict[str, str]
    rows: int
    columns: tuple[str, ...]
    path: str
    sha256: str
    logical_hash: str
    created_at: datetime


def build_dataset(
    frame: Path | pyarrow.Table,
    views: Sequence[FeatureViewSpec],
    *,
    scope: Scope,
    lake: Lake,
    clock: Clock,
    log: LogReader | None = None,
    as_of: str = "as_of",
    limits: ComputeLimits | None = None,
) -> Dataset:
    """Join features to a frame and store the result; the same frame, definitions and source give the same id."""
    import pyarrow.parquet

    table = point_in_time(frame, views, scope=scope, log=log, as_of=as_of, limits=limits)
    logical = content_hash([str(table.schema), [content_hash(repr(row)) for row in table.to_pylist()]])
    versions = {spec.name: spec.definition_version for spec in views}
    folder = lake.scratch()
    try:
        file = folder / "dataset.parquet"
        pyarrow.parquet.write_table(table, file, compression="zstd")
        path, sha256, _size = lake.put(scope, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Dataset(
        id=f"data_{content_hash([versions, logical, str(scope)])[:26]}",
        scope=scope,
        views=versions,
        rows=table.num_rows,
        columns=tuple(table.column_names),
        path=path,
        sha256=sha256,
        logical_hash=logical,
        created_at=clock.now(),
    )
