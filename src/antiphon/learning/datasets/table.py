"""A dataset's rows as one table: typed columns, a hash of the values, and Parquet bytes.

Invariant: the logical hash is of the values alone, in the order of ``example``: neither the file's bytes nor the
library that wrote them is part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from antiphon.core.ids import canonical

FURTHER = "outcome:"
"""Begins the names of columns with the values of outcomes beside the first."""

USER = "user:first"
"""Column with the first example of the same user; a row without one was exposed by its entity, or never was."""

PROMPT = "prompt:sha256"
"""Column with the SHA-256 of the prompt that a row was served with, where it is learned from."""

ColumnType = Literal["text", "instant", "integer", "number", "boolean"]
Value = float | int | bool | str | None


class TableColumn(msgspec.Struct, frozen=True):
    """One column; instants are microseconds."""

    name: str
    type: ColumnType
    values: tuple[Value, ...]


class DatasetTable(msgspec.Struct, frozen=True):
    """Columns of equal length."""

    columns: tuple[TableColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.columns[0].values)

    def column(self, name: str) -> TableColumn:
        """The column of this name, which there is."""
        return next(column for column in self.columns if column.name == name)

    def logical_hash(self) -> str:
        """SHA-256 hex of names, types and values, row by row."""
        digest = hashlib.sha256(canonical([(column.name, column.type) for column in self.columns]))
        for row in zip(*(column.values for column in self.columns), strict=True):
            digest.update(canonical(row))
        return digest.hexdigest()


def feature_column(name: str, values: Sequence[Value]) -> TableColumn:
    """A column of feature values, of the narrowest type that holds them all; of nothing but nulls a number."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds <= {int, float}:
        if kinds == {int}:
            return TableColumn(name, "integer", tuple(values))
        return TableColumn(name, "number", tuple(None if value is None else float(value) for value in values))
    if kinds == {bool}:
        return TableColumn(name, "boolean", tuple(values))
    return TableColumn(name, "text", tuple(None if value is None else str(value) for value in values))


def arrow_types() -> dict[ColumnType, Any]:
    """Arrow's type of each type of a column."""
    import pyarrow

    return {
        "text": pyarrow.string(),
        "instant": pyarrow.timestamp("us", tz="UTC"),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
    }


def write(rows: DatasetTable, file: Any) -> None:
    """Write Parquet to a path or a binary file; the same rows and library give the same bytes."""
    import pyarrow.parquet

    types = arrow_types()
    table = pyarrow.table({column.name: pyarrow.array(column.values, types[column.type]) for column in rows.columns})
    pyarrow.parquet.write_table(table, file, compression="zstd")
