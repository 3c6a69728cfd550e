"""Logarithms and time zone offsets that DuckDB and Python compute to the same bits.

A logarithm of the C library may differ in its last bit between machines, and a time zone database between DuckDB and
Python. So the logarithm is made of the four operations that IEEE 754 rounds correctly, and a zone's offsets are read
once from Python's database and written into the SQL.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

HOUR = 3_600_000_000.0
DAY = 24 * HOUR
WHOLE = 2.0**52
"""From here on every double is a whole number."""
LN2 = 0.6931471805599453
SERIES = tuple(1.0 / odd for odd in range(25, 2, -2))
"""Coefficients of atanh's series from the highest down to s²/3; with |s| ≤ 0.2 what is left out is below 10⁻¹⁸."""
NEAR = (-0.25, 0.5)
"""Bound of x below which 1 + x would lose digits of x, and is not needed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2100, 1, 1, tzinfo=UTC)
_STEP = timedelta(hours=12)
_MICROSECOND = timedelta(microseconds=1)


def log1p(x: float) -> float | None:
    """ln(1 + x) from correctly rounded operations in a fixed order; ``None`` for x ≤ −1.

    With 1 + x = m·2^e and s = (m − 1)/(m + 1): ln = e·ln 2 + 2·(s + s³/3 + s⁵/5 + …).
    """
    if not x > -1.0:
        return None
    if NEAR[0] < x < NEAR[1]:
        return _atanh(x / (2.0 + x)) * 2.0
    mantissa, exponent = math.frexp(1.0 + x)
    if mantissa < 0.75:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    return exponent * LN2 + _atanh((mantissa - 1.0) / (mantissa + 1.0)) * 2.0


def _atanh(s: float) -> float:
    square = s * s
    total = SERIES[0]
    for coefficient in SERIES[1:]:
        total = total * square + coefficient
    return total * square * s + s


@lru_cache(maxsize=64)
def offsets_of(zone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Instants between 1970 and 2100 at which a zone's offset changes, and the offsets: the first holds before the
    first instant, the n-th from the n − 1st on. All in microseconds."""
    known = ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta:
        return moment.astimezone(known).utcoffset() or timedelta()

    transitions: list[float] = []
    offsets = [offset(_EPOCH)]
    at = _EPOCH
    while at < _LAST:
        after = at + _STEP
        if offset(after) != offsets[-1]:
            low, high = at, after
            while high - low > _MICROSECOND:
                middle = low + (high - low) // 2
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            transitions.append(float((high - _EPOCH) // _MICROSECOND))
            offsets.append(offset(high))
        at = after
    return tuple(transitions), tuple(float(each // _MICROSECOND) for each in offsets)
