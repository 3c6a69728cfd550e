"""Files of exports: Parquet, CSV or JSON Lines, written a batch of rows at a time in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 100_000
"""Rows of a Parquet file's row group, at least, and rows that are held in memory."""


class RowWriter:
    """Writes rows to an open file, as a context: at the end of its block the file is whole. One whose block failed is
    none.

    Args:
        format: ``parquet``, ``csv`` (nested values as JSON) or ``jsonl``.
        properties: kept in the metadata of Parquet; other formats have no place for them.
    """

    def __init__(self, stream: BinaryIO, format: str, schema: pyarrow.Schema, properties: Mapping[str, str]) -> None:
        self._stream = stream
        self._format = format
        self._schema = schema.with_metadata(dict(properties)) if format == "parquet" else _flat(schema, format)
        self._held: list[pyarrow.RecordBatch] = []
        self._writer = self._opened()
        self._finished = False
        self.rows = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                self._finish()
        finally:
            if self._writer is not None and not self._finished:
                with suppress(Exception):  # What it writes at its end is dropped with the file.
                    self._writer.close()

    def write(self, batch: pyarrow.RecordBatch) -> None:
        """Write a batch of the schema."""
        self.rows += batch.num_rows
        self._held.append(batch)
        if sum(one.num_rows for one in self._held) >= ROW_GROUP:
            self._flush()

    def _finish(self) -> None:
        """Write what is held, and the end of the file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._finished = True

    def _opened(self) -> Any:
        if self._format == "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.ParquetWriter(self._stream, self._schema, compression="zstd")
        if self._format == "csv":
            import pyarrow.csv

            return pyarrow.csv.CSVWriter(self._stream, self._schema)
        return None

    def _flush(self) -> None:
        import pyarrow

        held, self._held = [one for one in self._held if one.num_rows], []
        if not held:
            return
        if self._format == "jsonl":
            for batch in held:
                for row in batch.to_pylist():
                    self._stream.write(msgspec.json.encode(row) + b"\n")
            return
        table = pyarrow.Table.from_batches(held)
        if self._format == "csv":
            columns = [_text(column, field) for column, field in zip(table.columns, self._schema, strict=True)]
            table = pyarrow.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(table.replace_schema_metadata(self._schema.metadata))


def _flat(schema: pyarrow.Schema, format: str) -> pyarrow.Schema:
    """A schema for CSV, which has neither lists nor records nor instants of its own."""
    import pyarrow

    if format != "csv":
        return schema
    return pyarrow.schema(
        [pyarrow.field(one.name, pyarrow.string()) if _is_written_as_text(one.type) else one for one in schema]
    )


def _is_written_as_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_nested(kind) or pyarrow.types.is_timestamp(kind))


def _text(column: Any, field: pyarrow.Field) -> Any:
    import pyarrow

    if not _is_written_as_text(column.type):
        return column
    values = [None if one is None else _as_text(one) for one in column.to_pylist()]
    return pyarrow.array(values, field.type)


def _as_text(value: Any) -> str:
    encoded = msgspec.json.encode(value).decode()
    return encoded.strip('"') if isinstance(value, str) or hasattr(value, "isoformat") else encoded
