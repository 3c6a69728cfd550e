from __future__ import annotations

import io
import os
import random

import pytest
from tests.unit.governance.encryption.test_sealing import HERE, Keys

from antiphon.core.codec import PayloadContext, PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.governance.encryption.sealed_files import CHUNK, SealedSink, is_sealed, key_of, open_sealed
from antiphon.governance.encryption.sealing import AesGcmCodec

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17]


def place(digest: str) -> PayloadContext:
    return PayloadContext("lake/1", HERE, digest)


def sealed(content: bytes, codec: AesGcmCodec | PlainCodec, piece: int = 10_000) -> tuple[bytes, str]:
    stream = io.BytesIO()
    sink = SealedSink(stream, codec)
    for start in range(0, len(content), piece):
        sink.write(content[start : start + piece])
    sink.finish(place)
    return stream.getvalue(), sink.digest


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_read_back_whole_and_from_any_position(size: int) -> None:
    codec, content = AesGcmCodec(Keys()), os.urandom(size)
    stored, digest = sealed(content, codec)
    assert key_of(io.BytesIO(stored)) == "k1"
    with open_sealed(io.BytesIO(stored), codec, place(digest)) as found:
        assert found.read() == content
        rng = random.Random(size)
        for _ in range(50):
            start, length = rng.randint(0, size + 5), rng.randint(0, 2 * CHUNK)
            found.seek(start)
            assert found.read(length) == content[start : start + length]
        found.seek(-min(size, 9), os.SEEK_END)
        assert found.read() == content[max(0, size - 9) :]


def test_nothing_of_the_content_shows() -> None:
    stored, _ = sealed(b"UNMISTAKABLE" * 20_000, AesGcmCodec(Keys()))
    assert b"UNMISTAKABLE" not in stored
    clear, _ = sealed(b"UNMISTAKABLE" * 20_000, PlainCodec())
    assert clear == b"UNMISTAKABLE" * 20_000


def test_a_file_under_another_name_does_not_open() -> None:
    codec = AesGcmCodec(Keys())
    stored, digest = sealed(b"content", codec)
    with pytest.raises(CorruptionError):
        open_sealed(io.BytesIO(stored), codec, place("0" * len(digest)))


def test_a_cut_or_reordered_file_does_not_open() -> None:
    codec, content = AesGcmCodec(Keys()), os.urandom(3 * CHUNK)
    stored, digest = sealed(content, codec)
    step = CHUNK + 16
    body = 3 * step
    swapped = stored[step : 2 * step] + stored[:step] + stored[2 * step :]
    dropped = stored[:step] + stored[2 * step :]
    without_last = stored[: 2 * step] + stored[body:]
    for broken in (swapped, dropped, without_last):
        with pytest.raises(CorruptionError), open_sealed(io.BytesIO(broken), codec, place(digest)) as found:
            found.read()


def test_every_changed_byte_of_a_small_file_is_found() -> None:
    codec = AesGcmCodec(Keys())
    stored, digest = sealed(b"a small file", codec)
    for position in range(len(stored)):
        changed = bytearray(stored)
        changed[position] ^= 1
        with pytest.raises(CorruptionError), open_sealed(io.BytesIO(bytes(changed)), codec, place(digest)) as found:
            found.read()


def test_a_clear_file_is_refused_where_files_are_sealed() -> None:
    stored, digest = sealed(b"clear", PlainCodec())
    assert not is_sealed(io.BytesIO(stored))
    with pytest.raises(CorruptionError, match="not sealed"):
        open_sealed(io.BytesIO(stored), AesGcmCodec(Keys()), place(digest))
    with open_sealed(io.BytesIO(stored), PlainCodec(), place(digest)) as found:
        assert found.read() == b"clear"
