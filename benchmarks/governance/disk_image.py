"""Searches every byte of folders for planted words. It knows nothing of codecs, envelopes or keys.

A word is looked for as UTF-8, as UTF-16 in both orders, as hex and in base64 at each of its three alignments; in what
zlib, gzip and zstd streams anywhere in a file decompress to; and in the values of Parquet files, however compressed.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_MOST = 64_000_000
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd")


def search(folders: Iterable[Path], words: Iterable[str]) -> dict[str, list[str]]:
    """Where each word stands: names of files, with ``(decompressed)`` or ``(Parquet)`` where it is not in clear."""
    looked = {word: forms(word) for word in words}
    found: dict[str, list[str]] = {word: [] for word in looked}
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if not file.is_file() or file.is_symlink():
                continue
            content = file.read_bytes()
            for how, view in _views(content):
                for word, wanted in looked.items():
                    place = f"{file.relative_to(folder)}{how}"
                    if place not in found[word] and any(form in view for form in wanted):
                        found[word].append(place)
    return found


def forms(word: str) -> tuple[bytes, ...]:
    """The bytes that a word may be written as."""
    clear = word.encode()
    spelled = [clear, word.encode("utf-16-le"), word.encode("utf-16-be"), clear.hex().encode()]
    for shift in range(3):
        # Of the base64 at this alignment, what does not depend on the neighbors.
        text = base64.b64encode(b"\0" * shift + clear)
        kept = text[-(-shift * 4 // 3) + (1 if shift else 0) : len(text) - 4]
        spelled += [kept, kept.replace(b"+", b"-").replace(b"/", b"_")]
    return tuple(spelled)


def _views(content: bytes) -> Iterator[tuple[str, bytes]]:
    yield "", content
    for match in _ZLIB.finditer(content):
        with suppress(zlib.error):
            opened = zlib.decompressobj(wbits=47).decompress(content[match.start() :], _MOST)
            if opened:
                yield " (decompressed)", opened
    for match in _ZSTD.finditer(content):
        opened = _zstd(content[match.start() :])
        if opened:
            yield " (decompressed)", opened
    if content.startswith(b"PAR1"):
        yield " (Parquet)", _parquet(content)


def _zstd(content: bytes) -> bytes:
    import pyarrow

    opened = b""
    with suppress(OSError, pyarrow.ArrowException):
        stream = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd")
        while len(opened) < _MOST and (piece := stream.read(65_536)):
            opened += piece
    return opened


def _parquet(content: bytes) -> bytes:
    import pyarrow
    import pyarrow.parquet

    with suppress(OSError, pyarrow.ArrowException):
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        return repr(table.to_pydict()).encode()
    return b""
