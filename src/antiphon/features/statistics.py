"""Statistics of a snapshot's feature values: what gates judge and consumers read confidence from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.features.batch_values import Computed

_DISTINCT = 1_000


class StatisticsBuilder:
    """One pass over entities' values: count, null share, minimum, maximum, mean, deviation, distinct values."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns = {name: _Column() for name in names}

    def add(self, values: Mapping[str, Computed]) -> None:
        """Take one entity's values."""
        for name, computed in values.items():
            self._columns[name].add(computed)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Feature to named statistics; instants in microseconds, means over entities that have a value."""
        return {name: column.finish() for name, column in self._columns.items()}


class _Column:
    def __init__(self) -> None:
        self.rows = self.nulls = 0
        self.numbers: list[float] = []
        self.distinct: set[Any] = set()
        self.latest: int | None = None

    def add(self, computed: Computed) -> None:
        self.rows += 1
        value = computed.value
        if computed.event_time is not None and (self.latest is None or computed.event_time > self.latest):
            self.latest = computed.event_time
        if value is None:
            self.nulls += 1
            return
        if len(self.distinct) < _DISTINCT:
            self.distinct.add(value)
        if isinstance(value, (int, float)):
            self.numbers.append(float(value))

    def finish(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "rows": self.rows,
            "null_share": self.nulls / self.rows if self.rows else 1.0,
            "distinct": len(self.distinct),
            "latest_event_time": self.latest,
        }
        if self.numbers:
            mean = math.fsum(self.numbers) / len(self.numbers)
            spread = math.fsum((number - mean) ** 2 for number in self.numbers)
            found |= {
                "minimum": min(self.numbers),
                "maximum": max(self.numbers),
                "mean": mean,
                "deviation": math.sqrt(spread / len(self.numbers)),
            }
        return found
