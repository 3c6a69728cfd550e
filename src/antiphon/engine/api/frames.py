"""Frames on the engine's socket: a 4-byte big-endian length, then msgpack of a tagged struct."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec

from antiphon.core.errors import CorruptionError

LARGEST_FRAME = 16 << 20
"""Bytes; a longer frame means that the other side speaks something else."""

Message = TypeVar("Message")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """One whole frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read(stream: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Message]) -> Message | None:
    """The next frame, or ``None`` at the end of the stream (also in the middle of a frame: the peer vanished).

    Raises:
        CorruptionError: the bytes are no frame of the expected kind.
    """
    try:
        size = int.from_bytes(await stream.readexactly(4), "big")
        if size > LARGEST_FRAME:
            raise CorruptionError(
                f"A frame of {size} bytes on the engine's socket.", next_step="Only engine clients belong there."
            )
        body = await stream.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"A frame on the engine's socket cannot be read: {error}.") from error
