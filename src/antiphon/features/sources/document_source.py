"""A source of documents on a DuckDB connection: every document is read and cut once, and its chunks are rows.

A chunk's time is the same for all: documents are states and no events, and what is retrieved is dated by its snapshot.
Chunks of a document whose bytes were read before in this process are not parsed again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.source import SourceSpec
from antiphon.features.documents.folder import MOST_DOCUMENTS, RawDocument, raw_documents, repeated
from antiphon.features.documents.formats import MOST_CHARACTERS
from antiphon.features.documents.reading_process import DocumentReader, DocumentTask, ReadDocument
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.offline.compute import types_of

if TYPE_CHECKING:
    import duckdb

EVENT_TIME = datetime(1970, 1, 1, tzinfo=UTC)
MOST_CHUNKS = 200_000
"""Most chunks of one source."""
_REMEMBERED = 64 << 20
"""Characters of read documents that a process keeps."""
_SHOWN = 3
_BATCH = 200
_log = logging.getLogger("antiphon.features")


class _TableDocument(msgspec.Struct, frozen=True):
    """A document of a table, with its attributes."""

    task: DocumentTask
    error: str | None
    attributes: tuple[str | None, ...] = ()


class _ReadDocuments:
    """Documents that were read, by the hash of what they were made of; the oldest are forgotten. Safe to share between
    threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, ReadDocument] = OrderedDict()
        self._size = 0

    def get(self, key: bytes) -> ReadDocument | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def keep(self, key: bytes, read: ReadDocument) -> None:
        """Keep a document, unless it could not be read: it may have lacked time alone."""
        if read.error is not None:
            return
        with self._lock:
            before = self._found.pop(key, None)
            self._found[key] = read
            self._size += _length(read) - (0 if before is None else _length(before))
            while self._size > _REMEMBERED:
                self._size -= _length(self._found.popitem(last=False)[1])


_read_before = _ReadDocuments()


def document_rows(
    connection: duckdb.DuckDBPyConnection, source: SourceSpec, table: str, relation: str | None, described: str
) -> tuple[str, str]:
    """Fill a table with the chunks of a source's documents; the source in words, and a hash of all that was read.

    Args:
        relation: a FROM clause of the table that the documents are in; ``None`` for a path.
        described: that table, or the path, in words.

    Raises:
        SetupError: there is no document, or what reads them is not installed.
        InvalidInputError: a document cannot be read, unless such are skipped; too many; a column is missing.
        UnavailableError: the store does not answer.
    """
    import pyarrow

    spec = source.documents
    assert spec is not None
    names = ("chunk", "document", "title", "text", *spec.attributes)
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    refused: list[str] = []
    digest, documents = hashlib.sha256(), 0
    rows = _of_path(source) if relation is None else _of_table(connection, source, relation)
    with DocumentReader() as reader:
        for row in rows:
            documents += 1
            if documents > MOST_DOCUMENTS or len(columns["chunk"]) > MOST_CHUNKS:
                raise _too_many(source)
            key = _key(row.task)
            digest.update(hashlib.sha256(key + repr((row.error, row.attributes)).encode()).digest())
            found = ReadDocument(error=row.error) if row.error is not None else _read_before.get(key)
            if found is None:
                found = reader.read(row.task)
                _read_before.keep(key, found)
            if found.error is not None:
                refused.append(f"{row.task.name}: {found.error}")
            for chunk in found.chunks:
                values = (f"{row.task.name}#{chunk.number}", row.task.name, found.title, chunk.text, *row.attributes)
                for name, value in zip(names, values, strict=True):
                    columns[name].append(value)
    said = f"{documents - len(refused)} document(s) of {described}"
    if refused:
        listed = "; ".join(refused[:_SHOWN]) + (f"; and {len(refused) - _SHOWN} more" if refused[_SHOWN:] else "")
        if spec.unreadable == "block":
            raise InvalidInputError(
                f"{len(refused)} of {documents} documents cannot be read: {listed}.",
                where=f"source {source.name}",
                next_step="Mend or remove them, or declare unreadable='skip'; what was published before stays.",
            )
        _log.warning("%s: %d of %d documents are left out: %s", source.name, len(refused), documents, listed)
        said += f", without {listed}"
    arrow = {name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()}
    instant = pyarrow.timestamp("us", tz="UTC")
    arrow["event_time"] = pyarrow.array([EVENT_TIME] * len(columns["chunk"]), instant)
    connection.register("read_documents", pyarrow.table(arrow))
    connection.execute(f"CREATE TEMP TABLE {quoted(table)} AS SELECT * FROM read_documents")
    connection.unregister("read_documents")
    return said, digest.hexdigest()


def _of_path(source: SourceSpec) -> Iterator[_TableDocument]:
    assert source.documents is not None
    for raw in raw_documents(source):
        yield _TableDocument(DocumentTask(raw.id, raw.content, source.documents), raw.error)


def _of_table(connection: duckdb.DuckDBPyConnection, source: SourceSpec, relation: str) -> Iterator[_TableDocument]:
    """The rows of a table in the order of their ids."""
    spec = source.documents
    assert spec is not None
    types = types_of(connection, relation)
    named = [spec.id, spec.text, *([spec.title] if spec.title else []), *spec.attributes]
    if absent := [name for name in named if name not in types]:
        raise InvalidInputError(
            f"The table has no column {absent[0]!r}; it has {', '.join(types)}.", where=f"source {source.name}"
        )
    selected = ", ".join(f"CAST({quoted(str(name))} AS VARCHAR)" for name in named)
    ids = connection.execute(f"SELECT {selected.partition(', ')[0]} FROM {relation}").fetchall()
    twice = repeated([id for (id,) in ids if id is not None])
    found = connection.execute(f"SELECT {selected} FROM {relation} ORDER BY 1")
    while rows := found.fetchmany(_BATCH):
        for id, text, *rest in rows:
            title, attributes = (rest[0] or "", rest[1:]) if spec.title else ("", rest)
            task = DocumentTask(id or "(none)", b"", spec, text or "", title)
            yield _TableDocument(task, _mistake(id, text or "", twice), tuple(attributes))


def _mistake(id: str | None, text: str, twice: Collection[str]) -> str | None:
    if not id:
        return "a row has no id"
    if id in twice:
        return "two documents have this id"
    return f"its text has more than {MOST_CHARACTERS:,} characters" if len(text) > MOST_CHARACTERS else None


def _key(task: DocumentTask) -> bytes:
    raw = RawDocument(task.name, task.content).digest
    return hashlib.sha256(raw + repr((task.text, task.title)).encode() + content_hash(task.spec).encode()).digest()


def _length(read: ReadDocument) -> int:
    return 200 + sum(len(chunk.text) for chunk in read.chunks)


def _too_many(source: SourceSpec) -> InvalidInputError:
    return InvalidInputError(
        f"The source has more than {MOST_DOCUMENTS:,} documents or {MOST_CHUNKS:,} chunks.",
        where=f"source {source.name}",
        next_step="Declare several Documents of parts of it.",
    )
