"""A window of the history: measurements of one tenant over a span, as columns for a chart or as one amount."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from antiphon.catalog.measurements import FINEST, KEPT, Amount, Amounts, begin_of
from antiphon.core.errors import InvalidInputError
from antiphon.core.histograms import quantile
from antiphon.operations.history.measures import Measure, measure_of

MOST_PERIODS = 400
"""Of a window, so that a chart is neither coarse nor slow."""

FINEST_SPAN = timedelta(minutes=30)
"""The longest window of the finest periods, of which every process has a row of its own."""

_Selection = tuple[str, tuple[str, ...], frozenset[tuple[int, frozenset[str]]]]

Statistic = Literal["total", "rate", "mean", "greatest", "count", "p50", "p90", "p99"]

STATISTICS: Mapping[str, tuple[Statistic, ...]] = {
    "count": ("total", "rate"),
    "level": ("mean", "greatest"),
    "durations": ("p50", "p90", "p99", "mean", "count", "rate"),
}
"""By kind of measure, the first is the default. ``rate`` is a second; ``count`` is of observations."""

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class HistoryLine(msgspec.Struct, frozen=True):
    """A line of a chart: the values of the labels that it stands for, and a value for each period."""

    labels: dict[str, str]
    values: tuple[float | None, ...]


class HistoryColumns(msgspec.Struct, frozen=True):
    """A measure over time.

    Attributes:
        unit: of the values, a second for a ``rate``.
        period_seconds: length of a period; ``at`` are their begins.
    """

    measure: str
    text: str
    unit: str
    statistic: Statistic
    period_seconds: int
    at: tuple[datetime, ...]
    lines: tuple[HistoryLine, ...]


class HistoryWindow:
    """Measurements of one tenant by period.

    Args:
        periods: by begin; one that is missing was measured by nobody.
        until: the end of the last period, which may not be over.
    """

    def __init__(self, period: timedelta, since: datetime, until: datetime, periods: Mapping[datetime, Amounts]):
        self.period = period
        self.until = until
        self.at = tuple(_begins(since, until, period))
        self._measured = frozenset(periods)
        # By measure: a page has many charts, and each would look through everything again.
        self._by_measure: dict[str, dict[datetime, list[tuple[tuple[str, ...], Amount]]]] = {}
        # Two statistics of one measure are of the same sums.
        self._summed: dict[_Selection, list[tuple[int, dict[tuple[str, ...], Amount]]]] = {}
        for start, measured in periods.items():
            of_period: dict[str, list[tuple[tuple[str, ...], Amount]]] = {}
            for (name, labels), amount in measured.items():
                of_period.setdefault(name, []).append((labels, amount))
            for name, amounts in of_period.items():
                self._by_measure.setdefault(name, {})[start] = amounts

    def columns(
        self,
        measure: str,
        statistic: str | None = None,
        by: Sequence[str] = (),
        where: Mapping[str, str | Collection[str]] | None = None,
    ) -> HistoryColumns:
        """One measure over time, a line for each combination of the values of ``by``.

        Args:
            where: label to the value, or to the values, that are looked at.

        Raises:
            NotFoundError: no such measure. InvalidInputError: it has no such label or statistic.
        """
        found = measure_of(measure)
        chosen = statistic_of(found, statistic)
        by = tuple(by)
        _require_labels(found, (*by, *(where or {})))
        lines: dict[tuple[str, ...], list[Amount | None]] = {}
        for number, sums in self._sums(found, by, where or {}):
            for labels, amount in sums.items():
                lines.setdefault(labels, [None] * len(self.at))[number] = amount
        return HistoryColumns(
            found.name,
            found.text,
            found.unit,
            chosen,
            int(self.period.total_seconds()),
            self.at,
            tuple(
                HistoryLine(
                    dict(zip(by, labels, strict=True)),
                    tuple(
                        self._value(found, chosen, amount, start)
                        for start, amount in zip(self.at, amounts, strict=True)
                    ),
                )
                for labels, amounts in sorted(lines.items())
            ),
        )

    def amount(self, measure: str, where: Mapping[str, str | Collection[str]] | None = None) -> Amount:
        """The amount of a measure over the whole window."""
        found, whole = measure_of(measure), Amount()
        for _, sums in self._sums(found, (), where or {}):
            for amount in sums.values():
                whole.add(amount)
        return whole

    def _sums(
        self, measure: Measure, by: tuple[str, ...], where: Mapping[str, str | Collection[str]]
    ) -> list[tuple[int, dict[tuple[str, ...], Amount]]]:
        """By the number of each period that measured something, the amount of every combination of values of ``by``."""
        tests = frozenset(
            (measure.labels.index(label), frozenset({values} if isinstance(values, str) else values))
            for label, values in where.items()
        )
        selection = measure.name, by, tests
        if (known := self._summed.get(selection)) is not None:
            return known
        places = [measure.labels.index(label) for label in by]
        found: list[tuple[int, dict[tuple[str, ...], Amount]]] = []
        # The same labels come in every period: whether they are meant is decided once.
        groups: dict[tuple[str, ...], tuple[str, ...] | None] = {}
        of_measure = self._by_measure.get(measure.name, {})
        for number, start in enumerate(self.at):
            parts: dict[tuple[str, ...], list[Amount]] = {}
            for labels, amount in of_measure.get(start, ()):
                if labels not in groups:
                    aligned = measure.aligned(labels)
                    meant = all(aligned[place] in values for place, values in tests)
                    groups[labels] = tuple(aligned[place] for place in places) if meant else None
                if (group := groups[labels]) is not None:
                    parts.setdefault(group, []).append(amount)
            if parts:
                found.append((number, {group: _sum(amounts) for group, amounts in parts.items()}))
        self._summed[selection] = found
        return found

    def _value(self, measure: Measure, statistic: Statistic, amount: Amount | None, start: datetime) -> float | None:
        seconds = max(1.0, (min(self.until, start + self.period) - start).total_seconds())
        if amount is None:
            # Somebody measured, and counted nothing.
            return 0.0 if start in self._measured and statistic in ("total", "rate", "count") else None
        if statistic in _SHARES:
            return quantile(amount.buckets, _SHARES[statistic])
        if statistic == "mean":
            over = seconds if measure.kind == "level" and measure.adds_up else amount.weight
            return amount.total / over if over else None
        counted = amount.weight if measure.kind == "durations" else amount.total
        return {"total": amount.total, "rate": counted / seconds, "count": amount.weight}.get(
            statistic, amount.greatest
        )


def period_of(span: timedelta, age: timedelta) -> timedelta:
    """The shortest period of a window so long whose begin is so long ago, for which measurements are kept."""
    for period, kept in KEPT.items():
        if age <= kept and span <= (FINEST_SPAN if period == FINEST else period * MOST_PERIODS):
            return period
    return max(KEPT)


def statistic_of(measure: Measure, statistic: str | None) -> Statistic:
    """The statistic of this name, or the usual one.

    Raises:
        InvalidInputError: a measure of this kind has none of this name.
    """
    known = STATISTICS[measure.kind]
    for one in known:
        if statistic in (None, one):
            return one
    raise InvalidInputError(
        f"{measure.name} has no {statistic!r}.", where="statistic", next_step=f"Choose one of {', '.join(known)}."
    )


def _require_labels(measure: Measure, labels: Collection[str]) -> None:
    for label in labels:
        if label not in measure.labels:
            known = ", ".join(measure.labels) or "none"
            raise InvalidInputError(
                f"{measure.name} has no label {label!r}.", where="by", next_step=f"Its labels: {known}."
            )


def _sum(amounts: Sequence[Amount]) -> Amount:
    """The sum of amounts, or the only one itself: not to be changed."""
    if len(amounts) == 1:
        return amounts[0]
    whole = Amount(buckets={})
    for amount in amounts:
        whole.add(amount)
    return whole


def _begins(since: datetime, until: datetime, period: timedelta) -> Iterator[datetime]:
    start = begin_of(since, period)
    while start < until:
        yield start
        start += period
