"""A snapshot's values for rules that see all of them together, without all of them in memory.

SQL reads the lake's file column by column and batch by batch, as often as a rule's query needs it. A function gets an
Arrow table that lies in a mapped file: what it does not look at is not in memory, and what it looked at may leave it
again. Where nothing clear may reach a disk a function's table is in memory, within the computation's limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from antiphon.catalog.features.snapshots import SnapshotFile
from antiphon.core.disk import room_needed
from antiphon.core.errors import UnavailableError
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.lake.content import Lake
from antiphon.features.offline.compute import parquet_reader

if TYPE_CHECKING:
    import duckdb
    import pyarrow

VALUES = "features"
"""The view that rules read: a row an entity, a column a feature."""
_FILE = "values_file"


class _Places:
    """A file that several threads read at once, each at its own place.

    A query that names the view more than once scans it as often at the same time, and pyarrow asks a Python file to
    seek and then to read: another thread may do the same in between.
    """

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._reading = threading.Lock()
        self._own = threading.local()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(getattr(self._own, "place", 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            with self._reading:
                self._own.place = self._stream.seek(offset, whence)
        else:
            self._own.place = offset + (self.tell() if whence == os.SEEK_CUR else 0)
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        with self._reading:
            self._stream.seek(self.tell())
            content = self._stream.read(size)
        self._own.place = self.tell() + len(content)
        return content

    def close(self) -> None:
        self.closed = True


@dataclass
class SnapshotValues:
    """The values of one snapshot, while a block of :func:`snapshot_values` runs."""

    lake: Lake
    file: SnapshotFile
    view: str
    folder: Path | None
    most_bytes: int
    held: ExitStack

    @property
    def rows(self) -> int:
        """Number of entities."""
        return self.file.rows

    @cached_property
    def table(self) -> pyarrow.Table:
        """All of them as one table, without the view's name before each feature's; raises ``UnavailableError`` when
        they do not fit the disk, or the memory that is allowed."""
        import pyarrow

        with self.lake.open(self.file.path) as stream:
            reader = parquet_reader(stream)
            table = self._in_memory(reader) if self.folder is None else self._mapped(reader, self.folder)
        assert isinstance(table, pyarrow.Table)
        return table.rename_columns([self.name(column) for column in table.column_names])

    def name(self, column: str) -> str:
        """A column's name without the view's."""
        return column.removeprefix(f"{self.view}.")

    def _mapped(self, reader: pyarrow.RecordBatchReader, folder: Path) -> pyarrow.Table:
        import pyarrow

        path = str(folder / "values.arrow")
        with (
            room_needed("quality"),
            pyarrow.OSFile(path, "wb") as sink,
            pyarrow.ipc.new_file(sink, reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
        return pyarrow.ipc.open_file(self.held.enter_context(pyarrow.memory_map(path))).read_all()

    def _in_memory(self, reader: pyarrow.RecordBatchReader) -> pyarrow.Table:
        import pyarrow

        batches, size = [], 0
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size > self.most_bytes:
                raise UnavailableError(
                    f"The values take more than the {self.most_bytes / 2**20:.0f} MiB of memory that computation may "
                    "use, and nothing of them may reach a disk.",
                    where="quality",
                    next_step="Write the rule in SQL, which reads them piece by piece, or raise the memory.",
                )
        return pyarrow.Table.from_batches(batches, reader.schema)


@contextmanager
def snapshot_values(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    file: SnapshotFile,
    view: str,
    *,
    folder: Path | None,
    most_bytes: int,
) -> Iterator[SnapshotValues]:
    """Make the view :data:`VALUES` of a snapshot's values for the time of the block. A function's table may lie in
    ``folder``, removed by the caller; ``None`` keeps it in memory, at most ``most_bytes``. Raises ``CorruptionError``
    when the file is gone or changed."""
    import pyarrow
    import pyarrow.dataset

    with ExitStack() as held:
        stream = held.enter_context(lake.open(file.path))
        form = pyarrow.dataset.ParquetFileFormat()
        fragment = form.make_fragment(pyarrow.PythonFile(_Places(stream), mode="r"))
        schema = fragment.physical_schema
        connection.register(_FILE, pyarrow.dataset.FileSystemDataset([fragment], schema, form))
        held.callback(connection.unregister, _FILE)
        values = SnapshotValues(lake, file, view, folder, most_bytes, held)
        columns = ", ".join(f"{quoted(name)} AS {quoted(values.name(name))}" for name in schema.names)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {VALUES} AS SELECT {columns} FROM {_FILE}")
        held.callback(connection.execute, f"DROP VIEW {VALUES}")
        yield values
