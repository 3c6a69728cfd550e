"""Stored payloads: an envelope of schema, codec, key id and bytes, so that encryption is a choice of codec.

Invariant: what a payload *is* (its content hash) is computed over the clear bytes; the envelope may change
(another codec, another key) without the payload becoming something else.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope


class PayloadContext(msgspec.Struct, frozen=True):
    """The place of a payload. A sealing codec authenticates it, so that a payload moved elsewhere does not open.

    Attributes:
        schema: what the bytes are and in which version, such as ``receipt/1``.
        scope: the tenant and environment that own it.
        subject: the row it belongs to (a prediction id, a blob's hash, ``job:line``).
    """

    schema: str
    scope: Scope
    subject: str


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A payload as stored. ``key_id`` is ``None`` when the codec needs no key."""

    schema: str
    codec: str
    key_id: str | None
    content: bytes


class Codec(Protocol):
    """Turns bytes into what is stored, and back: in plaintext (:class:`PlainCodec`), or sealed by ``AesGcmCodec`` of
    ``governance``."""

    @property
    def sealing(self) -> bool:
        """True when stored payloads cannot be read without a key: then nothing clear may reach a disk beside them
        either."""
        ...

    @property
    def accepts_plain(self) -> bool:
        """True when it also reads payloads that were stored in plaintext."""
        ...

    def current_key(self, scope: Scope) -> str | None:
        """Id of the key that new payloads of a scope are sealed with; it changes when that key is rotated."""
        ...

    def index(self, text: str, scope: Scope, purpose: str) -> str:
        """The index of a text that is only ever looked up by equality: the same for the same text,
        scope and purpose, under every later key."""
        ...

    def seal(self, content: bytes, context: PayloadContext) -> Envelope:
        """The envelope to store."""
        ...

    def open(self, envelope: Envelope, context: PayloadContext) -> bytes:
        """The bytes that were sealed.

        Raises:
            CorruptionError: the envelope is of another codec, schema or context, or its bytes were changed.
        """
        ...


class PlainCodec:
    """Stores bytes as they are."""

    name = "plain"
    sealing = False
    accepts_plain = True

    def current_key(self, scope: Scope) -> str | None:
        return None

    def index(self, text: str, scope: Scope, purpose: str) -> str:
        return text

    def seal(self, content: bytes, context: PayloadContext) -> Envelope:
        return Envelope(schema=context.schema, codec=self.name, key_id=None, content=content)

    def open(self, envelope: Envelope, context: PayloadContext) -> bytes:
        if envelope.codec != self.name:
            raise CorruptionError(
                f"The payload was sealed by codec {envelope.codec!r}, this process reads {self.name!r}.",
                where=f"{context.scope} {context.schema} {context.subject}",
                next_step="Start it with the settings the payload was written under.",
            )
        require_schema(envelope, context)
        return envelope.content


def require_schema(envelope: Envelope, context: PayloadContext) -> None:
    """Refuse a payload of another schema.

    Raises:
        CorruptionError: it is of another.
    """
    if envelope.schema != context.schema:
        raise CorruptionError(
            f"The payload is a {envelope.schema!r}, expected {context.schema!r}.",
            where=f"{context.scope} {context.subject}",
            next_step="Run `antiphon doctor`.",
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def pack(envelope: Envelope) -> bytes:
    """The envelope as one column's bytes (MessagePack)."""
    return _encoder.encode(envelope)


def unpack(packed: bytes) -> Envelope:
    """The inverse of :func:`pack`.

    Raises:
        CorruptionError: the bytes are no envelope.
    """
    try:
        return _decoder.decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptionError("Stored bytes are no envelope.", next_step="Run `antiphon doctor`.") from error
