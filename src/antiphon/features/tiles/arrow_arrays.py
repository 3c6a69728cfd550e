"""Arrow to NumPy and back through the buffers alone: pyarrow's own conversions load pandas where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow


def integers(column: pyarrow.ChunkedArray) -> NDArray[np.int64]:
    """A column of integers; 0 where it is null."""
    import pyarrow

    if column.type != pyarrow.int64():
        column = column.cast(pyarrow.int64())
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    found = [np.frombuffer(chunk.buffers()[1], np.int64, len(chunk), 8 * chunk.offset) for chunk in chunks]
    values = np.concatenate(found) if found else np.zeros(0, np.int64)
    flags = present(column)
    return values if flags is None else np.where(flags, values, 0)


def present(column: pyarrow.ChunkedArray) -> NDArray[np.bool_] | None:
    """Flags of the rows that are not null; ``None`` when no row is null."""
    if not column.null_count:
        return None
    return np.concatenate([_validity(chunk) for chunk in column.chunks])


def array(values: NDArray[Any], flags: NDArray[np.bool_] | None = None) -> pyarrow.Array:
    """64-bit integers or doubles, null where the flag is unset."""
    import pyarrow

    kind = pyarrow.float64() if values.dtype == np.float64 else pyarrow.int64()
    bits = None if flags is None else pyarrow.py_buffer(np.packbits(flags, bitorder="little"))
    return pyarrow.Array.from_buffers(kind, len(values), [bits, pyarrow.py_buffer(np.ascontiguousarray(values))])


def _validity(chunk: pyarrow.Array) -> NDArray[np.bool_]:
    bits = chunk.buffers()[0]
    if bits is None:
        return np.ones(len(chunk), np.bool_)
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return unpacked[chunk.offset : chunk.offset + len(chunk)].astype(np.bool_)
