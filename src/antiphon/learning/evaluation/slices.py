"""Slices: every metric of an application on the rows of one value of an attribute. Pure.

An attribute is an entity key or a feature. A feature that is a number with more than :data:`MOST_VALUES` values is cut
into quarters of the very rows that are sliced, for a slice of each value would be too small to say anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeGuard

import numpy as np

from antiphon.catalog.learning.evaluations import Slice
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.datasets.table import Value
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metric import ScoredRows
from antiphon.learning.evaluation.metrics import LabelForecasts

MOST_SLICES = 100
"""Of one key, the largest: an entity key may have as many values as there are rows."""

MOST_VALUES = 10
"""Different numbers that are slices of their own: stars, or items of an order."""

UNKNOWN = "unknown"
"""The slice of rows without a value."""


@dataclass(frozen=True)
class MeasuredRows:
    """Rows that are measured together, by the metrics of an outcome or by one of the user's own.

    Attributes:
        places: of each row among those that are sliced.
        rows: beside what came true; ``None`` of a metric of the user's own, of which there are ``values``.
        prefix: begins the names of the metrics.
    """

    places: tuple[int, ...]
    rows: ScoredRows | None = None
    values: tuple[float, ...] = ()
    prefix: str = ""

    def at(self, chosen: frozenset[int]) -> tuple[dict[str, float], int]:
        """The metrics of those rows that are among the chosen ones, and how many these are."""
        inside = [own for own, place in enumerate(self.places) if place in chosen]
        if not inside:
            return {}, 0
        if self.rows is None:
            return {self.prefix: float(np.mean([self.values[own] for own in inside]))}, len(inside)
        found = metrics.measure(self.rows.at(inside))
        return {f"{self.prefix}{name}": value for name, value in found.items()}, len(inside)


def slices(
    keys: Sequence[str], rows: Sequence[DatasetRow], labels: Sequence[str | None], parts: Sequence[MeasuredRows]
) -> tuple[Slice, ...]:
    """The slices of each key, a key's largest first.

    Args:
        labels: that came true of each row; ``None`` where the first outcome is no label.
        parts: what is measured; the first one is of every row.
    """
    return tuple(one for key in keys for one in _of_key(key, rows, labels, parts))


def _of_key(
    key: str, rows: Sequence[DatasetRow], labels: Sequence[str | None], parts: Sequence[MeasuredRows]
) -> Iterator[Slice]:
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(slice_names([value_of(row, key) for row in rows])):
        groups.setdefault(name, []).append(place)
    for value, places in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:MOST_SLICES]:
        chosen, measured, known = frozenset(places), dict[str, float](), dict[str, int]()
        for part in parts:
            found, count = part.at(chosen)
            measured |= found
            known |= dict.fromkeys(found, count) if count < len(places) else {}
        first = parts[0].rows.at(places) if parts[0].rows is not None else None
        said, recall = metrics.said_labels(first) if isinstance(first, LabelForecasts) else ({}, {})
        true = [label for place in places if (label := labels[place]) is not None]
        counts = {label: true.count(label) for label in sorted(set(true))}
        yield Slice(key, value, len(places), counts, measured, said, recall, known)


def value_of(row: DatasetRow, key: str) -> Value:
    """The value of an entity key or a feature; ``None`` where the row has none."""
    if "." not in key:
        return row.entity.get(key)
    found = row.features.values.get(key)
    return None if found is None else found.value


def slice_names(values: Sequence[Value]) -> list[str]:
    """The name of each row's slice, by the value of one attribute in each of the rows.

    Numbers are cut at their quartiles, each of which belongs to the lower part, when there are more than
    :data:`MOST_VALUES` different ones.
    """
    numbers = sorted(float(one) for one in values if _is_number(one))
    plain = [UNKNOWN if one is None or one != one else str(one) for one in values]
    if len(set(numbers)) <= MOST_VALUES:
        return plain
    quartiles = [numbers[(len(numbers) * quarter + 3) // 4 - 1] for quarter in (1, 2, 3)]
    below = [number for number in numbers if number < numbers[-1]]
    edges = [edge for edge in dict.fromkeys(quartiles) if edge < numbers[-1]] or below[-1:]
    names = [
        f"up to {edges[0]:g}",
        *(f"over {low:g} to {high:g}" for low, high in pairwise(edges)),
        f"over {edges[-1]:g}",
    ]
    return [
        names[int(np.searchsorted(edges, float(one)))] if _is_number(one) else other
        for one, other in zip(values, plain, strict=True)
    ]


def _is_number(value: Value) -> TypeGuard[float]:
    """Tells whether a value is a number that can be ordered: a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
