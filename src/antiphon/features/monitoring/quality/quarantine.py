"""Rows that rules kept aside, read back from the lake with their reasons."""

from __future__ import annotations

from typing import Any

import msgspec

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.features.ports import Lake

REASON = "antiphon_reason"


class QuarantinedRow(msgspec.Struct, frozen=True):
    """A source row and the rule that it offends."""

    rule: str
    columns: dict[str, Any]


def quarantined_rows(manifest: SnapshotManifest, lake: Lake, limit: int = 100) -> list[QuarantinedRow]:
    """The first rows that a snapshot's rules kept aside; a row stands once for each rule that it offends.

    Raises:
        CorruptionError: the lake's file is gone or changed.
    """
    import pyarrow.parquet

    if manifest.quarantined is None:
        return []
    found: list[QuarantinedRow] = []
    with lake.open(manifest.quarantined.file.path) as stream:
        for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(min(limit, 10_000)):
            for row in batch.to_pylist():
                if len(found) == limit:
                    return found
                found.append(QuarantinedRow(row.pop(REASON), row))
    return found
