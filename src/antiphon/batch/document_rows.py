"""Folders of documents as the input of table jobs: a row a document, whose question is its text.

Invariants: the documents are those that were there when the job was ordered, in the order of their names: one that
comes later is none of its rows, and one that is gone fails its own row. Texts are read one at a time by the reading
process of retrieved documents, within its bounds of size, memory and time, when their row is due.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from antiphon.batch.tables import Row
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError, TooLargeError
from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.features.documents.folder import LARGEST, MOST_DOCUMENTS, document_files, read_file
from antiphon.features.documents.reading_process import DocumentReader, DocumentTask, ReadDocument

DOCUMENT, TITLE, QUESTION = "document", "title", "question"
LISTED = 20
"""Documents that cannot be read which an outlook names."""


def documents_in(folder: Path) -> list[str]:
    """The names of a folder's documents, relative to it and in order.

    Raises:
        NotFoundError: there is none.
        TooLargeError: there are too many.
        InvalidInputError: a name is not UTF-8.
    """
    try:
        files = document_files(str(folder))
    except SetupError as error:
        raise NotFoundError(error.what, where=str(folder), next_step=error.next_step) from None
    if len(files) > MOST_DOCUMENTS:
        raise TooLargeError(
            f"The folder has {len(files):,} documents, and a job takes at most {MOST_DOCUMENTS:,}.",
            where=str(folder),
            next_step="Divide it into several folders.",
        )
    names = [file.relative_to(folder).as_posix() for file in files]
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InvalidInputError(
                f"The file name {name!r} is not UTF-8.", where=str(folder), next_step="Rename the file."
            )
    return sorted(names)


def columns(folder: Path, name: str) -> Row:
    """A document's row without its text: its name and title, and a column for each folder ``KEY=VALUE`` that it lies
    in, the input itself included."""
    parts = (folder.name, *PurePosixPath(name).parts[:-1])
    keys = dict(part.split("=", 1) for part in parts if part.partition("=")[0] and "=" in part)
    return {**keys, DOCUMENT: name, TITLE: None}


def previewed(folder: Path, names: Sequence[str], sampled: int, unreadable: list[str]) -> Iterator[Row]:
    """Every document's row, the first ``sampled`` of them with their text. ``unreadable`` receives a sentence of each
    document, at most :data:`LISTED`, that is seen to be unreadable: the first ones are read, of others the size is
    looked at."""
    with DocumentReader() as reader:
        for number, name in enumerate(names):
            row, error = columns(folder, name), None
            if number < sampled:
                found = _read(reader, folder, name)
                row[QUESTION], error = found.text, found.error
            elif _size(folder / name) > LARGEST:
                error = f"it has more than {LARGEST >> 20} MiB"
            if error is not None and len(unreadable) < LISTED:
                unreadable.append(f"{name}: {error}")
            yield row


class DocumentTexts:
    """Reads the documents of a job's folder, one at a time. Close it when done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = DocumentReader()
        self._lock = threading.Lock()

    async def read(self, name: str) -> tuple[str, str]:
        """Title and text of a document; raises ``InvalidInputError`` with the reason why it has none."""
        found = await asyncio.to_thread(self._one, name)
        if found.error is not None:
            raise InvalidInputError(
                f"The document cannot be read: {found.error}.", where=name, next_step="Mend it or leave it out."
            )
        return found.title, found.text

    def _one(self, name: str) -> ReadDocument:
        with self._lock:
            return _read(self._reader, self._folder, name)

    def close(self) -> None:
        """End the reading process; a document that is being read then is given up."""
        self._reader.close()


def _read(reader: DocumentReader, folder: Path, name: str) -> ReadDocument:
    raw = read_file(name, folder / name, folder)
    if raw.error is not None:
        return ReadDocument(error=raw.error)
    found = reader.read(DocumentTask(name, raw.content, DocumentsSpec(), whole=True))
    return found if found.error is not None or found.text.strip() else ReadDocument(error="it has no text")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
