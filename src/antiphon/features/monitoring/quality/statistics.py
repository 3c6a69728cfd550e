"""Statistics of features and columns, from Arrow tables: a batch at a time, no step of it per Python row.

A histogram's edges are fixed: the grid ±{1, 2, 5}·10^k with zero, and the 5 % quantiles of the first batch that was
ever seen under this definition; later snapshots take over the edges of the one before. So two snapshots of a definition
version compare bin by bin, and a shift is seen inside the usual range as well as far outside of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshot_facts import WITHHELD, Statistics
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.sensitivity import Tags

if TYPE_CHECKING:
    import numpy
    import pyarrow


KeyedHash = Callable[[str, list[str | None]], bytes]
"""``OnlineSnapshots.entity_hash``."""
NameOf = Callable[[str], str | None]
"""The name that statistics have for a text; ``None`` counts it among the others."""
_DIGITS = 12


class TextNames:
    """Names the texts of one view; without ``keyed_hash`` what is not public gets no name at all."""

    def __init__(self, spec: FeatureViewSpec, keyed_hash: KeyedHash | None) -> None:
        self._view = spec.name
        self._keyed_hash = keyed_hash
        self._public = frozenset(name for name in spec.features if spec.tags.get(name, Tags()).sensitivity == "public")
        # A column may be read by every feature of the view, and by its rules beside them.
        self.columns_public = self._public == spec.features.keys()

    def of_features(self, features: Collection[str]) -> dict[str, NameOf]:
        """Ways to name the texts of each feature that is not public."""
        return {name: self._named(name) for name in features if name not in self._public}

    def of_columns(self, columns: Collection[str]) -> dict[str, NameOf]:
        """Ways to name the texts of each column of the source, unless all that is made of it is public."""
        return {} if self.columns_public else {name: self._named(f"source.{name}") for name in columns}

    def _named(self, column: str) -> NameOf:
        keyed_hash = self._keyed_hash
        if keyed_hash is None:
            return lambda text: None
        return lambda text: f"{WITHHELD}{keyed_hash('antiphon statistics', [self._view, column, text]).hex()[:_DIGITS]}"


def named_alike(one: Statistics, other: Statistics) -> bool:
    """Tell whether both name texts, or both name pseudonyms: their names mean nothing to each other otherwise."""
    kinds = [{name.startswith(WITHHELD) for name in each.top} for each in (one, other) if each.top]
    return len(kinds) < 2 or kinds[0] == kinds[1]


DISTINCT = 1_000
"""Distinct values are counted up to here."""

TOP = 20
"""So many values of a text are kept by name."""

_HELD = 5_000
_GRID = tuple(sign * part * 10.0**power for sign in (-1, 1) for power in range(-2, 7) for part in (1, 2, 5))


class StatisticsBuilder:
    """One pass over named columns.

    Args:
        names: columns by the name that their statistics get.
        before: earlier statistics, whose edges are taken over.
        named: how the texts of a column are named, where not by themselves.
    """

    def __init__(
        self,
        names: Sequence[str],
        before: Mapping[str, Statistics] | None = None,
        named: Mapping[str, NameOf] | None = None,
    ) -> None:
        known, named = before or {}, named or {}
        self._columns = {
            name: _ColumnCounts(known[name].edges if name in known else (), named.get(name)) for name in names
        }

    def add(self, table: pyarrow.Table | pyarrow.RecordBatch, prefix: str = "") -> None:
        """Take a batch; a column is looked for under ``prefix`` and its name, its event times with ``.event_time``."""
        names = set(table.schema.names)
        for name, column in self._columns.items():
            if prefix + name in names:
                column.add(table.column(prefix + name))
            if f"{prefix}{name}.event_time" in names:
                column.add_times(table.column(f"{prefix}{name}.event_time"))

    def finish(self) -> dict[str, Statistics]:
        """Name to statistics; means and deviations are of what has a value."""
        return {name: column.finish() for name, column in self._columns.items()}


class _ColumnCounts:
    def __init__(self, edges: Sequence[float], name_of: NameOf | None) -> None:
        self.name_of = name_of
        self.rows = self.nulls = self.not_finite = 0
        self.seen: set[Any] = set()
        self.latest: int | None = None
        self.edges: Any = tuple(edges)
        self.counts: Any = None
        self.top: Counter[str] = Counter()
        self.named = False
        self.present = 0
        self.low, self.high, self.mean, self.squares = float("inf"), float("-inf"), 0.0, 0.0

    def add(self, column: Any) -> None:
        import pyarrow
        import pyarrow.compute as pc

        self.rows += len(column)
        self.nulls += column.null_count
        kind = column.type
        if pyarrow.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pyarrow.types.is_boolean(kind):
            column, kind = column.cast(pyarrow.string()), pyarrow.string()
            self.name_of = None  # True and false tell nothing of anybody.
        if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
            self._add_texts(column)
        elif pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
            # A NaN of ours is never one of the source's: nulls are dropped before.
            numbers = pc.cast(column.drop_null(), pyarrow.float64(), safe=False)
            for chunk in numbers.chunks if isinstance(numbers, pyarrow.ChunkedArray) else [numbers]:
                self._add_numbers(doubles(chunk))

    def add_times(self, column: Any) -> None:
        import pyarrow
        import pyarrow.compute as pc

        latest = pc.max(column.cast(pyarrow.timestamp("us", tz="UTC")).cast(pyarrow.int64())).as_py()
        if latest is not None and (self.latest is None or latest > self.latest):
            self.latest = latest

    def _add_texts(self, column: Any) -> None:
        self.named = True
        counted = column.drop_null().value_counts()
        if not len(counted):
            return
        values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        self.present += sum(counts)
        self.top.update(dict(zip(values, counts, strict=True)))
        if len(self.seen) < DISTINCT:
            self.seen.update(values)
        if len(self.top) > _HELD:
            # Lossy counting: what is rare is forgotten and counts as other.
            self.top = Counter(dict(self.top.most_common(_HELD // 2)))

    def _add_numbers(self, values: numpy.ndarray[Any, Any]) -> None:
        import numpy

        finite = values[numpy.isfinite(values)]
        if len(finite) < len(values):
            self.not_finite += len(values) - len(finite)
            self.seen.update(numpy.unique(values[~numpy.isfinite(values)]).tolist())
        if not len(finite):
            return
        if not len(self.edges):
            self.edges = edges_of(finite)
        if self.counts is None:
            self.counts = numpy.zeros(len(self.edges) + 1, dtype=numpy.int64)
        # Sorted once, distinct values and the places of the few edges are cheap.
        ordered = numpy.sort(finite)
        if len(self.seen) < DISTINCT:
            new = numpy.flatnonzero(ordered[1:] != ordered[:-1])[:DISTINCT] + 1
            self.seen.update(ordered[new].tolist(), (float(ordered[0]),))
        below = numpy.searchsorted(ordered, numpy.asarray(self.edges), side="right")
        self.counts += numpy.diff(numpy.concatenate([[0], below, [len(ordered)]]))
        # Two samples' moments become one's: Chan, Golub and LeVeque (1983).
        # Of values near the largest double they overflow; then the sample has neither mean nor deviation.
        with numpy.errstate(over="ignore", invalid="ignore"):
            count, mean = len(finite), float(finite.mean())
            total, gap = self.present + count, mean - self.mean
            self.squares += float(((finite - mean) ** 2).sum()) + gap * gap * self.present * count / total
        self.mean += gap * count / total
        self.present = total
        self.low, self.high = min(self.low, float(ordered[0])), max(self.high, float(ordered[-1]))

    def finish(self) -> Statistics:
        found = Statistics(
            rows=self.rows,
            null_share=(self.nulls + self.not_finite) / self.rows if self.rows else 1.0,
            distinct=min(len(self.seen), DISTINCT),
            latest_event_time=self.latest,
            not_finite=self.not_finite,
        )
        if self.named:
            top = dict(self.top.most_common(TOP))
            if self.name_of is not None:
                names = {text: self.name_of(text) for text in top}
                top = {name: top[text] for text, name in names.items() if name is not None}
            return msgspec.structs.replace(found, top=top, other=self.present - sum(top.values()))
        if self.counts is None:
            return msgspec.structs.replace(found, edges=tuple(self.edges))
        return msgspec.structs.replace(
            found,
            minimum=self.low,
            maximum=self.high,
            mean=self.mean if math.isfinite(self.mean) else None,
            deviation=(self.squares / self.present) ** 0.5 if math.isfinite(self.squares) else None,
            edges=tuple(self.edges),
            counts=tuple(self.counts.tolist()),
        )


def edges_of(values: numpy.ndarray[Any, Any]) -> tuple[float, ...]:
    """The edges that a first batch of finite values fixes."""
    import numpy

    ordered = numpy.sort(values[:200_000])
    places = numpy.floor(numpy.arange(0.05, 1.0, 0.05) * (len(ordered) - 1)).astype(numpy.int64)
    return tuple(sorted({0.0, *_GRID, *map(float, ordered[places])}))


def doubles(column: pyarrow.Array) -> numpy.ndarray[Any, Any]:
    """An Arrow array of doubles without nulls, by its buffer: pyarrow's own conversion loads pandas where it is."""
    import numpy

    held = column.buffers()[1]
    if not len(column) or held is None:
        return numpy.zeros(0)
    return numpy.frombuffer(held, numpy.float64, len(column), 8 * column.offset)
