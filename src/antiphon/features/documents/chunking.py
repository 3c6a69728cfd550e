"""Chunks of a document: pieces along its sections and sentences, each under the headings that it belongs to.

The pieces are those of ``semantic-text-splitter``, which cuts at the largest unit that fits. A chunk's text begins with
its headings, so that its vector, and a reader, know what it is about.
"""

from __future__ import annotations

import re

import msgspec

from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.features.documents.formats import ParsedDocument

MOST_CHUNKS = 50_000
"""Most chunks of one document."""
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a document: its number in it, from 1, and its text under its headings."""

    number: int
    text: str


def chunks(document: ParsedDocument, spec: DocumentsSpec) -> list[Chunk]:
    """Cut a document; none of a document without text. Each is of ``spec.chunk`` characters at most, its headings
    aside."""
    import semantic_text_splitter as splitting

    splitter = splitting.MarkdownSplitter if document.marked else splitting.TextSplitter
    pieces = splitter(spec.chunk, overlap=spec.overlap).chunk_indices(document.text)
    headings = _headings(document.text) if document.marked else []
    found: list[Chunk] = []
    above: list[tuple[int, str]] = []
    place = 0
    for start, piece in pieces:
        body = piece.strip()
        if not body:
            continue
        while place < len(headings) and headings[place][0] < start:
            _, level, words = headings[place]
            above = [*(one for one in above if one[0] < level), (level, words)]
            place += 1
        first = _HEADING.match(body.partition("\n")[0]) if document.marked else None
        deepest = len(first[1]) if first is not None else 7
        own = [words for level, words in above if level < deepest]
        if not own and first is None:
            own = [document.title]
        if not re.search(r"\w", _without_headings(body) if document.marked else body):
            continue  # a heading alone says nothing; those below it have it
        text = f"{' > '.join(own)}\n\n{body}" if own else body
        found.append(Chunk(len(found) + 1, text))
        if len(found) > MOST_CHUNKS:
            break
    return found


def _headings(text: str) -> list[tuple[int, int, str]]:
    """Each heading's offset, level and words, those inside fenced code aside."""
    found: list[tuple[int, int, str]] = []
    offset, fenced = 0, ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if fence is not None and fenced in ("", fence[1]):
            fenced = "" if fenced else fence[1]
        elif not fenced and (heading := _HEADING.match(line.rstrip("\n"))) is not None:
            found.append((offset, len(heading[1]), heading[2]))
        offset += len(line)
    return found


def _without_headings(body: str) -> str:
    return "\n".join(line for line in body.split("\n") if _HEADING.match(line) is None)
