"""Tiles in SQL: the aggregate columns of a measure, and a fetched row of them as :class:`Tile`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antiphon.features.plan import Plan
from antiphon.features.tiles import Tile

WIDTH = 8
"""Columns a tile takes: count, total, squares, low, high, first, last, latest."""


def tile_columns(plan: Plan, measure: int, name: str, condition: str | None = None) -> list[str]:
    """Aggregates of rows into one measure's tile, as columns ``NAME_count … NAME_latest``.

    Parts no feature needs are null. Sums are HUGEINT: exact whatever the order and the threads.
    """
    m = f"m{measure}"
    parts = plan.parts[measure]
    present = f"{m} IS NOT NULL" + (f" AND {condition}" if condition else "")
    where = f" FILTER (WHERE {present})"
    placed = f"{{'t': event_time, 's': seq, 'v': {m}}}"
    expressions = [
        f"count({m}){where}",
        f"sum({m}::HUGEINT){where}" if "total" in parts else "NULL::HUGEINT",
        f"sum({m}::HUGEINT * {m}::HUGEINT){where}" if "squares" in parts else "NULL::HUGEINT",
        f"min({m}){where}" if "low" in parts else "NULL",
        f"max({m}){where}" if "high" in parts else "NULL",
        f"arg_min({placed}, (event_time, seq)){where}" if "first" in parts else "NULL",
        f"arg_max({placed}, (event_time, seq)){where}" if "last" in parts else "NULL",
        f"max(event_time){where}",
    ]
    return [f"{expression} AS {column}" for expression, column in zip(expressions, column_names(name), strict=True)]


def merge_columns(plan: Plan, measure: int, name: str) -> list[str]:
    """Aggregates of tiles into one tile, columns as in :func:`tile_columns`."""
    parts = plan.parts[measure]
    count, total, squares, low, high, first, last, latest = column_names(name)
    expressions = [
        f"sum({count})",
        f"sum({total})" if "total" in parts else "NULL::HUGEINT",
        f"sum({squares})" if "squares" in parts else "NULL::HUGEINT",
        f"min({low})" if "low" in parts else "NULL",
        f"max({high})" if "high" in parts else "NULL",
        f"arg_min({first}, ({first}.t, {first}.s)) FILTER (WHERE {first} IS NOT NULL)" if "first" in parts else "NULL",
        f"arg_max({last}, ({last}.t, {last}.s)) FILTER (WHERE {last} IS NOT NULL)" if "last" in parts else "NULL",
        f"max({latest})",
    ]
    return [f"{expression} AS {column}" for expression, column in zip(expressions, column_names(name), strict=True)]


def column_names(name: str) -> list[str]:
    """Names of a tile's columns."""
    return [f"{name}_{part}" for part in ("count", "total", "squares", "low", "high", "first", "last", "latest")]


def tile_of(fetched: Sequence[Any]) -> Tile:
    """The tile in :data:`WIDTH` fetched columns."""
    tile = Tile()
    tile.count = int(fetched[0] or 0)
    tile.total = int(fetched[1] or 0)
    tile.squares = int(fetched[2] or 0)
    tile.low, tile.high = fetched[3], fetched[4]
    first, last = fetched[5], fetched[6]
    tile.first = None if first is None else (first["t"], first["s"], first["v"])
    tile.last = None if last is None else (last["t"], last["s"], last["v"])
    tile.latest = fetched[7]
    return tile


def tile_index(plan: Plan, instant: str) -> str:
    """The index of the tile an instant (a SQL expression, microseconds) lies in: floor division, also before 1970."""
    return f"(({instant} - (({instant} % {plan.tile}) + {plan.tile}) % {plan.tile}) // {plan.tile})"
