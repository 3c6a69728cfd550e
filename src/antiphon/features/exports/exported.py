"""A snapshot's values as rows for other tools: plain names, plain types, and their metadata.

A column is a key, a feature under its short name, or ``FEATURE__event_time``, the instant of the latest event in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake

if TYPE_CHECKING:
    import pyarrow

BATCH = 20_000

Permit = Callable[[Sequence[dict[str, str]]], Sequence[bool]]
"""Decides for entities, given by their keys, whether each may be exported."""


class ExportMetadata(msgspec.Struct, frozen=True):
    """Origin of exported rows, kept with them as text, so that other tools can tell exports apart."""

    view: str
    snapshot: str
    definition_version: str
    as_of: str
    logical_hash: str
    tenant: str
    environment: str

    @property
    def properties(self) -> dict[str, str]:
        """The fields under names that begin with ``antiphon.``."""
        return {f"antiphon.{name}": str(getattr(self, name)) for name in self.__struct_fields__}


def metadata_of(manifest: SnapshotManifest) -> ExportMetadata:
    """The metadata of a snapshot's rows."""
    return ExportMetadata(
        view=manifest.view,
        snapshot=manifest.id,
        definition_version=manifest.definition_version,
        as_of=manifest.as_of.isoformat(),
        logical_hash=manifest.logical_hash,
        tenant=manifest.scope.tenant,
        environment=manifest.scope.environment,
    )


def entities_of(batch: pyarrow.RecordBatch, keys: Sequence[str]) -> list[dict[str, str]]:
    """The entity of each row, by its keys."""
    columns = [batch.column(key).to_pylist() for key in keys]
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)] if keys else [{}] * len(batch)


def batches_from(file: Any, start: int, most: int) -> Iterator[pyarrow.RecordBatch]:
    """The rows of an open Parquet file from one on, at most so many a batch. Row groups before it are not read."""
    counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    first, left = 0, start
    while first < len(counts) and left >= counts[first]:
        left -= counts[first]
        first += 1
    groups = list(range(first, len(counts)))
    for batch in file.iter_batches(most, row_groups=groups) if groups else ():
        if left >= batch.num_rows:
            left -= batch.num_rows
            continue
        batch, left = batch.slice(left), 0
        yield batch


class ExportedRows:
    """Rows of one snapshot, read a batch at a time; ``withheld`` counts those that were not permitted, once read.

    Args:
        start: so many rows of the snapshot are passed over; ``position`` is behind the last one that was read.
        most: rows of a batch.
    """

    def __init__(
        self,
        spec: FeatureViewSpec,
        manifest: SnapshotManifest,
        lake: Lake,
        permit: Permit | None,
        start: int = 0,
        most: int = BATCH,
    ) -> None:
        self._spec = spec
        _, _, self._file = manifest.files  # events, tiles, values
        self._lake = lake
        self._permit = permit
        self.rows = 0
        self.withheld = 0
        self.total = manifest.rows_out
        self.position = start
        self._most = most

    def reader(self) -> pyarrow.RecordBatchReader:
        """The rows as Arrow, to be read once.

        Raises:
            CorruptionError: the lake's file is gone or is not what it was.
            InvalidInputError: two columns would have one name.
        """
        import pyarrow
        import pyarrow.parquet

        # Other tools check nothing, so what leaves is checked once more.
        self._lake.verify(self._file.path, self._file.sha256)
        stream = self._lake.open(self._file.path)
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            schema = self._schema(file.schema_arrow)
        except pyarrow.ArrowInvalid as error:
            stream.close()
            raise CorruptionError(f"{self._file.path} is no Parquet file: {error}.", where=self._file.path) from error
        except BaseException:
            stream.close()
            raise
        return pyarrow.RecordBatchReader.from_batches(schema, self._batches(file, schema, stream))

    def _schema(self, stored: pyarrow.Schema) -> pyarrow.Schema:
        import pyarrow

        fields, prefix = [], f"{self._spec.name}."
        for field in stored:
            name = field.name
            if name.startswith(prefix):
                name = name.removeprefix(prefix).replace(".", "__")
            # A column without any value has no type of its own; a number's is as good as another.
            kind = pyarrow.float64() if pyarrow.types.is_null(field.type) else field.type
            fields.append(pyarrow.field(name, kind))
        names = [field.name for field in fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInputError(
                f"Two columns would be called {twice[0]!r}.",
                where=f"view {self._spec.name}",
                next_step="Rename the feature or the key.",
            )
        return pyarrow.schema(fields)

    def _batches(self, file: Any, schema: pyarrow.Schema, stream: Any) -> Iterator[pyarrow.RecordBatch]:
        import pyarrow

        with stream:
            for batch in batches_from(file, self.position, self._most):
                self.position += batch.num_rows
                if self._permit is not None:
                    entities = entities_of(batch, self._spec.entity.keys)
                    permitted = self._permit(entities)
                    self.withheld += len(entities) - sum(permitted)
                    batch = batch.filter(pyarrow.array(permitted, pyarrow.bool_()))
                self.rows += batch.num_rows
                columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
                yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)
