"""What a sealed snapshot stores under each of its keys, whichever store holds it.

Keys: ``m`` the meta record; ``h`` + entity hash the entity's tiles; ``b`` + entity hash + tile index (8 bytes,
biased by 2⁶³ so that it sorts) the tile's events. Entities are keyed hashes; the clear keys stay in the lake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from antiphon.catalog.snapshot_facts import SnapshotFacts
from antiphon.definitions.expression import Kind
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.evaluate import Block, EntityState, TileRow
from antiphon.features.plan import Plan
from antiphon.features.tiles import Tile, pack, unpack

FORMAT = 1
META = b"m"
_BIAS = 2**63


class SnapshotMeta(msgspec.Struct, frozen=True):
    """What a sealed snapshot says about itself; enough to read it without the catalog. Instants in microseconds."""

    format: int
    snapshot: str
    spec: FeatureViewSpec
    as_of: int
    answers_from: int
    """Earliest ``as_of`` it answers exactly."""
    stream_offset: int | None
    kinds: tuple[Kind, ...]
    facts: SnapshotFacts | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(tuple[list[Any] | None, dict[int, tuple[int, list[list[Any]]]]]).decode
_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode


def plain_kinds(plan: Plan, kinds: tuple[Kind, ...]) -> tuple[tuple[int, Kind], ...]:
    """Unquantised measures whose column had a kind, with that kind."""
    return tuple(
        (index, kinds[index])
        for index, measure in enumerate(plan.measures)
        if measure.mode == "plain" and kinds[index] not in ("null", "unknown")
    )


def head_key(hashed: bytes) -> bytes:
    """Where an entity's tiles stand."""
    return b"h" + hashed


def tile_field(index: int) -> bytes:
    """A tile's index as 8 bytes that sort."""
    return (index + _BIAS).to_bytes(8, "big")


def block_key(hashed: bytes, index: int) -> bytes:
    """Where a tile's events stand."""
    return b"b" + hashed + tile_field(index)


def encode_meta(meta: SnapshotMeta) -> bytes:
    """The meta record's bytes."""
    return _encode(meta)


def decode_meta(stored: bytes) -> SnapshotMeta:
    """The inverse of :func:`encode_meta`; raises ``msgspec.DecodeError``."""
    return _decode_meta(stored)


def encode_head(base: list[Tile] | None, rows: dict[int, TileRow]) -> bytes:
    """An entity's tiles as bytes."""
    return _encode(
        (
            None if base is None else [pack(tile) for tile in base],
            {index: (row.available, [pack(tile) for tile in row.tiles]) for index, row in rows.items()},
        )
    )


def decode_head(stored: bytes, load: Callable[[int], Block]) -> EntityState:
    """The state that :func:`encode_head` wrote; ``load`` reads a tile's events."""
    base, rows = _decode_head(stored)
    return EntityState(
        None if base is None else [unpack(tile) for tile in base],
        {index: TileRow(row[0], [unpack(tile) for tile in row[1]]) for index, row in rows.items()},
        load,
    )


def encode_block(block: Block) -> bytes:
    """A tile's events as bytes."""
    return _encode(block)


def decode_block(stored: bytes) -> Block:
    """The inverse of :func:`encode_block`."""
    return _decode_block(stored)
