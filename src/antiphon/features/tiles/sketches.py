"""Sketches: how many different values, and quantiles, from states that are integers and merge exactly.

Invariant: a sketch's state is a function of the values alone, not of how they were cut into tiles, merged or ordered:
the sketches of A and B merge into the sketch of their union. So every path ends with one state and one estimate.

*Distinct*: the K least of the values' 63-bit hashes ("k minimum values": Bar-Yossef et al., RANDOM 2002; Beyer et al.,
SIGMOD 2007). With fewer than K it is exact; else the K-th least hash tells how densely they lie, an unbiased estimate
with a relative standard error of about 1/√(K − 2).

*Quantiles*: how many values lie in each bucket of a log-linear scale, as in HdrHistogram and DDSketch (Masson et al.,
VLDB 2019) with a linear step inside each power of two. Values are fixed-point integers; magnitudes below
2^``SIGNIFICANT`` have a bucket each, larger ones share 2^(``SIGNIFICANT`` − 1) buckets for each power of two, so that
the middle of a bucket is within 1/2^``SIGNIFICANT`` of everything in it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

KEPT = 1_024
"""K: how many hashes a sketch of distinct values keeps."""
HASH_BITS = 63
SIGNIFICANT = 8
"""Leading bits of a magnitude that tell its bucket."""
_HALF = SIGNIFICANT - 1


def hashed(value: float | bool | str) -> int:
    """63 bits of a value, the same that :func:`hashed_sql` makes of it; numbers by their bits, texts by code point."""
    if isinstance(value, bool):
        text = "btrue" if value else "bfalse"
    elif isinstance(value, str):
        text = f"s{value}"
    else:
        # Adding zero turns -0.0 into 0.0: there is one zero.
        (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
        text = f"n{bits:064b}"
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") >> (64 - HASH_BITS)


def hashed_sql(sql: str, kind: str) -> str:
    """:func:`hashed` in SQL, of an expression of this kind that is finite or null."""
    if kind == "boolean":
        text = f"'b' || CAST({sql} AS VARCHAR)"
    elif kind == "text":
        text = f"'s' || {sql}"
    else:
        text = f"'n' || CAST(CAST(({sql}) + 0.0::DOUBLE AS BIT) AS VARCHAR)"
    return f"CAST(md5_number_lower({text}) >> {64 - HASH_BITS} AS BIGINT)"


def kept(hashes: Iterable[int]) -> list[int]:
    """The state of a sketch of distinct values: the least hashes, in order."""
    return sorted(set(hashes))[:KEPT]


def distinct_estimate(least: list[int]) -> int:
    """Estimated number of different values, from :func:`kept`; exact when fewer than ``KEPT``."""
    if len(least) < KEPT:
        return len(least)
    return ((KEPT - 1) << HASH_BITS) // (least[-1] + 1)


def bucket(steps: int) -> int:
    """The bucket of a fixed-point value; buckets are in the order of the values in them."""
    magnitude = abs(steps)
    shift = max(0, magnitude.bit_length() - SIGNIFICANT)
    number = (shift << _HALF) + (magnitude >> shift)
    return number if steps >= 0 else -number


def bucket_sql(column: str) -> str:
    """:func:`bucket` in SQL, of a BIGINT column."""
    magnitude = f"abs({column})"
    shift = f"greatest(length(bin({magnitude})) - {SIGNIFICANT}, 0)"
    return f"(sign({column}) * (({shift} << {_HALF}) + ({magnitude} >> {shift})))"


def twice_middle(number: int) -> int:
    """Twice the middle of a bucket, in steps: an integer also where the middle lies between two."""
    magnitude = abs(number)
    if magnitude < 1 << SIGNIFICANT:
        return 2 * number
    shift = (magnitude >> _HALF) - 1
    low = (magnitude - (shift << _HALF)) << shift
    middle = 2 * low + (1 << shift) - 1
    return middle if number >= 0 else -middle


def bucket_at(buckets: Mapping[int, int], share: tuple[int, int]) -> int | None:
    """The bucket of the quantile: of n values in order that at place ⌈q·n⌉, counted from 1 and at least 1. ``share``: q
    as an exact fraction."""
    total = sum(buckets.values())
    if not total:
        return None
    rank = max(1, -(-share[0] * total // share[1]))
    for number in sorted(buckets):
        rank -= buckets[number]
        if rank <= 0:
            return number
    raise AssertionError("a rank is at most the number of values")
