"""A source of stored objects on a DuckDB connection: each is fetched when its rows are read.

Objects lie in the folder of the computation until it ends: DuckDB reads a file more than once, and a store is asked
once. Where nothing may reach a disk they are held in memory, within DuckDB's limit, until their rows are in a table.
A listing is made once for each connection, so that everything on it is of the same objects: one that comes later is
not read, and one that changed before it was fetched is found.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, cast

import msgspec

from antiphon.core.disk import room_needed
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.definitions.source import SourceSpec
from antiphon.features.expressions.expression_sql import quoted, text
from antiphon.features.offline.compute import SPOOL, one_row, relation_of, together
from antiphon.features.sources.stored_objects import StoredObject, fetch, listed

if TYPE_CHECKING:
    import duckdb

_FORM = re.compile(r"\.(parquet|pq|csv|tsv|jsonl|ndjson|json)(\.gz|\.zst)?\Z", re.IGNORECASE)
_NAME = "antiphon_object"


class ObjectSource(msgspec.Struct, frozen=True):
    """An opened source of stored objects; see :class:`FileSource`.

    ``objects`` are all that the path names, ``left`` those whose rows are read."""

    connection: duckdb.DuckDBPyConnection
    source: SourceSpec
    objects: tuple[StoredObject, ...]
    left: tuple[StoredObject, ...]
    far: ClassVar[bool] = True

    @property
    def described(self) -> str:
        """In words."""
        return f"{len(self.objects)} object(s) {self.source.path}"

    @property
    def files(self) -> tuple[str, ...]:
        """Their URLs."""
        return tuple(one.url for one in self.objects)

    @property
    def relation(self) -> str:
        """A FROM clause; without an object that is left, of no row with the columns of the smallest one.

        Raises:
            SetupError, UnavailableError, InvalidInputError: as :func:`fetch`; there is no room; it is in no form that
                is read.
        """
        if self.left:
            return self._read(self.left, None)
        smallest = min(self.objects, key=lambda one: (one.size, one.key))
        return f"(SELECT * FROM {self._read((smallest,), None)} WHERE false)"

    def named(self, column: str) -> str:
        """The same with a column that says which object a row is from."""
        return self._read(self.left, column)

    def without(self, known: Collection[str]) -> ObjectSource:
        """The same but for the rows of objects with these URLs."""
        return msgspec.structs.replace(self, left=tuple(one for one in self.left if one.url not in known))

    def contents(self) -> tuple[str, ...]:
        """Each object's version."""
        return tuple(one.version for one in self.objects)

    def hashed(self) -> ObjectSource:
        """Itself: a listing has the versions."""
        return self

    def sha256(self) -> str:
        """Of their versions."""
        return together(self.contents())

    def _read(self, objects: Sequence[StoredObject], column: str | None) -> str:
        for one in objects:
            if _FORM.search(one.key) is None:
                raise InvalidInputError(
                    f"{one.url} is neither Parquet nor CSV nor JSON.", where=f"source {self.source.name}"
                )
        (folder,) = one_row(self.connection, "SELECT current_setting('temp_directory')")
        if not folder:
            return _in_memory(self.connection, self.source, objects, column)
        files = _on_disk(Path(folder) / SPOOL, self.source, objects)
        if column is None:
            return relation_of(files)
        return f"(SELECT * REPLACE ({_urls(files, objects)}[{quoted(column)}] AS {quoted(column)}) FROM " + (
            f"{relation_of(files, column)})"
        )


def object_source(connection: duckdb.DuckDBPyConnection, source: SourceSpec) -> ObjectSource:
    """A source's objects as they were when this connection first asked; raises as :func:`listed`."""
    # Not temporary: a query over tables reads them in a session of its own.
    table = "memory.main.object_listings"
    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (source VARCHAR, listed VARCHAR)")
    place = content_hash([source.path, source.store])
    known = connection.execute(f"SELECT listed FROM {table} WHERE source = {text(place)}").fetchall()
    if known:
        found = msgspec.json.decode(known[0][0], type=tuple[StoredObject, ...])
    else:
        found = listed(source)
        connection.execute(f"INSERT INTO {table} VALUES (?, ?)", [place, msgspec.json.encode(found).decode()])
    return ObjectSource(connection, source, found, found)


def _on_disk(folder: Path, source: SourceSpec, objects: Sequence[StoredObject]) -> list[Path]:
    """The objects as files, fetched unless they were."""
    files = {one: folder / _file_name(one) for one in objects}
    pending = [one for one in dict.fromkeys(objects) if not files[one].exists()]
    needed = sum(one.size for one in pending)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _no_room(source, needed, f"{free / 2**20:.0f} MiB of the disk are free", "Free disk space.")

    @contextmanager
    def into(one: StoredObject) -> Iterator[BinaryIO]:
        partial = files[one].with_suffix(".part")
        with room_needed(f"source {source.name}"), partial.open("wb") as stream:
            yield stream
        partial.rename(files[one])

    if pending:
        fetch(source, pending, into)
    return list(files.values())


def _in_memory(
    connection: duckdb.DuckDBPyConnection, source: SourceSpec, objects: Sequence[StoredObject], column: str | None
) -> str:
    """The objects' rows as a table; their bytes go when it is made."""
    table = f"objects_{content_hash([[one.url, one.version] for one in objects])[:16]}"
    known = f"SELECT 1 FROM duckdb_tables() WHERE table_name = {text(table)}"
    if not connection.execute(known).fetchall():
        needed = sum(one.size for one in objects)
        (limit,) = one_row(connection, "SELECT parse_formatted_bytes(current_setting('memory_limit'))")
        if needed > limit:
            allowed = f"{limit / 2**20:.0f} MiB of memory may be used and nothing may reach a disk"
            raise _no_room(source, needed, allowed, "Raise the memory that computation may use.")
        with ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            fetch(source, objects, _into_memory(held, folder))
            files = [folder / _file_name(one) for one in objects]
            connection.execute(
                f"CREATE TABLE memory.main.{table} AS SELECT * REPLACE ({_urls(files, objects)}[{_NAME}] AS {_NAME}) "
                f"FROM {relation_of(files, _NAME)}"
            )
    named = "" if column is None else f", {_NAME} AS {quoted(column)}"
    return f"(SELECT * EXCLUDE ({_NAME}){named} FROM memory.main.{table})"


@contextmanager
def fetched(source: SourceSpec, one: StoredObject) -> Iterator[Path]:
    """An object as a file of its form that is in memory alone; raises as :func:`fetch`."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        fetch(source, [one], _into_memory(held, folder))
        yield folder / _file_name(one)


def _into_memory(held: ExitStack, folder: Path) -> Callable[[StoredObject], AbstractContextManager[BinaryIO]]:
    @contextmanager
    def into(one: StoredObject) -> Iterator[BinaryIO]:
        # DuckDB takes the format from the link's name; the memory file behind it has none.
        content = cast(BinaryIO, held.enter_context(os.fdopen(os.memfd_create("object", os.MFD_CLOEXEC), "wb")))
        yield content
        content.flush()
        (folder / _file_name(one)).symlink_to(f"/proc/{os.getpid()}/fd/{content.fileno()}")

    return into


def _no_room(source: SourceSpec, needed: int, there: str, next_step: str) -> UnavailableError:
    return UnavailableError(
        f"The source's objects take {needed / 2**20:.0f} MiB, and {there}.",
        where=f"source {source.name}",
        next_step=f"{next_step} What was published before is served meanwhile.",
    )


def _file_name(one: StoredObject) -> str:
    form = _FORM.search(one.key)
    assert form is not None
    return f"{content_hash([one.url, one.version])[:32]}{form.group().lower()}"


def _urls(files: Sequence[Path], objects: Sequence[StoredObject]) -> str:
    """A map of the files' names to the objects' URLs, in SQL."""
    pairs = (f"{text(str(file))}: {text(one.url)}" for file, one in zip(files, objects, strict=True))
    return "map {" + ", ".join(pairs) + "}"
