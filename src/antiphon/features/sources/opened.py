"""A source opened on a DuckDB connection: the relation to read, and its version."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.definitions.objects import is_objects
from antiphon.definitions.source import SourceSpec
from antiphon.features.documents.folder import described_path, document_files
from antiphon.features.expressions.expression_sql import quoted, text
from antiphon.features.offline.compute import digest_of, files_of, one_row, relation_of, together
from antiphon.features.sources import postgres
from antiphon.features.sources.delta_table import delta_files, delta_rows, is_delta
from antiphon.features.sources.document_source import document_rows
from antiphon.features.sources.object_source import ObjectSource, object_source
from antiphon.features.sources.sql_source import query_rows
from antiphon.features.sources.stored_objects import listed

if TYPE_CHECKING:
    import duckdb


_NAMELESS = (None, "source", "compute")


class FileSource(msgspec.Struct, frozen=True):
    """An opened source of files of this machine, of a database or of a query.

    Attributes:
        relation: a FROM clause on the connection it was opened on.
        described: the source in words, with its version if it has one.
        files: the files read, in order: paths, or URLs of objects; for a query those of its tables, for a database
            none.
        extracted: SHA-256 of the rows of a database, as they were taken.
        known: SHA-256 of files' contents where they are known, and the versions of objects.
    """

    relation: str
    described: str
    files: tuple[str, ...] = ()
    extracted: str | None = None
    known: dict[str, str] = {}
    far: ClassVar[bool] = False
    """True where reading a file that is not needed costs fetching it."""

    def sha256(self) -> str:
        """Hash of the files' contents, or of a database's rows; raises as :meth:`contents`."""
        return together(self.contents()) if self.extracted is None else self.extracted

    def contents(self) -> tuple[str, ...]:
        """SHA-256 of each file's contents, or of the version that a store reports; raises as :func:`digest_of`."""
        return tuple(self.known.get(file) or digest_of(file) for file in self.files)

    def hashed(self) -> FileSource:
        """A copy that has its files' hashes, so that they are computed once."""
        return msgspec.structs.replace(self, known=dict(zip(self.files, self.contents(), strict=True)))

    def without(self, known: Collection[str]) -> FileSource:
        """A copy without the rows of these files."""
        left = [Path(file) for file in self.files if file not in known]
        if len(left) == len(self.files):
            return self
        relation = relation_of(left) if left else f"(SELECT * FROM {self.relation} WHERE false)"
        return msgspec.structs.replace(self, relation=relation)

    def named(self, column: str) -> str:
        """The relation with a column for the file of each row."""
        return relation_of([Path(file) for file in self.files], column)


OpenedSource = FileSource | ObjectSource
"""A source opened for reading."""


class FileMark(msgspec.Struct, frozen=True):
    """Identity of a file's content: name, size in bytes (0 for a missing one), and inode with time of change, or the
    version of an object."""

    name: str
    size: int
    mark: tuple[int, int] | str


def opened(
    connection: duckdb.DuckDBPyConnection, source: SourceSpec, known_by: int | None = None
) -> OpenedSource | None:
    """Open a source's rows; ``None`` for a stream without history.

    Args:
        known_by: a query over other sources sees only those of their rows that were available then (microseconds).

    A database is read once for each connection, and a store of objects is asked once; everything on it sees the same.

    Raises:
        SetupError, UnavailableError, InvalidInputError: it cannot be read; says why and what to do.
    """
    if source.url is not None:
        return _from_database(connection, source)
    if source.documents is not None:
        return _from_documents(connection, source)
    if source.sql is not None:
        marks = marks_of(source, connection)
        words = f"a query over {len(marks)} file(s) {', '.join(source.paths)}"
        return _describe_marks(marks, query_rows(connection, source, known_by), words)
    if source.path is None:
        return None
    if is_objects(source.path):
        return object_source(connection, source)
    folder = Path(source.path)
    if is_delta(folder):
        version, files = delta_files(folder)
        words = f"Delta table {folder} version {version}"
        if not files:
            name = f"empty_{content_hash(source.path)[:16]}"
            connection.register(name, delta_rows(folder))
            return FileSource(quoted(name), words)
    else:
        files = files_of(source.path)
        words = f"{len(files)} file(s) {source.path}"
    return FileSource(relation_of(files), words, tuple(map(str, files)))


def hashed_files(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> OpenedSource | None:
    """A source of files, with the hash of each one's contents; ``None`` for any other. Raises as :func:`opened`."""
    if source.url is not None or source.sql is not None or source.path is None or source.documents is not None:
        return None
    rows = opened(connection, source)
    return None if rows is None else rows.hashed()


def marks_of(source: SourceSpec, connection: duckdb.DuckDBPyConnection | None = None) -> tuple[FileMark, ...]:
    """Every file that a source reads as it is now, and every object as it is on a connection, or now; raises as
    :func:`opened`."""
    found: list[FileMark] = []
    for each in source.over or (source,):
        if is_objects(each.path):
            objects = listed(each) if connection is None else object_source(connection, each).objects
            found += [FileMark(one.url, one.size, one.version) for one in objects]
        elif each.path is not None and each.documents is not None:
            found += [_mark(file) for file in document_files(each.path)]
        elif each.path is not None:
            found += [_mark(file) for file in files_of(each.path)]
    return tuple(found)


def _mark(file: Path) -> FileMark:
    try:
        stat = file.stat()
    except OSError:
        return FileMark(str(file), 0, (0, 0))
    return FileMark(str(file), stat.st_size, (stat.st_ino, stat.st_mtime_ns))


def _describe_marks(marks: Sequence[FileMark], relation: str = "", described: str = "") -> FileSource:
    versions = {one.name: one.mark for one in marks if isinstance(one.mark, str)}
    return FileSource(relation, described, tuple(one.name for one in marks), known=versions)


def version_of(source: SourceSpec) -> tuple[Literal["file", "database"], str] | None:
    """Present version of a source, found without reading its rows: (``file``, SHA-256) or (``database``, snapshot). The
    hash of objects is of their versions."""
    if source.url is not None:
        return "database", postgres.snapshot_of(source)
    if source.documents is not None and source.over:
        return version_of(source.over[0])
    if not source.paths:
        return None
    return "file", _describe_marks(marks_of(source)).sha256()


def _from_database(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> OpenedSource:
    table = f"extracted_{content_hash([source.url, source.table, source.query])[:16]}"
    relation = quoted(table)
    said, sha256 = _extracted(connection, table) or ("", "")
    if not sha256:
        rows, snapshot = postgres.extract(connection, source, table)
        # Rows are hashed one by one, the sorted hashes by leading digits: their order does not matter.
        (sha256,) = one_row(
            connection,
            "SELECT sha256(coalesce(string_agg(b, '' ORDER BY b), '')) FROM "
            "(SELECT sha256(string_agg(h, '' ORDER BY h)) AS b FROM "
            f"(SELECT sha256(CAST(r AS VARCHAR)) AS h FROM {relation} AS r) GROUP BY left(h, 2))",
        )
        what = source.table if source.table is not None else "a query"
        said = f"{what} of {postgres.shown(source)}, {rows} row(s), snapshot {snapshot}"
        _keep_extract(connection, table, said, sha256)
    return FileSource(relation, said, extracted=sha256)


def _from_documents(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> OpenedSource:
    """Documents are read once for each connection, like a database: everything on it sees the same."""
    table = f"extracted_{content_hash([source.name, source.path, source.store, source.over, source.documents])[:16]}"
    found = _extracted(connection, table)
    if found is None:
        rows = opened(connection, source.over[0]) if source.over else None
        relation = None if rows is None else rows.relation
        found = document_rows(
            connection, source, table, relation, rows.described if rows else described_path(source.path or "")
        )
        _keep_extract(connection, table, *found)
    return FileSource(quoted(table), found[0], extracted=found[1])


def _extracted(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[str, str] | None:
    """Words and hash of rows that were extracted on this connection already."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS extracts (name VARCHAR, described VARCHAR, sha256 VARCHAR)")
    known = connection.execute(f"SELECT described, sha256 FROM extracts WHERE name = {text(table)}").fetchall()
    return None if not known else (known[0][0], known[0][1])


def _keep_extract(connection: duckdb.DuckDBPyConnection, table: str, said: str, sha256: str) -> None:
    connection.execute(f"INSERT INTO extracts VALUES ({text(table)}, {text(said)}, {text(sha256)})")


@contextmanager
def source_errors(source: str) -> Iterator[None]:
    """Run a block that reads a source, and name the source in its errors.

    Raises:
        InvalidInputError: a library cannot read the content.
        UnavailableError: the operating system cannot read the file.
        AntiphonError: as the block raised it, with the source's name if it had no place.
    """
    try:
        yield
    except AntiphonError as error:
        if error.where in _NAMELESS:
            error.where = f"source {source}"
        raise
    except OSError as error:
        raise UnavailableError(
            f"The source {source} cannot be read: {error.strerror or type(error).__name__}.",
            where=f"source {source}",
            next_step="Look at the file and at the disk's space, and refresh again.",
        ) from error
    except (ValueError, ArithmeticError) as error:
        # The message may quote a value, and errors are stored and shown.
        raise InvalidInputError(
            f"The source {source} cannot be read: {type(error).__name__}.",
            where=f"source {source}",
            next_step="Compare its values with the definition; nothing was published.",
        ) from error
