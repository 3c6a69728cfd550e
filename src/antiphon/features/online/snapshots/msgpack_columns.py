"""MessagePack of whole columns: the bytes of every value one after the other, and where each value's begin.

Invariant: a slice of them behind an array's header is what ``msgspec.msgpack`` writes of the list of these values: an
integer in its shortest form (unsigned unless it is negative), a float in eight bytes, a text in UTF-8.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.features.expressions.compile_python import SEQUENCE_DIGITS
from antiphon.features.tiles.row_batches import MeasureColumn
from antiphon.features.tiles.row_digest import text_bytes

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

NIL = 0xC0
_FALSE, _FLOAT = 0xC2, 0xCB
_POSITIVE, _NEGATIVE = (0x80, 0x100, 0x1_0000, 0x1_0000_0000), (0x20, 0x80, 0x8000, 0x8000_0000)
"""Below these, of the value or of its complement, an integer needs 0, 1, 2 or 4 bytes behind its tag; else 8."""
_BYTES = (0, 1, 2, 4, 8)
_encode = msgspec.msgpack.Encoder().encode


class EncodedColumn:
    """A column's bytes; ``begins`` has one more than there are values."""

    def __init__(self, content: bytes, begins: Array) -> None:
        self.content = content
        self.begins = begins

    def slices(self, starts: Array) -> list[bytes]:
        """The values from each start to the next one, without an array's header."""
        return [self.content[begin:end] for begin, end in pairwise(self.begins[starts].tolist())]


def array_header(length: int) -> bytes:
    """Header of an array of so many values."""
    if length < 16:
        return bytes((0x90 | length,))
    return b"\xdc" + length.to_bytes(2, "big") if length < 2**16 else b"\xdd" + length.to_bytes(4, "big")


def map_header(length: int) -> bytes:
    """Header of a map of so many pairs."""
    if length < 16:
        return bytes((0x80 | length,))
    return b"\xde" + length.to_bytes(2, "big") if length < 2**16 else b"\xdf" + length.to_bytes(4, "big")


def encoded_measure(column: MeasureColumn) -> EncodedColumn:
    """A measure's values, nil where it is null."""
    import numpy

    values, present = column.values, column.present
    if column.texts is not None:
        every = [_encode(text) for text in column.texts.to_pylist()]
        codes = values if present is None else numpy.where(present, values, len(every))
        every.append(bytes((NIL,)))
        sizes = numpy.array([len(one) for one in every])
        return EncodedColumn(b"".join([every[code] for code in codes.tolist()]), _begins(sizes[codes]))
    if values.dtype == numpy.uint8:
        content = values + numpy.uint8(_FALSE)
        return _fixed((content if present is None else numpy.where(present, content, NIL))[:, None])
    if values.dtype == numpy.float64:
        return _tagged(values.view(numpy.int64), numpy.full(len(values), 4), present, _FLOAT)
    return encoded_integers(values, present)


def encoded_integers(values: Array, present: Array | None = None) -> EncodedColumn:
    """Integers of 64 bits, nil where they are not present."""
    import numpy

    lowest, highest = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    least, most = _form(lowest), _form(highest)
    if lowest >= 0 and least == most:
        form = numpy.full(len(values), least, numpy.uint8)
    else:
        form = numpy.zeros(len(values), numpy.uint8)
        for limit in _POSITIVE:
            form += values >= limit
        for limit in _NEGATIVE if lowest < 0 else ():
            form += values < -limit
    return _tagged(values, form, present, None)


def _form(value: int) -> int:
    """Its place among ``_BYTES``."""
    return sum(value >= limit for limit in _POSITIVE) + sum(value < -limit for limit in _NEGATIVE)


def encoded_sequences(column: pyarrow.Array) -> EncodedColumn:
    """Texts of ``SEQUENCE_DIGITS`` characters."""
    import numpy

    content = numpy.empty((len(column), 1 + SEQUENCE_DIGITS), numpy.uint8)
    content[:, 0] = 0xA0 | SEQUENCE_DIGITS
    content[:, 1:] = numpy.frombuffer(text_bytes(column), numpy.uint8).reshape(len(column), SEQUENCE_DIGITS)
    return _fixed(content)


def _tagged(values: Array, form: Array, present: Array | None, tag: int | None) -> EncodedColumn:
    """Words with the bytes that their form keeps, behind a tag: the one given or that of integers."""
    import numpy

    if present is None and len(form) and bool((form == form[0]).all()):
        return _fixed(_behind_tags(values, _BYTES[form[0]], tag))
    forms = numpy.array(_BYTES)[form] if present is None else numpy.where(present, numpy.array(_BYTES)[form], 0)
    begins = _begins(1 + forms)
    content = numpy.empty(int(begins[-1]), numpy.uint8)
    for number, size in enumerate(_BYTES):
        rows: Any = numpy.flatnonzero(form == number if present is None else (form == number) & present)
        if len(rows):
            within = begins[rows][:, None] + numpy.arange(1 + size)
            content[within] = _behind_tags(values[rows], size, tag)
    if present is not None:
        content[begins[:-1][~present]] = NIL
    return EncodedColumn(content.tobytes(), begins)


def _behind_tags(values: Array, size: int, tag: int | None) -> Array:
    """The last bytes of words, each row behind its tag."""
    import numpy

    content = numpy.empty((len(values), 1 + size), numpy.uint8)
    word = values.astype(">i8").view(numpy.uint8).reshape(len(values), 8)
    if tag is not None:
        content[:, 0] = tag
    elif size == 0:
        content[:, 0] = word[:, 7]
    else:
        number = _BYTES.index(size)
        content[:, 0] = numpy.where(values >= 0, 0xCB + number, 0xCF + number)
    content[:, 1:] = word[:, 8 - size :]
    return content


def _fixed(content: Array) -> EncodedColumn:
    import numpy

    rows, size = content.shape
    return EncodedColumn(content.astype("uint8", copy=False).tobytes(), numpy.arange(0, rows * size + 1, size))


def _begins(sizes: Array) -> Array:
    import numpy

    return numpy.concatenate([[0], numpy.cumsum(sizes)])
