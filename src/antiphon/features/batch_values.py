"""The batch query: every entity's feature values as of one moment, straight from the measured rows.

It shares nothing with tiles or the online read but the window rule and the finishing function; that they agree
bit for bit is a tested property.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from antiphon.features.compile_python import MeasureValue
from antiphon.features.finish import finishes_of
from antiphon.features.plan import Plan, midnight_before
from antiphon.features.source_rows import ROWS
from antiphon.features.tile_sql import tile_columns, tiles_of

if TYPE_CHECKING:
    import duckdb

_FETCH = 5_000


class Computed(msgspec.Struct, frozen=True):
    """A feature's value and the event time (microseconds) of the latest event in it."""

    value: MeasureValue
    event_time: int | None


def window_condition(window: int | None, moment: int) -> str:
    """Which rows a window that ends at a moment takes."""
    since = "" if window is None else f" AND event_time > {moment - window}"
    return f"(event_time <= {moment} AND available_at <= {moment}{since})"


def values_at(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    as_of: int,
    *,
    fitted_at: int | None = None,
    rows: str = ROWS,
    together: str = ROWS,
) -> Iterator[tuple[tuple[str, ...], dict[str, Computed]]]:
    """Entity keys and feature values as of a moment (microseconds), for every entity that has a row.

    Window rule: ``t − w < event_time ≤ t AND available_at ≤ t``.

    Args:
        fitted_at: the moment of encodings; the midnight before ``as_of`` by default.
        rows: what stands after FROM. ``together``: the same for what encodings are set against.
    """
    keys = ", ".join(f"k{index}" for index in range(len(plan.keys)))
    fitted_at = midnight_before(as_of) if fitted_at is None else fitted_at
    groups: dict[tuple[int, int | None, bool], int] = {}
    columns: list[str] = []
    for feature in plan.features:
        group = (feature.measure, feature.window, feature.fitted)
        if group in groups:
            continue
        groups[group] = len(groups)
        condition = window_condition(feature.window, fitted_at if feature.fitted else as_of)
        columns += tile_columns(plan, feature.measure, f"g{groups[group]}", condition)
    measures = [measure for measure, _window, _fitted in groups]
    picked = ", ".join(columns)
    everybody = connection.execute(f"SELECT {picked} FROM {together}").fetchall() if plan.fitted_windows else ()
    every = tiles_of(plan, measures, everybody[0]) if everybody else []
    cursor = connection.execute(f"SELECT {keys}, {picked} FROM {rows} GROUP BY {keys} ORDER BY {keys}")
    finishes = [
        (feature.name, groups[feature.measure, feature.window, feature.fitted], *finishes_of(feature, plan))
        for feature in plan.features
    ]
    width = len(plan.keys)
    while fetched := cursor.fetchmany(_FETCH):
        for row in fetched:
            tiles = tiles_of(plan, measures, row[width:])
            values: dict[str, Computed] = {}
            for name, place, finish, fitted in finishes:
                if fitted is not None:
                    values[name] = Computed(fitted(tiles[place], every[place]), every[place].latest)
                elif finish is not None:
                    values[name] = Computed(finish(tiles[place]), tiles[place].latest)
            yield tuple(row[:width]), values
