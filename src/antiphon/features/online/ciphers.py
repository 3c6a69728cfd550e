"""Sealing the values of an online file: a key of its own for each file, so that a lookup costs one decryption.

Invariants: a value opens only under its own LMDB key; the file's key is random, used nowhere else, and itself sealed by
the project's codec for the file's place. Entities are keyed hashes already and stay as they are.
"""

from __future__ import annotations

import os
from typing import Any

from antiphon.core.codec import Codec, PayloadContext, pack
from antiphon.core.errors import SealMismatchError

_NONCE = 12


class PlainValues:
    """Stores values as they are."""

    def seal(self, key: bytes, value: bytes) -> bytes:
        return value

    def open(self, key: bytes, stored: bytes) -> bytes:
        return stored


class SealedValues:
    """AES-256-GCM with random nonces; one file holds far fewer than 2³² values."""

    def __init__(self, file_key: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        cipher = AESGCM(file_key)
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._invalid: Any = (InvalidTag, ValueError)

    def seal(self, key: bytes, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._encrypt(nonce, value, key)

    def open(self, key: bytes, stored: bytes) -> bytes:
        try:
            return self._decrypt(stored[:_NONCE], stored[_NONCE:], key)
        except self._invalid as error:
            raise SealMismatchError(
                "A value of the online store does not open: it was changed or moved from another place.",
                where="online store",
                next_step="`antiphon up` builds the file again from the lake.",
            ) from error


ValueCipher = PlainValues | SealedValues


def new_file_key() -> bytes:
    """A key for one file."""
    return os.urandom(32)


def new_cipher(codec: Codec, context: PayloadContext) -> tuple[ValueCipher, bytes | None]:
    """The cipher of a new file, and its packed key as the codec seals it for its place; ``None`` in plaintext."""
    if not codec.sealing:
        return PlainValues(), None
    file_key = new_file_key()
    return SealedValues(file_key), pack(codec.seal(file_key, context))
