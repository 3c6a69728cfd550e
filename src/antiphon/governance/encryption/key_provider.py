"""Providers of the keys that wrap data keys: their protocol, and wrapping by the process itself.

Invariant: a wrapping key never leaves its provider; the catalog holds data keys only as the provider wrapped them,
bound to the tenant, environment and id they belong to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError

KEY_BYTES = 32


class WrappedKey(msgspec.Struct, frozen=True):
    """A data key as its provider wrapped it, and the id of the wrapping key."""

    wrapping_key: str
    content: bytes


class KeyProvider(Protocol):
    """Keeps wrapping keys: ``FileKeyring``, ``EnvironmentKeys`` and ``KmsKeys``. Implementations are safe to share
    between threads."""

    @property
    def name(self) -> str:
        """Name of the provider in the settings."""
        ...

    def current(self) -> str:
        """Id of the key that wraps now."""
        ...

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        """Wrap a data key; ``context`` must be given again to unwrap it.

        Raises:
            SetupError: the keys cannot be read, or the passphrase is wrong. UnavailableError: the provider is away.
        """
        ...

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """The data key.

        Raises:
            SetupError: there is no such wrapping key here, or the passphrase is wrong. UnavailableError: it is away.
            CorruptionError: what is wrapped was changed, or belongs to another context.
        """
        ...

    def rotate(self) -> str:
        """Make a new wrapping key current and return its id; earlier ones go on unwrapping.

        Raises:
            InvalidInputError: new keys are made elsewhere; says where.
        """
        ...

    def retire(self, wrapping_key: str) -> None:
        """Forget a wrapping key that wraps nothing any more; the current one, or one not kept here, is no error."""
        ...


class EnvironmentKeys:
    """Wrapping keys in an environment variable: 32 bytes in base64 each, separated by commas, the first is current."""

    name = "environment"

    def __init__(self, value: str, variable: str) -> None:
        self._variable = variable
        self._keys: dict[str, AESGCM] = {}
        for text in value.split(","):
            key = self._decoded(text.strip())
            self._keys[key_id(key)] = AESGCM(key)
        self._current = next(iter(self._keys))

    def current(self) -> str:
        return self._current

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        return WrappedKey(self._current, wrap_with(self._keys[self._current], key, context))

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        cipher = self._keys.get(wrapped.wrapping_key)
        if cipher is None:
            raise unknown_wrapping_key(
                wrapped.wrapping_key,
                self._variable,
                f"Add it to {self._variable}, after a comma; `antiphon encryption rewrap` makes it superfluous.",
            )
        return unwrap_with(cipher, wrapped, context)

    def rotate(self) -> str:
        raise InvalidInputError(
            "The wrapping key comes from the environment and cannot be changed here.",
            where=self._variable,
            next_step=f"Put 32 new random bytes in base64 in front of the value of {self._variable}, with a comma, "
            "restart the processes one by one, and run `antiphon encryption rewrap`.",
        )

    def retire(self, wrapping_key: str) -> None:
        """Do nothing: the variable's owner drops the key."""

    def _decoded(self, text: str) -> bytes:
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise SetupError(
                f"The variable {self._variable} does not hold {KEY_BYTES} bytes in base64.",
                where=self._variable,
                next_step="Make one with `openssl rand -base64 32`.",
            )
        return key


def key_id(key: bytes) -> str:
    """The id of a wrapping key that has no other name: a fingerprint that tells nothing of it."""
    return "kek_" + hashlib.sha256(b"antiphon wrapping key\0" + key).hexdigest()[:20]


def wrap_with(cipher: AESGCM, key: bytes, context: bytes) -> bytes:
    """``nonce ‖ ciphertext and tag``. A wrapping key seals few keys: random nonces do not repeat."""
    nonce = os.urandom(12)
    return nonce + cipher.encrypt(nonce, key, context)


def unwrap_with(cipher: AESGCM, wrapped: WrappedKey, context: bytes) -> bytes:
    """The inverse of :func:`wrap_with`.

    Raises:
        CorruptionError: the bytes were changed or belong to another context.
    """
    try:
        return cipher.decrypt(wrapped.content[:12], wrapped.content[12:], context)
    except (InvalidTag, ValueError) as error:
        raise CorruptionError(
            f"A data key does not open with the wrapping key {wrapped.wrapping_key}.",
            where=context.decode(errors="replace").replace("\0", " "),
            next_step="Its row was changed or moved: restore the catalog from a backup.",
        ) from error


def unknown_wrapping_key(wrapping_key: str, where: str, next_step: str) -> SetupError:
    """A data key is wrapped by a key that is not here."""
    return SetupError(
        f"A data key is wrapped by {wrapping_key}, which is not here: what it seals stays closed.",
        where=where,
        next_step=next_step,
    )
