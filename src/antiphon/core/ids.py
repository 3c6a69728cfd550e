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
_canonical = msgspec.json.Encoder(order="deterministic")


def new_id(prefix: str) -> str:
    """A new id such as ``pred_06fq3…``: 48 bits of milliseconds, then 80 random bits, in base 32.

    Ids of one process sort by creation time to the millisecond.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return f"{prefix}_{''.join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))}"


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
