"""Columns, ties and nulls in the files of a Feast source, which decide whether a translation means the same."""

from __future__ import annotations

from pathlib import Path

import msgspec

from antiphon.core.errors import AntiphonError, SetupError
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.offline.compute import ComputeLimits, compute, files_of, one_row, relation_of, types_of

_KINDS = {
    "VARCHAR": "STRING", "BOOLEAN": "BOOL", "DOUBLE": "DOUBLE", "FLOAT": "FLOAT", "BIGINT": "INT64",
    "INTEGER": "INT32", "SMALLINT": "INT32", "TINYINT": "INT32", "UINTEGER": "INT64", "USMALLINT": "INT32",
}  # fmt: skip


class FileFacts(msgspec.Struct, frozen=True):
    """Facts about the files of a source.

    Attributes:
        problem: why they cannot be a source of ours; empty for nothing. Files that are not there are no problem yet.
        columns: column to Feast's type, or DuckDB's where Feast has none. Empty when there are no files.
        missing: requested columns that are not there.
        ties: rows that share entity and event time with another row.
        nulls: rows in which a requested column is null.
    """

    problem: str = ""
    columns: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    ties: int = 0
    nulls: int = 0


def pattern_of(root: Path, path: str) -> str:
    """Path or pattern of the files of a source; a folder stands for the Parquet files in it."""
    whole = Path(path.removeprefix("file://"))
    whole = whole if whole.is_absolute() else root / whole
    return str(whole / "**" / "*.parquet") if whole.is_dir() else str(whole)


def file_facts(pattern: str, timestamp: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> FileFacts:
    """Look into the files; rows are counted only when keys are given."""
    try:
        files = files_of(pattern)
    except SetupError:
        return FileFacts()
    try:
        with compute(ComputeLimits()) as connection:
            relation = relation_of(files)
            types = types_of(connection, relation)
            known = {name: _KINDS.get(kind, kind) for name, kind in types.items()}
            missing = tuple(name for name in (*keys, *columns) if name not in types)
            if not keys or missing or timestamp not in types:
                return FileFacts(columns=known, missing=missing)
            group = ", ".join(quoted(name) for name in (*keys, timestamp))
            null = " OR ".join(f"{quoted(name)} IS NULL" for name in columns) or "false"
            (ties,) = one_row(
                connection,
                f"SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (SELECT count(*) AS n FROM {relation} GROUP BY {group})",
            )
            (nulls,) = one_row(connection, f"SELECT count(*) FILTER (WHERE {null}) FROM {relation}")
            return FileFacts(columns=known, ties=int(ties), nulls=int(nulls))
    except AntiphonError as error:
        return FileFacts(problem=error.what.rstrip("."))
