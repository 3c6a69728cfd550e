"""Records of a sealed snapshot, in any store. Format 3.

Keys: ``m`` the meta record; an entity's hash (16 bytes) its events, after its finished row where a store keeps both
together (``finished`` says what that is); the hash and ``0xff`` its base tile, when a feature
looks at all time; the hash and a tile's index (8 bytes, biased by 2⁶³ so that it sorts) the events of one tile.
Entities are keyed hashes; the clear keys stay in the lake.

An entity with few events has them all in its record, in columns of 8-byte little-endian words; tiles are not stored,
since adding up a few events costs no more than reading sums of them:

- the number of events (32 bits) and flags;
- event times, and ``available_at`` where one differs;
- each measure but counts: an integer, a double's bits, a boolean, or the length of a text;
- where a measure is null somewhere, bits that tell which are not;
- sequences, 12 bytes each; the texts, a measure after the other.

One with many has its tiles there (flag ``TILED``, then msgpack), and a value for the events of each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshot_facts import SnapshotFacts
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Kind
from antiphon.features.expressions.compile_python import SEQUENCE_DIGITS
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.entity_state import Block, EntityState, TileRow, block_of
from antiphon.features.tiles.row_digest import text_bytes
from antiphon.features.tiles.tile import Tile, pack, unpack

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

FORMAT = 3
META = b"m"
FEW = 64
"""Most events that stand in an entity's own record."""
WORDS = 1
"""Words before the columns."""
HAS_AVAILABLE, HAS_NULLS, TILED = 1, 2, 4
BASE = b"\xff"
ROW = b"r"
_BIAS = 2**63
_SLICES = 4_096
_head = struct.Struct("<II")
_PACKED = b"\x01" + bytes(7)


class SnapshotMeta(msgspec.Struct, frozen=True):
    """Metadata of a sealed snapshot, enough to read it without the catalog. Instants in microseconds."""

    format: int
    snapshot: str
    spec: FeatureViewSpec
    as_of: int
    answers_from: int
    """Earliest ``as_of`` it answers exactly."""
    stream_offset: int | None
    kinds: tuple[Kind, ...]
    facts: SnapshotFacts | None = None
    rows: str | None = None
    """The words of a finished row, a letter each; ``None`` when there are none."""


encode = msgspec.msgpack.Encoder().encode
"""The bytes of a meta record, or of a tile's events."""
decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode
decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_tiles = msgspec.msgpack.Decoder(dict[int, tuple[int, list[list[Any]]]]).decode
_decode_base = msgspec.msgpack.Decoder(list[list[Any]]).decode


def plain_kinds(plan: ViewPlan, kinds: tuple[Kind, ...]) -> tuple[tuple[int, Kind], ...]:
    """Unquantized measures whose column had a kind, with that kind."""
    return tuple(
        (index, kinds[index])
        for index, measure in enumerate(plan.measures)
        if measure.mode == "plain" and kinds[index] not in ("null", "unknown")
    )


def base_key(hashed: bytes) -> bytes:
    """Key of an entity's base tile."""
    return hashed + BASE


def row_key(hashed: bytes) -> bytes:
    """Key of an entity's finished row in a store that keeps it apart."""
    return hashed + ROW


def block_key(hashed: bytes, index: int) -> bytes:
    """Key of a tile's events."""
    return hashed + (index + _BIAS).to_bytes(8, "big")


def encode_tiles(rows: dict[int, TileRow]) -> bytes:
    """An entity's tiles as its record."""
    return tiles_record(
        encode({index: (row.available, [pack(tile) for tile in row.tiles]) for index, row in rows.items()})
    )


def tiles_record(packed: bytes) -> bytes:
    """The record of tiles that are packed already."""
    return _head.pack(0, TILED) + packed


def encode_base(tiles: list[Tile]) -> bytes:
    """A base tile with a part that has no fixed width."""
    return _PACKED + encode([pack(tile) for tile in tiles])


def masks_of(plan: ViewPlan) -> int:
    """Words for each event that tell which measures it has."""
    return -(-len(plan.measures) // 64)


def sequence_words(events: Any) -> Any:
    """Words that the sequences of so many events take."""
    return (3 * events + 1) // 2


def base_layout(plan: ViewPlan, kinds: tuple[Kind, ...]) -> str | None:
    """The ``struct`` format of a base tile's words after the first; ``None`` when a part has no fixed width."""
    layout = ["<"]
    for measure, (parts, kind) in enumerate(zip(plan.parts, kinds, strict=True)):
        value = _code(plan, measure, kind)
        if parts & {"distinct", "buckets"} or (value == "t" and parts & {"low", "high", "first", "last"}):
            return None
        value = "q" if value == "b" else value
        layout.append("qq")
        layout += ["Qq" for part in ("total", "squares") if part in parts]
        layout += [value for part in ("low", "high") if part in parts]
        layout += [f"q12s4x{value}" for part in ("first", "last") if part in parts]
    return "".join(layout)


def _code(plan: ViewPlan, measure: int, kind: Kind) -> str:
    """q: an integer, d: a double, b: a boolean, t: a text, of a measure whose column has this kind."""
    if plan.measures[measure].mode != "plain":
        return "q"
    return {"text": "t", "boolean": "b"}.get(kind, "d")


class RecordDecoder:
    """Reads the records of one snapshot, whose plan and kinds give them their columns."""

    def __init__(self, plan: ViewPlan, kinds: tuple[Kind, ...]) -> None:
        self._plan = plan
        self._codes = [_code(plan, measure, kind) for measure, kind in enumerate(kinds)]
        self._stored = [
            None if measure.mode == "count" else code for measure, code in zip(plan.measures, self._codes, strict=True)
        ]
        self._masks = masks_of(plan)
        layout = base_layout(plan, kinds)
        self._base = None if layout is None else struct.Struct(layout)
        self._layout = lru_cache(maxsize=4 * FEW)(self._layout_of)

    def state(self, record: bytes | None, base: bytes | None, load: Callable[[int], Block]) -> EntityState:
        """An entity's state from its record and its base tile; ``load`` reads the events of one tile."""
        tiles = None if base is None else self._base_of(base)
        if record is None:
            return EntityState(tiles, {}, load)
        count, flags = _head.unpack_from(record)
        if flags & TILED:
            rows = {
                index: TileRow(available, [unpack(tile) for tile in packed])
                for index, (available, packed) in _decode_tiles(record[8:]).items()
            }
            return EntityState(tiles, rows, load)
        return EntityState(tiles, {}, load, self._events(record, count, flags))

    def _layout_of(self, count: int, flags: int) -> struct.Struct:
        parts = ["<8x", f"{count}q"]
        if flags & HAS_AVAILABLE:
            parts.append(f"{count}q")
        parts += [f"{count}{'d' if code == 'd' else 'q'}" for code in self._stored if code is not None]
        if flags & HAS_NULLS:
            parts.append(f"{count * self._masks}Q")
        parts.append(f"{8 * sequence_words(count)}s")
        return struct.Struct("".join(parts))

    def _events(self, record: bytes, count: int, flags: int) -> Block:
        layout = self._layout(count, flags)
        *words, sequences = layout.unpack_from(record)
        times = available = words[:count]
        at = count
        if flags & HAS_AVAILABLE:
            available = words[at : at + count]
            at += count
        end = layout.size
        measures: list[list[Any]] = []
        for code in self._stored:
            if code is None:
                measures.append([1] * count)
                continue
            column: list[Any] = words[at : at + count]
            at += count
            if code == "b":
                column = [value != 0 for value in column]
            elif code == "t":
                lengths, column = column, []
                for length in lengths:
                    column.append(str(record[end : end + length], "utf-8"))
                    end += length
            measures.append(column)
        if flags & HAS_NULLS:
            for index, column in enumerate(measures):
                bits, bit = words[at + index // 64 * count :], 1 << index % 64
                for place in range(count):
                    if not bits[place] & bit:
                        column[place] = None
        digits = sequences.hex()
        seqs = [digits[first : first + SEQUENCE_DIGITS] for first in range(0, SEQUENCE_DIGITS * count, SEQUENCE_DIGITS)]
        return block_of(times, available, seqs, measures)

    def _base_of(self, stored: bytes) -> list[Tile]:
        if self._base is None or stored[:1] != b"\0":
            return [unpack(packed) for packed in _decode_base(stored[8:])]
        words = iter(self._base.unpack_from(stored, 8))
        tiles = []
        for parts, code in zip(self._plan.parts, self._codes, strict=True):
            tile = Tile()
            tile.count, tile.latest = next(words), next(words)
            if "total" in parts:
                tile.total = next(words) | next(words) << 64
            if "squares" in parts:
                tile.squares = next(words) | next(words) << 64
            if "low" in parts:
                tile.low = _value(next(words), code)
            if "high" in parts:
                tile.high = _value(next(words), code)
            if "first" in parts:
                tile.first = (next(words), next(words).hex(), _value(next(words), code))
            if "last" in parts:
                tile.last = (next(words), next(words).hex(), _value(next(words), code))
            # Of nothing there is no extreme and no event; ``merge`` asks for the count first.
            tiles.append(tile if tile.count else Tile())
        return tiles


def _value(word: Any, code: str) -> Any:
    return word != 0 if code == "b" else word


def sliced(content: Array | bytes, places: Array, order: Array | None = None) -> list[bytes]:
    """Slices of content between each place and the next, of which the first is 0; all of them, or those in
    ``order``."""
    import numpy

    # Copies: views would have to be looked at by every collection of garbage.
    widths = numpy.diff(places)
    if len(widths) and widths[0] > 0 and bool((widths == widths[0]).all()):
        pieces = numpy.frombuffer(content, f"V{widths[0]}")
        if order is None:
            every: list[bytes] = pieces.tolist()
            return every
        found: list[bytes] = []
        for first in range(0, len(order), _SLICES):
            found += pieces[order[first : first + _SLICES]].tolist()
        return found
    whole = bytes(content)
    if order is not None:
        return [whole[first:end] for first, end in zip(places[order].tolist(), places[order + 1].tolist(), strict=True)]
    return [whole[first:end] for first, end in pairwise(places.tolist())]


def mask_words(present: Sequence[Array | None], rows: int) -> Array:
    """Words of up to 64 bits for each row that tell which columns it has; ``None`` is a column that every row has."""
    import numpy

    words = numpy.zeros(rows, dtype=numpy.uint64)
    for bit, there in enumerate(present):
        words |= (numpy.uint64(1) if there is None else there.astype(numpy.uint64)) << numpy.uint64(bit)
    return words.view(numpy.int64)


def sequence_bytes(column: pyarrow.Array) -> Array:
    """Sequences of 24 hexadecimal digits as twelve bytes each."""
    import numpy

    digits = numpy.frombuffer(text_bytes(column), numpy.uint8).reshape(len(column), SEQUENCE_DIGITS)
    nibbles = (digits & 15) + 9 * (digits >> 6)
    return numpy.ascontiguousarray(nibbles[:, ::2] << 4 | nibbles[:, 1::2])


def text_words(column: pyarrow.Array) -> tuple[Array, memoryview]:
    """A column of texts as the length of each in bytes, of null 0, and the bytes of all."""
    import numpy
    import pyarrow.compute as pc

    filled = pc.fill_null(column, "")
    return pc.binary_length(filled).to_numpy(zero_copy_only=False).astype(numpy.int64), text_bytes(filled)
