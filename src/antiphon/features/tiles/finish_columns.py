"""Finishing of whole columns: what ``finish.py`` does to one tile, done to arrays, equal to it bit for bit.

Invariant: a division is done in doubles only where numerator and denominator are integers of at most 2⁵³, which doubles
hold exactly and IEEE 754 divides with one rounding, as Python's int / int does; every other row goes through Python.

Counts are ``int64``. Totals and squares are ``int64`` too, or arrays of Python integers (``object``) where they may be
wider. ``scale`` is the step of one unit as an exact fraction. What is null in a result is null in the feature.
"""

from __future__ import annotations

import math
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


Integers = NDArray[Any]
"""``int64``, or Python integers of any size as ``object``."""
Scale = tuple[int, int]

EXACT = 2**53
"""Up to here every integer is a double."""
_WIDE = 2**62


def sums(total: Integers, scale: Scale) -> pyarrow.Array:
    """Σx; of nothing 0."""
    return array(divided(total, np.ones(len(total), np.int64), scale))


def means(total: Integers, count: NDArray[np.int64], scale: Scale) -> pyarrow.Array:
    """Σx / n; of nothing null."""
    present = count > 0
    return array(divided(total, np.where(present, count, 1), scale), present)


def deviations(count: NDArray[np.int64], total: Integers, squares: Integers, scale: Scale) -> pyarrow.Array:
    """The sample's standard deviation √((n·Σx² − (Σx)²) / (n·(n − 1))); of less than two values null."""
    present = count > 1
    n = np.where(present, count, 2)
    numerator, denominator = scale
    if total.dtype != object and squares.dtype != object:
        narrow = (np.abs(total.astype(np.float64)) < 2.0**31) & (
            squares.astype(np.float64) * n.astype(np.float64) < float(_WIDE)
        )
        narrow &= n < 2**31
        kept = np.where(narrow, n, 2)
        spread = kept * np.where(narrow, squares, 0) - np.where(narrow, total, 0) ** 2
        found = np.sqrt(divided(spread, kept * (kept - 1), (numerator**2, denominator**2)))
    else:
        narrow = np.zeros(len(n), np.bool_)
        found = np.zeros(len(n))
    for row in np.flatnonzero(~narrow & present):
        items, added = int(n[row]), int(total[row])
        wide = (items * int(squares[row]) - added * added) * numerator * numerator
        found[row] = math.sqrt(wide / (items * (items - 1) * denominator * denominator))
    return array(found, present)


def scaled(steps: NDArray[np.int64], present: NDArray[np.bool_], scale: Scale) -> pyarrow.Array:
    """A fixed-point value of each row as a number: extremes, first and last."""
    return array(divided(np.where(present, steps, 0), np.ones(len(steps), np.int64), scale), present)


def frequencies(count: NDArray[np.int64], every: NDArray[np.int64]) -> pyarrow.Array:
    """The category's share of all events; null where there are none at all."""
    present = every > 0
    return array(divided(count, np.where(present, every, 1), (1, 1)), present)


def targets(
    count: NDArray[np.int64],
    total: Integers,
    every_count: NDArray[np.int64],
    every_total: Integers,
    smoothing: Scale,
    scale: Scale,
) -> pyarrow.Array:
    """(Σx + m·Σ/N) / (n + m), as one division of integers; null where there are no events at all."""
    weight, per = smoothing
    numerator, denominator = scale
    present = every_count > 0
    found = np.zeros(len(count))
    narrow = np.zeros(len(count), np.bool_)
    if total.dtype != object and every_total.dtype != object and max(weight, per) <= EXACT:
        # Doubles judge the size alone: of integers below half the bound every product is exact.
        above = np.abs(total.astype(np.float64)) * per * every_count + np.abs(every_total.astype(np.float64)) * weight
        below = (count.astype(np.float64) * per + weight + 1) * every_count
        narrow = (above * float(numerator) < EXACT / 2) & (below * float(denominator) < EXACT / 2)
        narrow &= present & ((count > 0) | (weight > 0))
        n, all_n = count[narrow], every_count[narrow]
        over = total[narrow] * per * all_n + weight * every_total[narrow]
        found[narrow] = divided(over, (n * per + weight) * all_n, scale)
    for row in np.flatnonzero(~narrow & present):
        n, added, all_n, all_added = (int(column[row]) for column in (count, total, every_count, every_total))
        if not n and not weight:
            found[row] = all_added * numerator / (all_n * denominator)
        else:
            found[row] = (
                (added * per * all_n + weight * all_added) * numerator / ((n * per + weight) * all_n * denominator)
            )
    return array(found, present)


def divided(above: Integers, below: NDArray[np.int64], scale: Scale) -> NDArray[np.float64]:
    """``above · scale / below`` of each row, rounded once; ``below`` is positive."""
    numerator, denominator = scale
    found = np.zeros(len(above))
    narrow = np.zeros(len(above), np.bool_)
    if above.dtype != object and max(numerator, denominator) <= EXACT:
        most = EXACT // numerator
        narrow = (above <= most) & (above >= -most) & (below <= EXACT // denominator)
        if narrow.all():
            return np.asarray((above * numerator) / (below * denominator), np.float64)
        found[narrow] = (above[narrow] * numerator) / (below[narrow] * denominator)
    for row in np.flatnonzero(~narrow):
        found[row] = int(above[row]) * numerator / (int(below[row]) * denominator)
    return found
