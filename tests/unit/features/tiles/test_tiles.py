"""Tiles and finishing on numbers small enough to check by hand, and too wide for 64 bits."""

from __future__ import annotations

import msgspec
import pytest

from antiphon.definitions.nodes import ColumnNode
from antiphon.features.expressions.compile_python import compile_measure, key_texts
from antiphon.features.expressions.expression_python import normalize
from antiphon.features.plan import LIMIT, PlannedFeature, ViewMeasure
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.tile import Tile, pack, unpack

PARTS = {"total", "squares", "low", "high", "first", "last"}
CENTS = ViewMeasure("fixed", ColumnNode("x"), None, (1, 100))


def tile_of(*values: int) -> Tile:
    tile = Tile()
    tile.add(list(values), list(range(len(values))), ["a"] * len(values), PARTS)
    return tile


@pytest.mark.parametrize(
    ("aggregation", "value", "of_nothing"),
    [
        ("count", 3, 0),
        ("sum", 0.06, 0.0),
        ("mean", 0.02, None),
        ("std", 0.01, None),
        ("min", 0.01, None),
        ("max", 0.03, None),
        ("first", 0.01, None),
        ("last", 0.03, None),
    ],
)
def test_finishing(aggregation: str, value: float, of_nothing: float | None) -> None:
    finish = finish_of(PlannedFeature("f", aggregation, 0, None), CENTS)  # type: ignore[arg-type]
    assert finish(tile_of(1, 2, 3), Tile()) == value
    assert finish(Tile(), Tile()) == of_nothing


def test_the_deviation_of_one_value_is_unknown() -> None:
    finish = finish_of(PlannedFeature("f", "std", 0, None), CENTS)
    assert finish(tile_of(5), Tile()) is None
    assert finish(tile_of(5, 5), Tile()) == 0.0


def test_merging_in_any_cut_gives_one_tile() -> None:
    whole = Tile()
    whole.add([4, -7, 9], [10, 20, 20], ["b", "a", "b"], PARTS)
    left, right = Tile(), Tile()
    left.add([4], [10], ["b"], PARTS)
    right.add([-7, 9], [20, 20], ["a", "b"], PARTS)
    for one, other in ((left, right), (right, left)):
        merged = Tile()
        merged.merge(one)
        merged.merge(other)
        merged.merge(Tile())
        assert pack(merged) == pack(whole)


def test_sums_wider_than_64_bits_survive_storage() -> None:
    tile = tile_of(*[LIMIT] * 9)
    assert tile.squares > 2**64
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(tile)))
    assert pack(unpack(stored)) == pack(tile)


@pytest.mark.parametrize(
    ("value", "measured"),
    [
        (0.125, 12),  # half to even
        (0.375, 38),
        (-0.125, -12),
        (True, 100),
        (7, 700),
        (None, None),
        ("7", None),
        (float("nan"), None),
        (float("inf"), None),
        (LIMIT / 100, LIMIT),
        (LIMIT / 100 * 1.001, None),
        (10**400, None),
        ([1], None),
    ],
)
def test_quantizing(value: object, measured: int | None) -> None:
    assert compile_measure(CENTS)({"x": value}) == measured


def test_keys_are_text() -> None:
    assert key_texts(("a", "b", "c"), {"a": 7, "b": True, "c": "x"}) == ("7", "true", "x")
    assert key_texts(("a",), {"a": None}) is None
    assert key_texts(("a",), {"a": {"nested": 1}}) is None
    assert normalize({"nested": 1}) is None
