"""Identifiers and hashes: sortable ids, content hashes, keyed hashes of entities."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_RANDOM_BYTES = 10
_AT_ONCE = 400
_canonical = msgspec.json.Encoder(order="deterministic")


def new_id(prefix: str) -> str:
    """A new id such as ``pred_06fq3…``: 48 bits of milliseconds, then 80 random bits, in base 32.

    Ids of one process sort by creation time to the millisecond.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(_random.take(), "big")
    return f"{prefix}_{''.join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])}"


class _Random:
    """Random bytes of the operating system, asked for many ids at once: each question gives up the interpreter's lock,
    and a busy process waits to get it back. No bytes are given twice."""

    def __init__(self) -> None:
        self._left: list[bytes] = []
        # A process that was forked has the same bytes left as its parent.
        os.register_at_fork(after_in_child=self._left.clear)

    def take(self) -> bytes:
        try:
            return self._left.pop()
        except IndexError:
            fetched = os.urandom(_RANDOM_BYTES * _AT_ONCE)
            self._left += [fetched[at : at + _RANDOM_BYTES] for at in range(0, len(fetched), _RANDOM_BYTES)]
            return self.take()


_random = _Random()


def canonical(value: object) -> bytes:
    """Deterministic JSON bytes of a frozen value (keys sorted), the input of every content hash."""
    return _canonical.encode(value)


def content_hash(value: object) -> str:
    """SHA-256 hex of bytes as they are, of anything else in its canonical form."""
    content = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else canonical(value)
    return hashlib.sha256(content).hexdigest()


def keyed_hash(key: bytes, text: str) -> bytes:
    """16 bytes of keyed BLAKE2b (RFC 7693): how stores and receipts index entities without their clear key."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=_fitting(key)).digest()


def keyed_hashes(key: bytes, texts: Iterable[bytes], begin: bytes = b"") -> list[bytes]:
    """:func:`keyed_hash` of many texts in UTF-8, each after the same beginning; like the key it is taken in once."""
    copy = _begun(key, begin).copy
    found: list[bytes] = []
    append = found.append
    for text in texts:
        hashed = copy()
        hashed.update(text)
        append(hashed.digest())
    return found


@lru_cache(maxsize=1_024)
def _begun(key: bytes, begin: bytes) -> Any:
    begun = hashlib.blake2b(digest_size=16, key=_fitting(key))
    begun.update(begin)
    return begun


def _fitting(key: bytes) -> bytes:
    return key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.sha512(key).digest()
