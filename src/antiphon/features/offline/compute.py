"""DuckDB connections with limits and without network access, and Parquet files read and written through them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.disk import file_sha256
from antiphon.core.errors import AntiphonError, CorruptionError, InvalidInputError, SetupError, UnavailableError
from antiphon.definitions.source import local_paths
from antiphon.features.expressions.expression_sql import text
from antiphon.features.sources.delta_table import delta_files, is_delta

if TYPE_CHECKING:
    import duckdb
    import pyarrow

SPOOL = "objects"
"""Folder below a computation's own for the objects that it fetches."""
_BATCH = 100_000
_DEADLINE_CHECK_SECONDS = 0.02
STOP_CHECK_SECONDS = 0.1
"""Interval at which a long computation looks whether it is to stop."""
T = TypeVar("T")


class ComputeLimits(msgspec.Struct, frozen=True):
    """Limits of a computation: threads, memory in MiB, and its spill folder, which is ``spill`` itself or a new folder
    below ``scratch``. Without both it stays in memory and nothing reaches a disk."""

    threads: int = 1
    memory: int = 1024
    spill: str | None = None
    scratch: str | None = None


@contextmanager
def compute(limits: ComputeLimits) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB within the limits and translate its errors.

    Raises:
        UnavailableError: memory or spill space ran out.
        InvalidInputError: the source does not fit the definition.
    """
    import duckdb

    own = None
    if limits.spill is None and limits.scratch is not None:
        Path(limits.scratch).mkdir(parents=True, exist_ok=True)
        own = tempfile.mkdtemp(dir=limits.scratch)
    spill = limits.spill if own is None else own
    configuration: dict[str, Any] = {
        "threads": limits.threads,
        "memory_limit": f"{limits.memory}MiB",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": False,
        # Without a folder of ours DuckDB would spill into one below the present folder.
        "temp_directory": spill or "",
    }
    connection = duckdb.connect(":memory:", config=configuration)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    except AntiphonError:
        raise
    except duckdb.OutOfMemoryException as error:
        raise UnavailableError(
            f"Feature computation ran out of memory: {first_line(error)}",
            where="compute",
            next_step="Raise its memory limit or free disk space for spilling; an encrypted project does not spill.",
        ) from error
    except duckdb.Error as error:
        raise InvalidInputError(
            f"The source cannot be computed: {first_line(error)}",
            where="compute",
            next_step="Compare the file with the definition.",
        ) from error
    finally:
        connection.close()
        if spill is not None:
            shutil.rmtree(Path(spill) / SPOOL if own is None else spill, ignore_errors=True)


def parquet_reader(stream: BinaryIO) -> pyarrow.RecordBatchReader:
    """A Parquet file's rows as a relation that is read once, in batches; any other file is a ``CorruptionError``."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowInvalid as error:
        raise CorruptionError(f"A file of the lake is no Parquet file: {error}.", where="lake") from error
    return pyarrow.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(_BATCH))


def write_parquet(connection: duckdb.DuckDBPyConnection, sql: str, sink: Any) -> int:
    """Write a query's rows as Parquet, a batch at a time; returns how many there were."""
    import pyarrow.parquet

    reader = connection.sql(sql).to_arrow_reader(_BATCH)
    rows = 0
    with pyarrow.parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


class ParquetFile:
    """A Parquet file being written, a batch of rows a row group. Use as a context manager, and :meth:`ensure` its
    columns at the end: a file without rows has columns too."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._writer: Any = None
        self.rows = 0

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, batch: pyarrow.RecordBatch) -> None:
        """Append rows; all batches have the same columns."""
        self._open(batch.schema, batch)
        if batch.num_rows:
            self._writer.write_batch(batch)
            self.rows += batch.num_rows

    def ensure(self, schema: pyarrow.Schema) -> None:
        """Fix the columns, if no batch did."""
        self._open(schema, None)

    def _open(self, schema: pyarrow.Schema, batch: pyarrow.RecordBatch | None) -> None:
        import pyarrow.parquet

        if self._writer is not None:
            return
        types = pyarrow.types
        numbers = (types.is_int64, types.is_float64, types.is_timestamp)
        split = [field.name for field in schema if any(is_one(field.type) for is_one in numbers)]
        self._writer = pyarrow.parquet.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            compression_level=1,
            # A byte of each number after the other: what compresses lies together, at twice the speed.
            use_byte_stream_split=split,
            use_dictionary=[] if batch is None else [name for name in schema.names if _repeats(batch.column(name))],
        )


def _repeats(column: pyarrow.Array) -> bool:
    """Tell from its first rows whether a text column repeats enough for a dictionary to pay."""
    import pyarrow
    import pyarrow.compute as pc

    if not pyarrow.types.is_string(column.type):
        return False
    first = column.slice(0, 1_000)
    return 2 * int(pc.count_distinct(first).as_py()) < len(first)


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The only row of a query. It is fetched to the end: DuckDB refuses other work while a result is open."""
    (row,) = connection.execute(sql).fetchall()
    found: tuple[Any, ...] = row
    return found


def files_of(path: str) -> list[Path]:
    """The files a source path names, in order; of a folder with a Delta table those of its latest version.

    Raises:
        SetupError: none exists.
        InvalidInputError, UnavailableError: a Delta table cannot be read.
    """
    if is_delta(Path(path)):
        return delta_files(Path(path))[1]
    found = local_paths(path)
    if not found or not all(file.is_file() for file in found):
        # The message is stored with a view's verdicts; only the next step, for the terminal, has the full path.
        raise SetupError(
            f"There is no file {Path(path).name}.",
            where="source",
            next_step=f"Create {path}, or correct the source's path.",
        )
    return found


def relation_of(files: list[Path], named: str | None = None) -> str:
    """A FROM clause that reads the files.

    Args:
        named: a column for the file of each row.

    Raises:
        InvalidInputError: neither Parquet nor CSV nor JSON, or no file at all.
    """
    if not files:
        raise InvalidInputError("There is no file to read.", where="source")
    names = "[" + ", ".join(text(str(file)) for file in files) + "]"
    names += "" if named is None else f", filename = {text(named)}"
    suffix = files[0].suffix.lower()
    if suffix in (".parquet", ".pq"):
        return f"read_parquet({names}, union_by_name = true)"
    name = files[0].name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".csv", ".tsv")):
        return f"read_csv({names}, nullstr = ['', 'NA'], union_by_name = true)"
    if name.endswith((".jsonl", ".ndjson", ".json")):
        lines = "auto" if name.endswith(".json") else "newline_delimited"
        # Columns and types come from every row, not only from the first ones.
        return f"read_json({names}, format = '{lines}', sample_size = -1, union_by_name = true)"
    raise InvalidInputError(f"{files[0]} is neither Parquet nor CSV nor JSON.", where="source")


def types_of(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Column name to DuckDB type of a relation."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {str(row[0]): str(row[1]) for row in described}


def together(digests: Sequence[str]) -> str:
    """One hash of the hashes of several files, in order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def digest_of(file: str) -> str:
    """SHA-256 of a file's contents; raises ``UnavailableError`` when it is gone since it was found or not readable."""
    try:
        return file_sha256(Path(file))
    except OSError as error:
        raise UnavailableError(
            f"A file of the source cannot be read: {error.strerror}.",
            where=file,
            next_step="Nothing was published; put it back, and refresh again.",
        ) from error


def first_line(error: Exception) -> str:
    """DuckDB's message without the values that it quotes, because errors are stored and shown. A file is quoted by its
    name, without its folder."""
    return _QUOTED.sub(_name_alone, str(error).strip().splitlines()[0])


def _name_alone(quoted: re.Match[str]) -> str:
    text = quoted[0][1:-1]
    return f"'{os.path.basename(text)}'" if os.path.isabs(text) and os.path.isfile(text) else "'…'"


_QUOTED = re.compile(r"'(?:[^']|'')*'")


class Deadline:
    """End of the time that a computation may take."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    @property
    def over(self) -> bool:
        """True once the time is up."""
        return self._clock.monotonic() >= self._end

    def while_left(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items one after the other, until the time is up."""
        for item in items:
            if self.over:
                return
            yield item

    def interrupting(self, connection: duckdb.DuckDBPyConnection) -> AbstractContextManager[None]:
        """Interrupt the connection's queries in the block once the time is up."""
        return interrupting(connection, lambda: self.over, _DEADLINE_CHECK_SECONDS)


@contextmanager
def interrupting(connection: duckdb.DuckDBPyConnection, over: Callable[[], bool], every: float) -> Iterator[None]:
    """Interrupt the connection's queries in the block, again and again, once it is ``over``, which is looked at
    ``every`` so many seconds: a single interruption may fall between two queries and stop neither."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            if over():
                connection.interrupt()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
