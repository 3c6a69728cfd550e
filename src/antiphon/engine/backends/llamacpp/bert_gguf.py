"""Converts a BERT sentence encoder as published (safetensors and tokenizer) to one GGUF file for llama.cpp.

The same inputs give the same bytes, whatever is installed: the file is written here, by the layout of GGUF version 3
(ggml, docs/gguf.md), with every tensor as it is, in float32. Names of keys and tensors are those of llama.cpp's
``bert`` architecture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from antiphon.core.errors import SetupError

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _CONTROL = 1, 3
_MEAN_POOLING = 1
_SPECIAL = {"unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]", "bos": "[CLS]", "eos": "[SEP]"}
"""``seperator`` is how llama.cpp spells it."""

_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_PLACE = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")


class Shape(msgspec.Struct, frozen=True):
    """Size of a BERT by its configuration."""

    layers: int
    heads: int
    epsilon: float


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    start: int
    bytes: int


def write(weights: Path, tokenizer: Path, shape: Shape, target: Path) -> None:
    """Write the GGUF file; it is whole when this returns, and not flushed to disk.

    Raises:
        SetupError: the files are not those of a BERT in float32.
        OSError: it cannot be written.
    """
    with weights.open("rb") as source:
        try:
            tensors = _tensors(source)
            vocabulary = msgspec.json.decode(tokenizer.read_bytes())["model"]["vocab"]
            tokens = sorted(vocabulary, key=vocabulary.__getitem__)
            entries = list(_metadata(tensors, vocabulary, tokens, shape))
        except (KeyError, ValueError, TypeError, struct.error) as error:
            raise SetupError(f"{weights.name} is no BERT sentence encoder ({error!r}).", where=str(weights)) from error
        with target.open("xb") as out:
            out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)))
            for name, kind, value in entries:
                out.write(_text(name) + struct.pack("<I", kind) + value)
            offset = 0
            for tensor in tensors:
                out.write(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
                # GGUF counts dimensions from the innermost.
                out.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
                out.write(struct.pack("<IQ", 0, offset))
                offset += -(-tensor.bytes // _ALIGNMENT) * _ALIGNMENT
            for tensor in tensors:
                _pad(out)
                source.seek(tensor.start)
                out.write(source.read(tensor.bytes))
            _pad(out)


def _tensors(source: BinaryIO) -> list[_Tensor]:
    (length,) = struct.unpack("<Q", source.read(8))
    header: dict[str, Any] = msgspec.json.decode(source.read(length))
    found = []
    for name, described in sorted(header.items()):
        renamed = _renamed(name)
        if renamed is None:
            continue
        if described["dtype"] != "F32":
            raise ValueError(f"{name} is {described['dtype']}")
        start, end = described["data_offsets"]
        found.append(_Tensor(renamed, tuple(described["shape"]), 8 + length + start, end - start))
    return found


def _renamed(name: str) -> str | None:
    """llama.cpp's name; ``None`` for what sentence vectors do not use (the pooler)."""
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    place = _PLACE.fullmatch(name)
    return f"blk.{place[1]}.{_LAYER[place[2]]}.{place[3]}" if place is not None else None


def _metadata(
    tensors: list[_Tensor], vocabulary: dict[str, int], tokens: list[str], shape: Shape
) -> Iterator[tuple[str, int, bytes]]:
    sizes = {tensor.name: tensor.shape for tensor in tensors}
    pieces = [_piece(token) for token in tokens]
    kinds = [_CONTROL if _is_special(token) else _NORMAL for token in tokens]
    yield "general.architecture", _STRING, _text("bert")
    for name, number in (
        ("block_count", shape.layers),
        ("context_length", sizes["position_embd.weight"][0]),
        ("embedding_length", sizes["token_embd.weight"][1]),
        ("feed_forward_length", sizes["blk.0.ffn_up.weight"][0]),
        ("attention.head_count", shape.heads),
        ("pooling_type", _MEAN_POOLING),
    ):
        yield f"bert.{name}", _UINT32, struct.pack("<I", number)
    yield "bert.attention.layer_norm_epsilon", _FLOAT32, struct.pack("<f", shape.epsilon)
    yield "bert.attention.causal", _BOOL, struct.pack("<?", False)
    yield "tokenizer.ggml.model", _STRING, _text("bert")
    yield "tokenizer.ggml.token_type_count", _UINT32, struct.pack("<I", sizes["token_types.weight"][0])
    yield (
        "tokenizer.ggml.tokens",
        _ARRAY,
        struct.pack("<IQ", _STRING, len(pieces)) + b"".join(map(_text, pieces)),
    )
    yield (
        "tokenizer.ggml.token_type",
        _ARRAY,
        struct.pack("<IQ", _INT32, len(kinds)) + struct.pack(f"<{len(kinds)}i", *kinds),
    )
    for name, token in _SPECIAL.items():
        yield f"tokenizer.ggml.{name}_token_id", _UINT32, struct.pack("<I", vocabulary[token])


def _is_special(token: str) -> bool:
    return token.startswith("[") and token.endswith("]")


def _piece(token: str) -> str:
    """A word piece as llama.cpp writes it: a mark before what begins a word instead of one before what goes on."""
    if _is_special(token):
        return token
    return token[2:] if token.startswith("##") else f"▁{token}"


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _pad(out: BinaryIO) -> None:
    out.write(b"\0" * (-out.tell() % _ALIGNMENT))
