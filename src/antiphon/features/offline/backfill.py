"""Backfill: the durable workflow that computes views as of moments of the past, and publishes nothing.

A partition is a view as of a moment. Moments are done in order, and of each the views in turn, so that a partition is
compared with the one before. Invariants: each is a step of its own, so what is computed again after a crash, a freeze
or a pause is less than one; its values are those of a refresh as of its moment over the same source and log, to the
same logical hash; its row and the manifest of its snapshot are one transaction with the record that it is done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.features.backfills import BackfillPartition, partition_id
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import Clock, utc
from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError
from antiphon.durable.context import RunContext
from antiphon.durable.run import RunResult
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.monitoring.quality.distances import distance
from antiphon.features.monitoring.quality.gate import EARLIER, gate
from antiphon.features.offline.materialize import Materialization
from antiphon.features.offline.refresh import MATERIALIZE, Refresher

WORKFLOW = "backfill"
"""The workflow's name in the registry."""

MOST_PARTITIONS = 5_000
"""Partitions of one backfill, at most: a run that goes on reads the records of all of its steps."""

_LOOK_SECONDS = 0.5


class BackfillArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a backfill.

    Attributes:
        views: ``view@definition_version`` each.
        since, until: its first moment and its last.
        every: seconds from moment to moment; before the last one it may be less.
        rate: partitions a minute, at most; ``None``: as fast as it goes.
        principal: who ordered it; ``reason`` why.
    """

    views: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    since: datetime
    until: datetime
    every: Annotated[float, msgspec.Meta(gt=0)]
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    reason: str = ""
    principal: str = "worker"

    @property
    def moments(self) -> tuple[datetime, ...]:
        """The moments as of which views are computed, the earliest first."""
        since, until, step = utc(self.since), utc(self.until), timedelta(seconds=self.every)
        before = -((since - until) // step)
        return (*(since + number * step for number in range(before)), until)

    @property
    def units(self) -> Iterator[tuple[datetime, str]]:
        """The partitions in the order in which they are computed."""
        return ((moment, view) for moment in self.moments for view in self.views)


KEEP = "keep "
"""Beginning of the names of steps that record a partition."""


class BackfillResult(msgspec.Struct, frozen=True):
    """Result of a backfill: how many partitions are kept, how many the gates blocked, and the last moment."""

    partitions: int
    blocked: int
    newest: datetime


class Backfiller:
    """The backfill workflow of one scope; a ``refresher`` computes as it does for a refresh."""

    def __init__(self, catalog: FeatureCatalog, refresher: Refresher) -> None:
        self._catalog = catalog
        self._refresher = refresher

    async def backfill(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run the workflow: ``arguments`` is a :class:`BackfillArguments`, the result a :class:`BackfillResult`, as
        JSON. A partition whose step was skipped by hand, with the result ``null``, is left out.

        Raises:
            InvalidInputError: the arguments or a source do not fit, or a source is gone.
            UnavailableError: no memory or disk; the source changed while it was read.
        """
        order = msgspec.convert(arguments, BackfillArguments)
        pinned = await run.step("pin", self._pin, order)
        units, pace = tuple(order.units), _Pace(order.rate, self._catalog.clock)
        before: dict[str, list[SnapshotManifest]] = {view: [] for view in order.views}
        kept = blocked = 0
        for done, (moment, key) in enumerate(units):
            named = f"{key} as of {moment:%Y-%m-%dT%H:%M:%SZ}"
            run.progress(done, len(units), f"{named}{pace.left(len(units) - done)}")
            stop = threading.Event()
            latest = before[key][0] if before[key] else None
            compute = partial(self._materialize, order, pinned, key, moment, latest, run.id, stop, pace)
            made = await run.step(f"{MATERIALIZE}{named}", compute, stop=stop)
            if made is None:
                continue
            manifest = msgspec.convert(made, SnapshotManifest)
            keep = partial(self._keep, order, manifest, tuple(before[key]), run.id)
            if await run.transaction(f"{KEEP}{named}", keep) == "blocked":
                blocked += 1
            else:
                kept += 1
                before[key] = [manifest, *before[key][:EARLIER]]
            await pace.rest(run)
        run.progress(len(units), len(units), f"{kept} partitions kept")
        result = msgspec.to_builtins(BackfillResult(kept, blocked, units[-1][0]))
        if not blocked:
            return RunResult(result, "succeeded")
        return RunResult(result, "succeeded_with_failures", f"The gates blocked {blocked} of {len(units)} partitions.")

    def _pin(self, order: BackfillArguments) -> dict[str, Any]:
        """Fix the log offsets, and the snapshots that are served, with which the values can be compared."""
        published = self._catalog.publications.snapshots(self._catalog.scope)
        compared = {view: published[view] for view in order.views if view in published}
        return {"through": self._refresher.log_ends(order.views), "compared": compared}

    def _materialize(
        self,
        order: BackfillArguments,
        pinned: dict[str, Any],
        key: str,
        moment: datetime,
        latest: SnapshotManifest | None,
        run: str,
        stop: threading.Event,
        pace: _Pace,
    ) -> dict[str, Any]:
        pace.begin()
        spec, scope = self._catalog.definition(key), self._catalog.scope
        request = Materialization(
            scope=scope,
            spec=spec,
            as_of=moment,
            through=pinned["through"].get(spec.source.name),
            run=run,
            previous=latest,
            principal=order.principal,
            reason=order.reason,
            compared=self._catalog.snapshots.find(scope, pinned["compared"].get(key)),
        )
        try:
            manifest = self._refresher.materialized(request, lambda texts, of: None, stop)
        except (SetupError, CorruptionError) as error:
            # It would be tried again for an hour, and nobody told meanwhile; a retry by hand goes on from here.
            raise InvalidInputError(error.what, where=error.where, next_step=error.next_step) from error
        made: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(manifest, kind=WORKFLOW))
        pace.end()
        return made

    def _keep(
        self,
        order: BackfillArguments,
        manifest: SnapshotManifest,
        earlier: tuple[SnapshotManifest, ...],
        run: str,
        connection: Connection,
    ) -> str:
        """Judge a partition beside those before it, and record it, with its snapshot unless that is blocked."""
        latest = earlier[0] if earlier else None
        judged = gate(self._catalog.definition(manifest.key), manifest, latest, earlier)
        if judged.outcome != "blocked":
            # Rows that rules kept aside stand in the source; a copy would outlive the time that they are kept for.
            recorded = msgspec.structs.replace(manifest, quarantined=None)
            self._catalog.snapshots.add_backfilled(recorded, within=connection)
        partition = BackfillPartition(
            id=partition_id(run, manifest.key, manifest.as_of),
            scope=self._catalog.scope,
            run=run,
            view=manifest.view,
            definition_version=manifest.definition_version,
            as_of=manifest.as_of,
            outcome=judged.outcome,
            findings=judged.findings,
            snapshot=None if judged.outcome == "blocked" else manifest.id,
            logical_hash=manifest.logical_hash,
            rows_in=manifest.rows_in,
            rows_out=manifest.rows_out,
            rows_rejected=manifest.rows_rejected,
            null_shares={name: found.null_share for name, found in sorted(manifest.statistics.items())},
            shifts=_shifts(latest, manifest),
            bytes=manifest.cost.bytes_written,
            seconds=manifest.duration_seconds,
            principal=order.principal,
            reason=order.reason,
            created_at=self._catalog.clock.now(),
        )
        self._catalog.backfills.add(partition, within=connection)
        return judged.outcome


class _Pace:
    """Keeps partitions to a rate, and tells how long those that are left take at the pace so far."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._seconds = 0.0 if rate is None else 60.0 / rate
        self._clock = clock
        self._began: float | None = None
        self._worked, self._units = 0.0, 0

    def begin(self) -> None:
        """A partition is begun; one that is recorded already never is."""
        self._began = self._clock.monotonic()

    def end(self) -> None:
        """It is computed."""
        assert self._began is not None
        self._worked += self._clock.monotonic() - self._began
        self._units += 1

    def left(self, units: int) -> str:
        """The time that so many take, in words."""
        if not self._units:
            return ""
        minutes = units * max(self._worked / self._units, self._seconds) / 60
        return f": about {minutes:.0f} min left" if minutes >= 1 else ""

    async def rest(self, run: RunContext) -> None:
        """Wait until the next partition may begin; raises ``CancelledError`` when the worker is to stop."""
        if self._began is None:
            return
        ends, self._began = self._began + self._seconds, None
        while (left := ends - self._clock.monotonic()) > 0:
            if run.stopping:
                raise asyncio.CancelledError
            await asyncio.sleep(min(left, _LOOK_SECONDS))


def _shifts(before: SnapshotManifest | None, now: SnapshotManifest) -> dict[str, float]:
    """The population stability index of each feature that two snapshots can be compared by."""
    found = {}
    for name, statistics in sorted(now.statistics.items()):
        known = None if before is None else before.statistics.get(name)
        if known is not None and (gap := distance(name, known, statistics)) is not None:
            found[name] = round(gap.psi, 4)
    return found
