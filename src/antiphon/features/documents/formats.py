"""Formats of documents: the bytes of a text, Markdown, HTML or PDF file become a title and a text.

Runs in the reading process, which is limited in memory and time: the libraries read what strangers wrote. A text keeps
headings as Markdown's, so that chunks know the section that they are of.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

MOST_CHARACTERS = 5_000_000
"""Longest text of one document."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BLANK_LINES = re.compile(r"\n\s*\n\s*")
_TITLE = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "figcaption", "footer",
     "form", "header", "hr", "html", "li", "main", "ol", "p", "pre", "section", "table", "tr", "ul")
)  # fmt: skip
_UNSEEN = "script, style, noscript, template, nav, svg, head, iframe, object"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive (such as DOCX)"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\xd0\xcf\x11\xe0", "an Office file of before 2007"),
)


class FormatError(Exception):
    """A document that cannot be read, in words."""


class ParsedDocument(msgspec.Struct, frozen=True):
    """Title and text of a document; ``marked``: headings and blocks are Markdown's."""

    title: str
    text: str
    marked: bool


def parse(name: str, content: bytes, encoding: str) -> ParsedDocument:
    """Read a document by its name's suffix; raises ``FormatError``, or what a library raises."""
    reader = _READERS[PurePosixPath(name).suffix.lower()]
    if reader is not _pdf:
        for magic, words in _MAGIC:
            if content.startswith(magic):
                raise FormatError(f"it is {words}")
        if content.startswith(b"%PDF-"):
            raise FormatError("it is a PDF")
    parsed = reader(content, encoding)
    text = _CONTROLS.sub("", parsed.text).strip()
    if len(text) > MOST_CHARACTERS:
        raise FormatError(f"its text has more than {MOST_CHARACTERS:,} characters")
    title = " ".join(_CONTROLS.sub("", parsed.title).split()) or PurePosixPath(name).stem
    return ParsedDocument(title[:200], text, parsed.marked)


def decoded(content: bytes, encoding: str) -> str:
    """The text of bytes in an encoding, or in that of its byte order mark; raises ``FormatError`` for another one."""
    for mark, marked in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            encoding = marked
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(f"it is not {encoding}: byte {error.start} begins no character") from None
    if "\x00" in text:
        raise FormatError("it is no text: it has zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain(content: bytes, encoding: str) -> ParsedDocument:
    return ParsedDocument("", decoded(content, encoding), marked=False)


def _markdown(content: bytes, encoding: str) -> ParsedDocument:
    text = decoded(content, encoding)
    found = _TITLE.search(text)
    return ParsedDocument(found[1] if found is not None else "", text, marked=True)


def _html(content: bytes, encoding: str) -> ParsedDocument:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(content, encoding))
    named, heading = tree.css_first("title"), tree.css_first("h1")
    title = next((one.text() for one in (named, heading) if one is not None and one.text().strip()), "")
    tree.strip_tags(_UNSEEN.split(", "))
    pieces = "".join(_written(tree.root)) if tree.root is not None else ""
    lines = (" ".join(line.split()) for line in pieces.split("\n"))
    return ParsedDocument(title, _BLANK_LINES.sub("\n\n", "\n".join(lines)), marked=True)


def _written(root: LexborNode) -> Iterator[str]:
    """The text below a node, blocks apart and headings marked; without recursion, for a page may be nested deeply."""
    waiting: list[LexborNode | str] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
            continue
        tag = node.tag or ""
        if tag == "-text":
            yield " ".join((node.text_content or "").split("\n"))
            continue
        before, after = "", ""
        if re.fullmatch(r"h[1-6]", tag):
            before, after = f"\n\n{'#' * int(tag[1])} ", "\n\n"
        elif tag == "li":
            before, after = "\n\n- ", "\n\n"
        elif tag == "br":
            before = "\n"
        elif tag in ("td", "th"):
            before = " "
        elif tag in _BLOCKS:
            before = after = "\n\n"
        yield before
        waiting.append(after)
        waiting.extend(reversed(list(node.iter(include_text=True))))


def _pdf(content: bytes, encoding: str) -> ParsedDocument:
    import pypdf
    import pypdf.errors

    if not content.startswith(b"%PDF-"):
        raise FormatError("it is no PDF")
    try:
        reader = pypdf.PdfReader(io.BytesIO(content), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise FormatError("it is encrypted by a password")
        pages, length = [], 0
        for page in reader.pages:
            # Decoded before its text is taken, which passes over instructions that it cannot decode.
            contents = page.get_contents()
            if contents is not None:
                contents.get_data()
            pages.append(page.extract_text())
            length += len(pages[-1])
            if length > MOST_CHARACTERS:
                raise FormatError(f"its text has more than {MOST_CHARACTERS:,} characters")
        title = str(reader.metadata.title or "") if reader.metadata is not None else ""
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"its PDF is broken: {str(error)[:200] or type(error).__name__}") from None
    if not any(page.strip() for page in pages):
        raise FormatError("it has no text: its pages may be pictures")
    return ParsedDocument(title, "\n\n".join(pages), marked=False)


_READERS: dict[str, Callable[[bytes, str], ParsedDocument]] = {
    ".txt": _plain, ".text": _plain, ".rst": _plain,
    ".md": _markdown, ".markdown": _markdown,
    ".html": _html, ".htm": _html, ".xhtml": _html,
    ".pdf": _pdf,
}  # fmt: skip
SUFFIXES = frozenset(_READERS)
"""Suffixes of files that are read; others in a folder are none of its documents."""
