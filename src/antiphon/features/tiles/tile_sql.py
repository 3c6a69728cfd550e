"""Tiles in SQL: the aggregate columns of a measure, and a fetched row of them as :class:`Tile`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from antiphon.features.plan import Part, ViewPlan
from antiphon.features.tiles.sketches import KEPT, bucket_sql
from antiphon.features.tiles.tile import Tile

_ALWAYS = ("count", "total", "squares", "low", "high", "first", "last", "latest")
_SKETCHES: tuple[Part, ...] = ("distinct", "buckets")
"""Columns of a tile that are only there when a feature needs them."""


def tile_columns(plan: ViewPlan, measure: int, name: str, condition: str | None = None) -> list[str]:
    """Aggregates of rows into one measure's tile, as columns ``NAME_count … NAME_latest``.

    Parts no feature needs are null. Sums are HUGEINT: exact whatever the order and the threads.
    """
    m = f"m{measure}"
    parts = plan.parts[measure]
    where = f" FILTER (WHERE {m} IS NOT NULL" + (f" AND {condition})" if condition else ")")
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
        *([f"min(DISTINCT {m}, {KEPT}){where}"] if "distinct" in parts else []),
        *([f"histogram({bucket_sql(m)}){where}"] if "buckets" in parts else []),
    ]
    names = column_names(plan, measure, name)
    return [f"{expression} AS {column}" for expression, column in zip(expressions, names, strict=True)]


def merge_columns(plan: ViewPlan, measure: int, name: str) -> list[str]:
    """Aggregates of tiles into one tile, columns as in :func:`tile_columns`."""
    parts = plan.parts[measure]
    names = column_names(plan, measure, name)
    count, total, squares, low, high, first, last, latest = names[: len(_ALWAYS)]
    expressions = [
        f"sum({count})",
        f"sum({total})" if "total" in parts else "NULL::HUGEINT",
        f"sum({squares})" if "squares" in parts else "NULL::HUGEINT",
        f"min({low})" if "low" in parts else "NULL",
        f"max({high})" if "high" in parts else "NULL",
        f"arg_min({first}, ({first}.t, {first}.s)) FILTER (WHERE {first} IS NOT NULL)" if "first" in parts else "NULL",
        f"arg_max({last}, ({last}.t, {last}.s)) FILTER (WHERE {last} IS NOT NULL)" if "last" in parts else "NULL",
        f"max({latest})",
        # The histograms of several tiles are added up where they are fetched.
        *(
            f"list_slice(list_sort(list_distinct(flatten(list({column})))), 1, {KEPT})"
            if column.endswith("_distinct")
            else f"list({column}) FILTER (WHERE {column} IS NOT NULL)"
            for column in names[len(_ALWAYS) :]
        ),
    ]
    return [f"{expression} AS {column}" for expression, column in zip(expressions, names, strict=True)]


def column_names(plan: ViewPlan, measure: int, name: str) -> list[str]:
    """Names of the columns of a measure's tile."""
    return [f"{name}_{part}" for part in (*_ALWAYS, *(part for part in _SKETCHES if part in plan.parts[measure]))]


def tiles_of(plan: ViewPlan, measures: Sequence[int], fetched: Sequence[Any]) -> list[Tile]:
    """The tiles of some measures, whose columns stand side by side in a fetched row."""
    tiles: list[Tile] = []
    values = iter(fetched)
    for measure in measures:
        tile = Tile()
        tile.count, tile.total, tile.squares = (int(value or 0) for value in islice(values, 3))
        tile.low, tile.high = islice(values, 2)
        first, last = islice(values, 2)
        tile.first = None if first is None else (first["t"], first["s"], first["v"])
        tile.last = None if last is None else (last["t"], last["s"], last["v"])
        tile.latest = next(values)
        for part in _SKETCHES:
            state = next(values) if part in plan.parts[measure] else None
            if state is None or not tile.count:
                continue
            if part == "distinct":
                tile.hashes = set(state)
            else:
                tile.buckets = {}
                for number, count in _counts(state):
                    tile.buckets[int(number)] = tile.buckets.get(int(number), 0) + int(count)
        tiles.append(tile)
    return tiles


def _counts(state: Any) -> Iterator[tuple[int, int]]:
    """The counts of a histogram, or of the lists of them that merging leaves."""
    if isinstance(state, dict):
        yield from state.items()
    else:
        for each in state:
            yield from _counts(each)


def tile_index(plan: ViewPlan, instant: str) -> str:
    """The index of the tile an instant (a SQL expression, microseconds) lies in: floor division, also before 1970."""
    return f"(({instant} - (({instant} % {plan.tile}) + {plan.tile}) % {plan.tile}) // {plan.tile})"
