"""The batch query: every entity's feature values as of one moment, straight from the measured rows.

It shares nothing with tiles or the online read but the window rule and the finishing function; that they agree
bit for bit is a tested property.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from antiphon.features.compile_python import MeasureValue
from antiphon.features.finish import finish_of
from antiphon.features.plan import Plan
from antiphon.features.source_rows import ROWS
from antiphon.features.tile_sql import tile_columns, tiles_of

if TYPE_CHECKING:
    import duckdb

_FETCH = 5_000


class Computed(msgspec.Struct, frozen=True):
    """A feature's value and the event time (microseconds) of the latest event in it."""

    value: MeasureValue
    event_time: int | None


def values_at(
    connection: duckdb.DuckDBPyConnection, plan: Plan, as_of: int
) -> Iterator[tuple[tuple[str, ...], dict[str, Computed]]]:
    """Entity keys and feature values as of a moment (microseconds), for every entity that has a row.

    Window rule: ``t − w < event_time ≤ t AND available_at ≤ t``.
    """
    keys = ", ".join(f"k{index}" for index in range(len(plan.keys)))
    groups: dict[tuple[int, int | None], int] = {}
    columns: list[str] = []
    for feature in plan.features:
        group = (feature.measure, feature.window)
        if group in groups:
            continue
        groups[group] = len(groups)
        condition = f"event_time <= {as_of} AND available_at <= {as_of}"
        if feature.window is not None:
            condition += f" AND event_time > {as_of - feature.window}"
        columns += tile_columns(plan, feature.measure, f"g{groups[group]}", f"({condition})")
    cursor = connection.execute(f"SELECT {keys}, {', '.join(columns)} FROM {ROWS} GROUP BY {keys} ORDER BY {keys}")
    finishes = [finish_of(feature, plan.measures[feature.measure]) for feature in plan.features]
    width = len(plan.keys)
    while fetched := cursor.fetchmany(_FETCH):
        for row in fetched:
            tiles = tiles_of(plan, [measure for measure, _window in groups], row[width:])
            values: dict[str, Computed] = {}
            for feature, finish in zip(plan.features, finishes, strict=True):
                tile = tiles[groups[feature.measure, feature.window]]
                values[feature.name] = Computed(finish(tile), tile.latest)
            yield tuple(row[:width]), values
