"""Whole columns are finished as one tile is, bit for bit, however wide the integers are."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.property.features.test_equality import bits

from antiphon.definitions.feature import Aggregation
from antiphon.features.plan import LIMIT, PlannedFeature, ViewMeasure
from antiphon.features.tiles import finish_columns as columns
from antiphon.features.tiles.finish import finish_of
from antiphon.features.tiles.tile import Tile

SCALES = [Fraction(text) for text in ("1", "0.01", "0.5", "2.5", "1000", "0.000000000000000001", "1e18", "7")]
SMOOTHINGS = [Fraction(text) for text in ("0", "3", "0.5", "1e12", "0.000001", "1e-20", "1e20")]
sizes = st.one_of(
    st.integers(0, 12),
    st.integers(0, 10_000),
    st.integers(0, 54).flatmap(lambda n: st.integers(max(0, 2**n - 1), 2**n)),
)
steps = st.one_of(st.integers(-500, 500), st.integers(-LIMIT, LIMIT), st.sampled_from([0, LIMIT, -LIMIT, 3]))


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    """Of n equal values and one other, so that its sums are ones that can be; n may be more than anybody has."""
    tile = Tile()
    tile.count = draw(sizes)
    value, other = draw(steps), draw(steps)
    if tile.count:
        tile.total = value * (tile.count - 1) + other
        tile.squares = value * value * (tile.count - 1) + other * other
        tile.low = value
    return tile


def integers(values: list[int]) -> Any:
    """As the join has them: narrow where all are."""
    narrow = all(-(2**63) <= value < 2**63 for value in values)
    return np.array(values, np.int64 if narrow else object)


def same(found: pa.Array, wanted: list[Any]) -> None:
    assert [bits(value) for value in found.to_pylist()] == [bits(value) for value in wanted]


def tile(count: int, total: int, squares: int) -> Tile:
    made = Tile()
    made.count, made.total, made.squares, made.low = count, total, squares, total
    return made


# Where the doubles' 53 bits end, and n·Σx² leaves 64 while nothing of one row does.
@example([tile(1, 2**53, 2**106), tile(3, 2**53 + 1, 2**106), tile(7, -(2**53) - 1, 2**106)], Fraction(1))
@example([tile(2**31, 2**33, 2**36), tile(2, 2**31, 2**61), tile(2, 2**31 - 1, 2**61), tile(3, 0, 0)], Fraction("0.01"))
@given(st.lists(tiles(), min_size=1, max_size=12), st.sampled_from(SCALES))
@settings(max_examples=150)
def test_columns_are_finished_as_tiles_are(given_tiles: list[Tile], step: Fraction) -> None:
    scale = (step.numerator, step.denominator)
    measure = ViewMeasure("fixed", None, None, scale)
    count = integers([one.count for one in given_tiles])
    total = integers([one.total for one in given_tiles])
    squares = integers([one.squares for one in given_tiles])

    def wanted(aggregation: Aggregation) -> list[Any]:
        finish = finish_of(PlannedFeature("x", aggregation, 0, None), measure)
        return [finish(one, one) for one in given_tiles]

    same(columns.sums(total, scale), wanted("sum"))
    same(columns.means(total, count, scale), wanted("mean"))
    same(columns.deviations(count, total, squares, scale), wanted("std"))
    present = np.array([one.low is not None for one in given_tiles])
    low = integers([one.low or 0 for one in given_tiles])
    same(columns.scaled(low, present, scale), wanted("min"))


@example([(tile(0, 0, 0), tile(5, 7, 0)), (tile(0, 0, 0), tile(0, 0, 0))], Fraction(1), Fraction(0))
@given(
    st.lists(st.tuples(tiles(), tiles()), min_size=1, max_size=12),
    st.sampled_from(SCALES),
    st.sampled_from(SMOOTHINGS),
)
@settings(max_examples=150)
def test_encodings_are_finished_as_tiles_are(
    pairs: list[tuple[Tile, Tile]], step: Fraction, smoothing: Fraction
) -> None:
    scale, weight = (step.numerator, step.denominator), (smoothing.numerator, smoothing.denominator)
    count, every = (integers([pair[place].count for pair in pairs]) for place in (0, 1))
    total, all_total = (integers([pair[place].total for pair in pairs]) for place in (0, 1))

    def wanted(aggregation: Aggregation) -> list[Any]:
        feature = PlannedFeature("x", aggregation, 0, None, smoothing=weight)
        finish = finish_of(feature, ViewMeasure("fixed", None, None, scale))
        return [finish(own, all_) for own, all_ in pairs]

    same(columns.frequencies(count, every), wanted("frequency"))
    same(columns.targets(count, total, every, all_total, weight, scale), wanted("target"))


@pytest.mark.parametrize("above", [2**53 + 1, -(2**53) - 1, 2**62 + 1])
def test_a_quotient_of_wide_integers_is_rounded_once(above: int) -> None:
    """In doubles 2⁵³ + 1 is 2⁵³ before it is divided."""
    (found,) = columns.divided(np.array([above]), np.array([3]), (1, 1))
    assert found.hex() == (above / 3).hex()
    assert found.hex() == float(Fraction(above, 3)).hex()
