"""The logical hash: of the values alone, whatever the order of the source's rows and the encoding of files.

Rows are taken in their one order and a column at a time, so that the hash does not depend on how they were cut into
batches, and no step holds more than one batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow


class RowDigest:
    """A running SHA-256 of every column: of lengths and bytes of texts, of bits of numbers, and of where nulls are."""

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, list[Any]] = {}

    def add(self, rows: pyarrow.RecordBatch) -> None:
        """Add the next rows."""
        self._rows += rows.num_rows
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            digests = self._columns.setdefault(name, [hashlib.sha256() for _ in range(3)])
            for digest, part in zip(digests, _parts(column), strict=False):
                digest.update(part)

    def finish(self) -> list[object]:
        """The digests, for ``content_hash``."""
        return [
            self._rows,
            [[name, *(digest.hexdigest() for digest in digests)] for name, digests in self._columns.items()],
        ]


def _parts(column: pyarrow.Array) -> list[Any]:
    """Validity and values of a column as bytes; the values of a null are zero."""
    import numpy
    import pyarrow
    import pyarrow.compute as pc

    valid = (
        column.is_valid().to_numpy(zero_copy_only=False).view(numpy.uint8)
        if column.null_count
        else numpy.ones(len(column), numpy.uint8)
    )
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        filled = pc.fill_null(column, "") if column.null_count else column
        lengths = pc.binary_length(filled).cast(pyarrow.int64()).to_numpy()
        return [valid, numpy.ascontiguousarray(lengths), text_bytes(filled)]
    if pyarrow.types.is_boolean(column.type):
        column = column.cast(pyarrow.uint8())
    values = (pc.fill_null(column, 0) if column.null_count else column).to_numpy(zero_copy_only=False)
    return [valid, numpy.ascontiguousarray(values).view(numpy.uint8)]


def text_bytes(column: pyarrow.Array) -> memoryview:
    """The bytes of all texts of a column without nulls, one after the other."""
    import numpy
    import pyarrow

    _, offsets, content = column.buffers()
    if content is None or not len(column):
        return memoryview(b"")
    width: Any = numpy.int64 if pyarrow.types.is_large_string(column.type) else numpy.int32
    places = numpy.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    return memoryview(content)[int(places[0]) : int(places[-1])]
