"""Chunking of documents, as the value that a source of documents holds and its definition version covers."""

from __future__ import annotations

from typing import Literal

import msgspec


class DocumentsSpec(msgspec.Struct, frozen=True):
    """Rules by which rows are made of a source's documents.

    Attributes:
        chunk, overlap: most characters of a chunk, and of how many of them the next one begins.
        encoding: of text files.
        unreadable: ``block`` keeps the earlier snapshot when a document cannot be read, ``skip`` publishes the others.
        text, id, title: columns of a table.
        attributes: columns of a table by which retrievals may filter.
    """

    chunk: int = 800
    overlap: int = 80
    encoding: str = "utf-8"
    unreadable: Literal["block", "skip"] = "block"
    text: str | None = None
    id: str | None = None
    title: str | None = None
    attributes: tuple[str, ...] = ()
