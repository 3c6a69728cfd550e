"""Identifiers and hashes: sortable ids, content hashes, keyed hashes of entities."""

from __future__ import annotations

import hashlib
import hmac
import os
import time

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
    """16 bytes of HMAC-SHA-256: how the online store and receipts index entities without their clear key."""
    return hmac.digest(key, text.encode(), "sha256")[:16]
