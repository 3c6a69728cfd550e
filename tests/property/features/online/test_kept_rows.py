"""A row that is kept is the row that reading anew gives, for every moment that it says it holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from antiphon import Entity, Source, col, count, feature_view, last, mean
from antiphon.features.plan import HOUR, plan_of
from antiphon.features.tiles.entity_state import Block, EntityState, TileRow, block_of
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import EVER

MINUTE = HOUR // 60
SOURCE = Source.table("sold", path="sold.parquet", event_time="at", available_at="known")


@feature_view(entity=Entity("shop", ["shop"]), source=SOURCE)
class Sales:
    recent = count(window="2h")
    recent_mean = mean(col.amount, window="3h", scale="1")
    latest = last(col.amount, window="1d")
    ever = last(col.amount)


PLAN = plan_of(Sales.spec())
EVENT = st.tuples(
    st.integers(0, 8 * 60), st.integers(-90, 200), st.one_of(st.none(), st.integers(0, 9))
)  # minute of event time, minutes until it is available, amount


def state_of(events: list[tuple[int, int, int | None]]) -> EntityState:
    """The events as a snapshot would hold them: tiles, and the events of each."""
    by_tile: dict[int, list[tuple[int, int, str, int | None]]] = {}
    for number, (minute, delay, amount) in enumerate(events):
        time = minute * MINUTE
        by_tile.setdefault(time // HOUR, []).append((time, max(0, time + delay * MINUTE), f"{number:024x}", amount))
    rows: dict[int, TileRow] = {}
    blocks: dict[int, Block] = {}
    for index, listed in by_tile.items():
        listed.sort(key=lambda event: (event[0], event[2]))
        columns: list[list[int | float | bool | str | None]] = [
            [1 if measure.mode == "count" else event[3] for event in listed] for measure in PLAN.measures
        ]
        times, available = [event[0] for event in listed], [event[1] for event in listed]
        blocks[index] = block_of(times, available, [event[2] for event in listed], columns)
        tiles = []
        for number, column in enumerate(columns):
            there = [place for place, value in enumerate(column) if value is not None]
            tile = Tile()
            tile.add(
                [column[place] for place in there],
                [times[place] for place in there],
                [listed[place][2] for place in there],
                PLAN.parts[number],
            )
            tiles.append(tile)
        rows[index] = TileRow(max(available), tiles)
    return EntityState(None, rows, blocks.__getitem__)


@given(st.lists(EVENT, min_size=1, max_size=8), st.integers(0, 12 * 60), st.lists(st.floats(0, 1), max_size=4))
def test_a_row_holds_as_long_as_it_says(
    events: list[tuple[int, int, int | None]], minute: int, places: list[float]
) -> None:
    evaluator, as_of = ViewEvaluator(PLAN), minute * MINUTE
    state = state_of(events)
    kept = evaluator.row(state, (), as_of)
    assert kept.since == as_of < kept.until
    end = min(kept.until, as_of + 40 * HOUR)
    for moment in [end - 1, *(as_of + int(place * (end - 1 - as_of)) for place in places)]:
        anew = evaluator.row(state_of(events), (), moment)
        assert (anew.values, anew.event_times) == (kept.values, kept.event_times)


def test_a_row_of_nothing_and_of_all_time_alone_holds_for_ever() -> None:
    evaluator = ViewEvaluator(PLAN)
    assert evaluator.row(state_of([]), (), 0).until == EVER
    late = 60 * HOUR
    row = evaluator.row(state_of([(5, 0, 7)]), (), late)
    assert row.values[PLAN.features.index(next(one for one in PLAN.features if one.name == "ever"))] == 7.0
    assert row.until == EVER


def test_a_row_ends_when_an_event_leaves_a_window() -> None:
    evaluator = ViewEvaluator(PLAN)
    row = evaluator.row(state_of([(65, 0, 7)]), (), 70 * MINUTE)
    leaves = evaluator.row(state_of([(65, 0, 7)]), (), row.until)
    # Until then the window is seen to change at the latest when the event leaves the two hours.
    assert row.until <= (65 + 120) * MINUTE
    assert leaves.since == row.until


def test_a_tile_that_is_taken_whole_ends_a_row_when_it_may_leave() -> None:
    row = ViewEvaluator(PLAN).row(state_of([(5 * 60 + 30, 0, 7)]), (), 390 * MINUTE)
    assert row.until == 7 * HOUR
