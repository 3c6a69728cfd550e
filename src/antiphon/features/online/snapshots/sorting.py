"""Records in the order of their keys, however many there are.

Few are sorted in memory. More than :data:`HELD` bytes go into files by the leading bits of their keys, which are
hashes, so that the files are about equal; each is then sorted by itself. Memory does not grow with the number of
records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy

HELD = 48 * 2**20
"""Bytes of values held in memory before files are used."""
WRITTEN = 16 * 2**20
"""Bytes of values that are handed on together."""
_IN_A_FILE = 50_000
_FILES = 256
_OVERHEAD = 120
"""Bytes that holding a record takes beside its value."""
_TAKEN = 10_000
_frame = struct.Struct("<HI")


class SortedRecords:
    """:meth:`add` records, :meth:`finish`, then iterate once over some at a time; :meth:`discard` at any time.

    Args:
        path: what the names of files begin with; nothing is written there when there are few records.
        expected: about how many records there will be.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self._path = path
        self._parts = max(1, min(_FILES, expected // _IN_A_FILE))
        self._files: list[BinaryIO] = []
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._holding = 0
        self.size = 0
        """Bytes of all values."""
        self.records = 0

    def add(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Take keys of at least 16 bytes, each once, and their values."""
        for first in range(0, len(keys), _TAKEN):
            part = values[first : first + _TAKEN]
            self._keys += keys[first : first + _TAKEN]
            self._values += part
            size = sum(map(len, part))
            self.size += size
            self.records += len(part)
            self._holding += size + _OVERHEAD * len(part)
            if self._holding > HELD:
                self._spill()

    def finish(self) -> None:
        """Close the input."""
        if self._files:
            self._spill()

    def __iter__(self) -> Iterator[Iterator[tuple[bytes, bytes]]]:
        if not self._files:
            yield from _cut(self._keys, self._values)
            return
        for file in self._files:
            file.seek(0)
            keys, values = _read(file.read())
            yield from _cut(keys, values)
            file.close()

    def discard(self) -> None:
        """Drop all records."""
        self._keys, self._values = [], []
        for file in self._files:
            file.close()

    def _spill(self) -> None:
        if not self._files:
            for part in range(self._parts):
                path = self._path.with_name(f"{self._path.name}{part}")
                self._files.append(path.open("w+b"))
                path.unlink()  # A file without a name is gone with this process, whatever happens to it.
        pieces: list[list[bytes]] = [[] for _ in self._files]
        pack, parts = _frame.pack, self._parts
        for key, value in zip(self._keys, self._values, strict=True):
            pieces[(key[0] << 8 | key[1]) * parts >> 16] += (pack(len(key), len(value)), key, value)
        for file, piece in zip(self._files, pieces, strict=True):
            file.write(b"".join(piece))
        self._keys, self._values, self._holding = [], [], 0


def _cut(keys: list[bytes], values: list[bytes]) -> Iterator[Iterator[tuple[bytes, bytes]]]:
    """In the order of keys, some at a time."""
    order = key_order(keys).tolist()
    step = max(1, WRITTEN * len(keys) // max(1, sum(map(len, values))))
    for first in range(0, len(order), step):
        chosen = order[first : first + step]
        yield zip(map(keys.__getitem__, chosen), map(values.__getitem__, chosen), strict=True)


def key_order(keys: Sequence[bytes]) -> numpy.ndarray[Any, Any]:
    """The places of keys in their order. Records that are made in it lie in it in memory, and are written in a third of
    the time: the next one is at hand."""
    import numpy

    content = b"".join(keys)
    if len(content) == 16 * len(keys):
        heads = numpy.frombuffer(content, ">u8")[::2].astype(numpy.uint64)
    else:
        heads = numpy.frombuffer(b"".join([key[:8] for key in keys]), ">u8").astype(numpy.uint64)
    order = numpy.argsort(heads)
    ordered = heads[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        # An entity has several keys.
        return numpy.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=numpy.int64)
    return order


def _read(content: bytes) -> tuple[list[bytes], list[bytes]]:
    keys, values = [], []
    at, end = 0, len(content)
    while at < end:
        key, value = _frame.unpack_from(content, at)
        at += _frame.size
        keys.append(content[at : at + key])
        at += key
        values.append(content[at : at + value])
        at += value
    return keys, values
