"""Records what a process measures: the differences of its metrics since the last look, kept in the catalog.

Invariant: what could not be written is added to what is written next, and what was written is not. What a process had
not written when it was killed, at most :data:`~antiphon.catalog.measurements.FINEST` of it, is lost to the history
(receipts are not).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from time import monotonic

from prometheus_client import Metric

from antiphon.catalog.measurements import FINEST, PLATFORM, Amount, MeasurementRows, Measurements, Series
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError
from antiphon.core.histograms import FineHistogram
from antiphon.core.logs import described
from antiphon.core.pauses import wait
from antiphon.operations.history.measures import MEASURES, Measure

_log = logging.getLogger("antiphon.history")

Families = Iterable[tuple[Mapping[str, str], Metric]]
"""Families of metrics, each with labels that all its samples have beside their own."""

_LONGEST_SECONDS = 6 * FINEST.total_seconds()
"""For which one look speaks for a level at most: what was longer ago, as of a machine that slept, nobody saw."""

_TENANTS_AT_ONCE = 20
"""Tenants whose rows one transaction writes: the catalog has one writer at a time."""

_TENANT = "tenant"


class MetricDifferences:
    """Reads metrics as what they add to a history.

    Args:
        tenant: that measures of tenants belong to where their samples name none.
        from_start: counters begin at zero when the first look is taken, as those of the own process do; otherwise the
            first look at a counter counts nothing.
    """

    def __init__(self, tenant: str, *, from_start: bool) -> None:
        self._tenant = tenant
        self._from_start = from_start
        self._seen: dict[tuple[str, Series], Amount] = {}

    def read(self, families: Families, seconds: float, *, keep: bool = True) -> dict[str, Measurements]:
        """The differences since the last look, by tenant; levels hold for ``seconds``.

        Args:
            keep: this is a look; otherwise the next one counts the same again.
        """
        found: dict[str, Measurements] = {}
        seen: dict[tuple[str, Series], Amount] = {}
        for fixed, family in families:
            measure = MEASURES.get(family.name)
            if measure is None:
                continue
            for tenant, series, now in _amounts(measure, family, fixed, self._tenant):
                if measure.kind == "level":
                    difference = Amount(now.total * seconds, seconds, now.total)
                else:
                    known = self._seen.get((tenant, series))
                    seen[tenant, series] = now
                    if known is None and not self._from_start:
                        continue
                    difference = now if known is None or now.total < known.total else _less(now, known)
                    if not difference.total and not difference.weight:
                        continue
                mine = found.setdefault(tenant, Measurements())
                mine.add({series: difference})
        if keep:
            self._seen |= seen
        return found


def _amounts(
    measure: Measure, family: Metric, fixed: Mapping[str, str], tenant: str
) -> Iterable[tuple[str, Series, Amount]]:
    def owned(labels: Mapping[str, str]) -> tuple[str, Series]:
        of = labels.get(_TENANT, tenant) if measure.by_tenant else PLATFORM
        return of, (measure.name, tuple(labels.get(name, "") for name in measure.labels))

    if isinstance(family, FineHistogram):
        for values, (buckets, total) in family.fine.items():
            yield (
                *owned({**fixed, **dict(zip(family.names, values, strict=True))}),
                Amount(total, float(sum(buckets.values())), 0.0, buckets),
            )
    else:
        for sample in family.samples:
            if measure.kind == "level" or sample.name.endswith("_total"):
                yield *owned({**fixed, **sample.labels}), Amount(float(sample.value))


def _less(now: Amount, known: Amount) -> Amount:
    buckets = {
        bucket: count - known.buckets.get(bucket, 0)
        for bucket, count in now.buckets.items()
        if count != known.buckets.get(bucket, 0)
    }
    return Amount(now.total - known.total, now.weight - known.weight, 0.0, buckets)


class HistoryRecorder:
    """Keeps what one source measures, a look every :data:`~antiphon.catalog.measurements.FINEST`.

    Args:
        source: the name that its rows are kept under; nobody else may use it at the same time.
        look: the metrics as they are now.
        differences: of these metrics, of this recorder alone.
    """

    def __init__(
        self,
        rows: MeasurementRows,
        clock: Clock,
        source: str,
        look: Callable[[], Awaitable[Families]],
        differences: MetricDifferences,
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._source = source
        self._look = look
        self._differences = differences
        self._unwritten: dict[str, Measurements] = {}
        self._looked = monotonic()
        self._failing = False

    async def run_until(self, stop: asyncio.Event) -> None:
        """Record until ``stop``, and once more at the end."""
        while not stop.is_set():
            await wait(stop, FINEST.total_seconds())
            await self.record()

    async def record(self) -> None:
        """Look once and keep what was measured. A look or a write that fails is told once and made good by the next."""
        try:
            for tenant, measured in self._read(await self._look(), keep=True).items():
                self._unwritten.setdefault(tenant, Measurements()).add(measured)
            while part := dict(islice(self._unwritten.items(), _TENANTS_AT_ONCE)):
                await asyncio.to_thread(self._rows.append, self._source, self._clock.now(), part)
                for tenant in part:
                    del self._unwritten[tenant]
            self._failing = False
        except Exception as error:  # Measuring ends nothing that is measured.
            if not self._failing:
                level = logging.WARNING if isinstance(error, AntiphonError) else logging.ERROR
                _log.log(level, "What %s measures is written later: %s", self._source, described(error))
            self._failing = True

    async def unwritten(self, tenant: str) -> Measurements:
        """Measurements of a tenant since the last row was written."""
        found = Measurements()
        found.add(self._unwritten.get(tenant, {}))
        found.add(self._read(await self._look(), keep=False).get(tenant, {}))
        return found

    def _read(self, families: Families, *, keep: bool) -> dict[str, Measurements]:
        now = monotonic()
        seconds = min(now - self._looked, _LONGEST_SECONDS)
        if keep:
            self._looked = now
        return self._differences.read(families, seconds, keep=keep)
