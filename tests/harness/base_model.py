"""The base model's file for tests, and the same model with its first layers alone.

Two of thirty layers compute with the same kernels, widths, number formats, vocabulary and chat template in a fraction
of the time. What they write makes no sense: a test that holds for any text takes them, and ``make test-model`` runs
those tests with every layer.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from antiphon.core.errors import SetupError
from antiphon.engine import weights
from antiphon.engine.weights import Weights

NAME = "smollm2-135m"
LAYERS = int(os.environ.get("MODEL_LAYERS", "2"))
_ALIGNMENT = 32


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The base model's file; pulled if need be."""
    return pulled(NAME)


def pulled(name: str) -> Path:
    """The file of a model; skips the test where it cannot be pulled, unless everything is required."""
    try:
        return weights.pull(name)
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def few_layers(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The base model's first layers as a model of their own."""
    path = tmp_path_factory.mktemp("few-layers") / "model.gguf"
    write_first_layers(model_path, path, LAYERS)
    return weights.resolve(str(path))


def write_first_layers(model: Path, target: Path, layers: int) -> None:
    """Copy a GGUF file of version 3 without its later layers; what is left are the same bytes.

    Its parts are the keys, a list of tensors (name, shape, type, offset), and the tensors in the order of the list.
    """
    content = memoryview(model.read_bytes())
    (count,) = struct.unpack_from("<Q", content, 8)
    keys = bytes(content[: 4 << 20])
    key = b"llama.block_count"
    block_count_at = keys.index(key) + len(key) + 4  # Between them stands the value's type.
    list_at = at = keys.index(b"token_embd.weight") - 8
    listed: list[tuple[bytes, int]] = []
    for _ in range(count):
        begin = at
        (length,) = struct.unpack_from("<Q", content, at)
        (dimensions,) = struct.unpack_from("<I", content, at + 8 + length)
        at += 8 + length + 4 + 8 * dimensions + 4
        listed.append((bytes(content[begin:at]), *struct.unpack_from("<Q", content, at)))
        at += 8
    data = content[-(-at // _ALIGNMENT) * _ALIGNMENT :]
    ends = [offset for _, offset in listed[1:]] + [len(data)]
    kept = [
        (described, data[begin:end])
        for (described, begin), end in zip(listed, ends, strict=True)
        if not (name := described[8:]).startswith(b"blk.") or int(name.split(b".")[1]) < layers
    ]
    header = bytearray(content[:list_at])
    struct.pack_into("<Q", header, 8, len(kept))
    struct.pack_into("<I", header, block_count_at, layers)
    offset = 0
    for described, tensor in kept:
        header += described + struct.pack("<Q", offset)
        offset += len(tensor)
    header += bytes(-len(header) % _ALIGNMENT)
    with target.open("wb") as out:
        out.writelines([header, *(tensor for _, tensor in kept)])
