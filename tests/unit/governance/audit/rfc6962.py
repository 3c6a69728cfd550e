"""RFC 6962, section 2.1, word for word over a list of entries: slow, recursive, and nothing of ours.

D[n] is a list, D[k1:k2] a slice. Leaves are given as entries, not as hashes.
"""

from __future__ import annotations

from hashlib import sha256


def k(n: int) -> int:
    """The largest power of two smaller than n."""
    power = 1
    while power << 1 < n:
        power <<= 1
    return power


def mth(d: list[bytes]) -> bytes:
    n = len(d)
    if n == 0:
        return sha256().digest()
    if n == 1:
        return sha256(bytes([0]) + d[0]).digest()
    return sha256(bytes([1]) + mth(d[: k(n)]) + mth(d[k(n) :])).digest()


def path(m: int, d: list[bytes]) -> list[bytes]:
    n = len(d)
    if n == 1:
        return []
    if m < k(n):
        return [*path(m, d[: k(n)]), mth(d[k(n) :])]
    return [*path(m - k(n), d[k(n) :]), mth(d[: k(n)])]


def proof(m: int, d: list[bytes]) -> list[bytes]:
    return subproof(m, d, True)


def subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    if m <= k(n):
        return [*subproof(m, d[: k(n)], b), mth(d[k(n) :])]
    return [*subproof(m - k(n), d[k(n) :], False), mth(d[: k(n)])]
