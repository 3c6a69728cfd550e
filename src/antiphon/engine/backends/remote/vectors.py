"""Vectors as an OpenAI-compatible server sends them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import TextEmbeddingRequest, TextEmbeddings
from antiphon.engine.backends.remote.stream import fingerprint


class _RemoteVector(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _RemoteVectors(msgspec.Struct):
    data: list[_RemoteVector]
    usage: dict[str, Any] = {}


def vectors_of(content: bytes, request: TextEmbeddingRequest, seconds: float) -> TextEmbeddings:
    """The vectors of an answer; a server that does not know base64 sends numbers.

    Raises:
        EngineError: they cannot be read, or are not one vector of the same length for each text.
    """
    try:
        read = msgspec.json.decode(content, type=_RemoteVectors)
        rows = {
            one.index: base64.b64decode(one.embedding, validate=True)
            if isinstance(one.embedding, str)
            else struct.pack(f"<{len(one.embedding)}f", *one.embedding)
            for one in read.data
        }
        tokens = int(read.usage.get("prompt_tokens") or 0)
    except (ValueError, TypeError, struct.error, OverflowError) as error:
        raise EngineError("The remote engine sent vectors that cannot be read.") from error
    sizes = {len(row) for row in rows.values()}
    if sorted(rows) != list(range(len(request.texts))) or len(sizes) != 1 or not sizes or min(sizes) % 4:
        raise EngineError("The remote engine sent other vectors than one for each text.")
    return TextEmbeddings(
        id=request.id,
        vectors=b"".join(rows[place] for place in range(len(rows))),
        dimensions=sizes.pop() // 4,
        tokens=(tokens,),
        fingerprint=fingerprint(request.model, None),
        engine_seconds=seconds,
    )
