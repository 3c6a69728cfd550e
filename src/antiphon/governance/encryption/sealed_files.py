"""Sealed files: content in chunks under a key of its own, readable at any position without a clear copy on disk.

Invariants:
- The file's key is random and used for this file alone, so that chunk numbers serve as nonces; it stands at the end,
  sealed by the codec for the file's place. A file that is moved to another place does not open.
- The last chunk is marked: a file that was cut off, or whose chunks were reordered, does not open (the STREAM
  construction of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015).

Layout: chunks of 64 KiB each followed by its tag ‖ packed envelope of the key ‖ its length (4 bytes) ‖ magic (8).
A codec that does not seal leaves the content as it is.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon.core.codec import Codec, PayloadContext, pack, unpack
from antiphon.core.errors import CorruptionError

MAGIC = b"ANTPHSF1"
CHUNK = 2**16
_TAG = 16
_TAIL = 4 + len(MAGIC)


class SealedSink(io.RawIOBase):
    """A file being written to ``stream``; the codec seals its key.

    :meth:`finish` ends it; ``digest`` is the SHA-256 hex of the clear content."""

    def __init__(self, stream: BinaryIO, codec: Codec) -> None:
        self._stream = stream
        self._codec = codec
        self._key = os.urandom(32)
        self._cipher = AESGCM(self._key) if codec.sealing else None
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._chunks = 0
        self._size = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, content: Any) -> int:
        view = bytes(content)
        self._hash.update(view)
        self._size += len(view)
        if self._cipher is None:
            self._stream.write(view)
            return len(view)
        self._buffer += view
        # One chunk stays back: only at the end is it known to be the last.
        while len(self._buffer) > CHUNK:
            self._put(bytes(self._buffer[:CHUNK]), last=False)
            del self._buffer[:CHUNK]
        return len(view)

    def finish(self, context: Callable[[str], PayloadContext]) -> None:
        """Write what is left and the key, sealed for the place that the content's digest gives."""
        if self._cipher is None:
            return
        self._put(bytes(self._buffer), last=True)
        self._buffer.clear()
        envelope = pack(self._codec.seal(self._key, context(self.digest)))
        self._stream.write(envelope + len(envelope).to_bytes(4, "big") + MAGIC)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        assert self._cipher is not None
        self._stream.write(self._cipher.encrypt(_nonce(self._chunks, last), chunk, None))
        self._chunks += 1


class SealedSource(io.RawIOBase):
    """A sealed file opened for reading at any position. Not safe to share between threads."""

    def __init__(self, stream: BinaryIO, codec: Codec, context: PayloadContext) -> None:
        """Open.

        Raises:
            CorruptionError: it is no sealed file, or not the one of this place.
        """
        self._stream = stream
        self._where = f"{context.scope} {context.schema} {context.subject}"
        size = stream.seek(0, os.SEEK_END)
        envelope, self._body = _key_envelope(stream, size, self._where)
        self._cipher = AESGCM(codec.open(unpack(envelope), context))
        self._chunks = max(1, -(-self._body // (CHUNK + _TAG)))
        self._size = self._body - self._chunks * _TAG
        if self._size < 0:
            raise _broken(self._where)
        self._position = 0
        self._cached: tuple[int, bytes] | None = None
        self._chunk(self._chunks - 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        number, offset = divmod(self._position, CHUNK)
        if self._position >= self._size or not len(view):
            return 0
        piece = self._chunk(number)[offset : offset + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _chunk(self, number: int) -> bytes:
        if self._cached is not None and self._cached[0] == number:
            return self._cached[1]
        self._stream.seek(number * (CHUNK + _TAG))
        stored = self._stream.read(min(CHUNK + _TAG, self._body - number * (CHUNK + _TAG)))
        try:
            content = self._cipher.decrypt(_nonce(number, number == self._chunks - 1), stored, None)
        except (InvalidTag, ValueError) as error:
            raise _broken(self._where) from error
        self._cached = (number, content)
        return content


def open_sealed(stream: BinaryIO, codec: Codec, context: PayloadContext) -> BinaryIO:
    """The clear content of a stored file, for reading; closing it closes ``stream``.

    Raises:
        CorruptionError: it was changed, cut off or moved from another place.
    """
    if not is_sealed(stream):
        if not codec.accepts_plain:
            raise CorruptionError(
                "The file is not sealed, and this project is encrypted.",
                where=f"{context.scope} {context.schema} {context.subject}",
                next_step="It was put there by something else, or `antiphon encryption enable` was cut off: run it.",
            )
        return stream
    return io.BufferedReader(SealedSource(stream, codec, context), CHUNK)


def is_sealed(stream: BinaryIO) -> bool:
    """Tell by the file's end whether it is sealed; the position is at its beginning afterwards."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - len(MAGIC)))
    found = stream.read(len(MAGIC)) == MAGIC
    stream.seek(0)
    return found


def key_of(stream: BinaryIO) -> str | None:
    """Id of the data key that seals a file's key; ``None`` for a file that is not sealed."""
    if not is_sealed(stream):
        return None
    size = stream.seek(0, os.SEEK_END)
    return unpack(_key_envelope(stream, size, "file")[0]).key_id


def _key_envelope(stream: BinaryIO, size: int, where: str) -> tuple[bytes, int]:
    """The packed envelope of a file's key, and how many bytes come before it."""
    if size < _TAIL + _TAG:
        raise _broken(where)
    stream.seek(size - _TAIL)
    tail = stream.read(_TAIL)
    length = int.from_bytes(tail[:4], "big")
    start = size - _TAIL - length
    if tail[4:] != MAGIC or start < _TAG:
        raise _broken(where)
    stream.seek(start)
    return stream.read(length), start


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _broken(where: str) -> CorruptionError:
    return CorruptionError(
        "The sealed file was changed or cut off.",
        where=where,
        next_step="Restore it from a backup, or make it again: materialize the view, rebuild the dataset.",
    )
