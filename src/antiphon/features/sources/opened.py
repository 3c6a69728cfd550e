"""A source opened on a DuckDB connection: what to read from, and which version of it that is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from antiphon.core.ids import content_hash
from antiphon.definitions.source import SourceSpec
from antiphon.features.compute import digests_of, files_of, one_row, relation_of, together
from antiphon.features.expressions.compile_sql import quoted, text
from antiphon.features.sources import postgres
from antiphon.features.sources.delta_table import delta_files, delta_rows, is_delta
from antiphon.features.sources.sql_source import query_rows

if TYPE_CHECKING:
    import duckdb


class OpenedSource(msgspec.Struct, frozen=True):
    """Where a source's rows are read from.

    Attributes:
        relation: a FROM clause on the connection it was opened on.
        described: in words, with the version where there is one.
        files: what is read, in order, of a query its tables' files; none of a database.
        extracted: SHA-256 of the rows of a database, as they were taken.
        digests: SHA-256 of each file, where they are known.
    """

    relation: str
    described: str
    files: tuple[Path, ...] = ()
    extracted: str | None = None
    digests: tuple[str, ...] | None = None

    def sha256(self) -> str:
        """Of what it is read from: of files their contents, which are read for it, of a database the rows.

        Raises:
            Unavailable: a file is gone since it was found, or cannot be read.
        """
        return together(self.contents()) if self.extracted is None else self.extracted

    def contents(self) -> tuple[str, ...]:
        """SHA-256 of each file's contents.

        Raises:
            Unavailable: as :meth:`sha256`.
        """
        return self.digests if self.digests is not None else tuple(digests_of(self.files))

    def without(self, known: Collection[str]) -> OpenedSource:
        """The same but for the rows of files with these paths."""
        left = [file for file in self.files if str(file) not in known]
        if len(left) == len(self.files):
            return self
        relation = relation_of(left) if left else f"(SELECT * FROM {self.relation} WHERE false)"
        return msgspec.structs.replace(self, relation=relation)


def opened(
    connection: duckdb.DuckDBPyConnection, source: SourceSpec, known_by: int | None = None
) -> OpenedSource | None:
    """Open a source's rows; ``None`` for a stream without history.

    Args:
        known_by: a query over other sources sees only those of their rows that were available then (microseconds).

    A database is read once for each connection, and everything on it sees the same rows.

    Raises:
        SetupError, Unavailable, InvalidInput: it cannot be read; says why and what to do.
    """
    if source.url is not None:
        return _from_database(connection, source)
    if source.sql is not None:
        files = [file for path in source.paths for file in files_of(path)]
        words = f"a query over {len(files)} file(s) {', '.join(source.paths)}"
        return OpenedSource(query_rows(connection, source, known_by), words, tuple(files))
    if source.path is None:
        return None
    folder = Path(source.path)
    if is_delta(folder):
        table = delta_files(folder)
        files, words = list(table.files), f"Delta table {folder} version {table.version}"
        if not files:
            name = f"empty_{content_hash(source.path)[:16]}"
            connection.register(name, delta_rows(folder))
            return OpenedSource(quoted(name), words)
    else:
        files = files_of(source.path)
        words = f"{len(files)} file(s) {source.path}"
    return OpenedSource(relation_of(files), words, tuple(files))


def hashed_files(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> OpenedSource | None:
    """A source of files, with the hash of each one's contents; ``None`` for any other.

    Raises:
        SetupError, Unavailable, InvalidInput: as :func:`opened`.
    """
    if source.url is not None or source.sql is not None or source.path is None:
        return None
    rows = opened(connection, source)
    return None if rows is None else msgspec.structs.replace(rows, digests=rows.contents())


def version_of(source: SourceSpec) -> tuple[Literal["file", "database"], str] | None:
    """What a source is now, without reading its rows: (``file``, SHA-256) or (``database``, snapshot)."""
    if source.url is not None:
        return "database", postgres.snapshot_of(source)
    if not source.paths:
        return None
    return "file", together(digests_of([file for path in source.paths for file in files_of(path)]))


def _from_database(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> OpenedSource:
    table = f"extracted_{content_hash([source.url, source.table, source.query])[:16]}"
    relation = quoted(table)
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS extracts (name VARCHAR, described VARCHAR, sha256 VARCHAR)")
    known = connection.execute(f"SELECT described, sha256 FROM extracts WHERE name = {text(table)}").fetchall()
    if not known:
        taken = postgres.extract(connection, source, table)
        # Rows are hashed one by one, the sorted hashes by leading digits: their order does not matter.
        (sha256,) = one_row(
            connection,
            "SELECT sha256(coalesce(string_agg(b, '' ORDER BY b), '')) FROM "
            "(SELECT sha256(string_agg(h, '' ORDER BY h)) AS b FROM "
            f"(SELECT sha256(CAST(r AS VARCHAR)) AS h FROM {relation} AS r) GROUP BY left(h, 2))",
        )
        what = source.table if source.table is not None else "a query"
        said = f"{what} of {postgres.shown(source)}, {taken.rows} row(s), snapshot {taken.snapshot}"
        connection.execute(f"INSERT INTO extracts VALUES ({text(table)}, {text(said)}, {text(sha256)})")
        known = [(said, sha256)]
    said, sha256 = known[0]
    return OpenedSource(relation, said, extracted=sha256)
