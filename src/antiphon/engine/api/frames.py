"""The engine's socket: frames of a 4-byte big-endian length and msgpack of a tagged struct, and the check of the peer.

The folder of the socket (0700) and the socket (0600) keep other users out. The kernel's word about the peer is checked
besides, because folders are made by the first process that comes and modes can be changed. The superuser is let in.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TypeVar

import msgspec

from antiphon.core.errors import CorruptionError

LARGEST_FRAME = 16 << 20
"""Bytes; a longer frame means that the other side speaks something else."""

Message = TypeVar("Message")

_PEER_CREDENTIALS = struct.Struct("3i")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """One whole frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read(stream: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Message]) -> Message | None:
    """The next frame, or ``None`` at the end of the stream (also in the middle of a frame: the peer vanished); raises
    ``CorruptionError`` for bytes that are no frame of the expected kind."""
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


def is_same_user(connection: socket.socket) -> bool:
    """True if the process at the other end was one of our own user (or of the superuser) when it connected or listened.

    Where the kernel has no SO_PEERCRED, the modes of folder and socket stand alone.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, _PEER_CREDENTIALS.size)
    return int(_PEER_CREDENTIALS.unpack(credentials)[1]) in (os.geteuid(), 0)
