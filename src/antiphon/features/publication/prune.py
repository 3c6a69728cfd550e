"""Pruning: deletes files of unused snapshots, expired quarantined rows, and garbage.

Invariant: the pins of a snapshot are read in the transaction that marks it as pruned, and a pruned snapshot is refused
for publication; files are deleted only after that. A crash in between leaves files that the next collection removes.
Manifests, statistics and verdicts are never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Literal

import msgspec

from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import StagedSnapshot
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.publication.publish import KEPT_PUBLICATIONS, Publisher

_ALL = 1_000_000


class SnapshotPin(msgspec.Struct, frozen=True):
    """A reason to keep a snapshot's files: a publication by number, a release or the run of a backfill by id, a count
    of receipts, a moment."""

    kind: Literal["publication", "embargo", "backfill", "release", "receipt", "age"]
    what: str


class SnapshotLine(msgspec.Struct, frozen=True):
    """A snapshot with the size of its files in the lake and its pins."""

    snapshot: str
    view: str
    definition_version: str
    as_of: datetime
    bytes: int
    pins: tuple[SnapshotPin, ...] = ()


class ExpiredRows(msgspec.Struct, frozen=True):
    """Quarantined rows that expire; their verdict keeps number and reasons."""

    verdict: str
    view: str
    kept_since: datetime


class PruneResult(msgspec.Struct, frozen=True):
    """Result of a pruning, or of its dry run.

    Attributes:
        snapshots: pruned ones; ``kept`` the others, with their pins.
        expired: verdicts whose quarantined rows are deleted.
        datasets: number of lake files that datasets pin.
        lake, online: deleted files and builds without a reference. A dry run lists those that exist now, also ones
            younger than the grace period.
        events: number of streamed events that every kept snapshot includes; 0 in a dry run.
    """

    dry: bool
    snapshots: tuple[SnapshotLine, ...]
    kept: tuple[SnapshotLine, ...]
    expired: tuple[ExpiredRows, ...]
    datasets: int
    lake: tuple[str, ...]
    online: tuple[str, ...]
    events: int

    def summary(self) -> str:
        """The counts in words; empty when there is nothing to prune."""
        counts = {
            "snapshots": len(self.snapshots),
            "quarantines": len(self.expired),
            "files of the lake": len(self.lake),
            "sealed builds": len(self.online),
            "streamed events": self.events,
        }
        return ", ".join(f"{number} {what}" for what, number in counts.items() if number)


def serving_periods(publications: Sequence[Publication], now: datetime) -> dict[str, list[tuple[datetime, datetime]]]:
    """From when until when each snapshot was current; a current one until now. ``publications`` are all, latest
    first."""
    found: dict[str, list[tuple[datetime, datetime]]] = {}
    until = now
    for publication in publications:
        for snapshot in publication.snapshots.values():
            found.setdefault(snapshot, []).append((publication.created_at, until))
        until = publication.created_at
    return found


def find_pins(
    manifests: Sequence[SnapshotManifest],
    publications: Sequence[Publication],
    staged: Sequence[StagedSnapshot],
    *,
    now: datetime,
    kept: timedelta,
    releases: Mapping[str, Sequence[str]],
    receipts: Callable[[datetime, datetime], int],
    publications_kept: int = KEPT_PUBLICATIONS,
    backfills: Mapping[str, str] | None = None,
) -> dict[str, tuple[SnapshotPin, ...]]:
    """Find the pins of each snapshot; one without pins may be pruned.

    Args:
        manifests: latest first.
        publications: all, latest first.
        kept: retention after a snapshot was last current, or after it was made.
        releases: releases in use by the ``view@definition_version`` that they read: its latest snapshot stays.
        receipts: counts receipts between two moments; a receipt names snapshots of the publication of its moment.
        backfills: runs by the snapshot that a partition of theirs keeps.
    """
    current = serving_periods(publications, now)
    written = cache(receipts)  # Snapshots that were current together share the count.
    waiting = {one.snapshot: one.publish_at for one in staged}
    latest: dict[str, str] = {}
    for manifest in manifests:
        if manifest.id not in (backfills or {}):
            latest.setdefault(manifest.key, manifest.id)
    found: dict[str, tuple[SnapshotPin, ...]] = {}
    for manifest in manifests:
        times = current.get(manifest.id, [])
        pinned = [
            SnapshotPin("publication", str(publication.number))
            for publication in publications[:publications_kept]
            if manifest.id in publication.snapshots.values()
        ]
        if manifest.id in waiting:
            pinned.append(SnapshotPin("embargo", f"until {waiting[manifest.id]:%Y-%m-%d %H:%M:%SZ}"))
        if (backfill := (backfills or {}).get(manifest.id)) is not None:
            pinned.append(SnapshotPin("backfill", backfill))
        if latest.get(manifest.key) == manifest.id:  # of a view that was only backfilled there is none
            pinned += [SnapshotPin("release", release) for release in releases.get(manifest.key, ())]
        if number := sum(written(since, until) for since, until in times if until > now - kept):
            pinned.append(SnapshotPin("receipt", f"{number} receipts"))
        last = max((manifest.created_at, *(until for _, until in times)))
        if last > now - kept:
            pinned.append(SnapshotPin("age", f"until {last + kept:%Y-%m-%d %H:%M:%SZ}"))
        found[manifest.id] = tuple(pinned)
    return found


@dataclass(frozen=True)
class Pruner:
    """Prunes one scope. Idempotent, also when run twice at once.

    Args:
        publisher: collects garbage.
        releases: releases in use by the ``view@definition_version`` that they read.
        receipts: counts receipts between two moments.
        datasets: lists lake files that datasets name.
        kept, quarantine_kept: retention of snapshots after they were last current, and of quarantined rows.
    """

    catalog: FeatureCatalog
    publisher: Publisher
    releases: Callable[[], Mapping[str, Sequence[str]]]
    receipts: Callable[[datetime, datetime], int]
    datasets: Callable[[], Sequence[str]]
    kept: timedelta
    quarantine_kept: timedelta

    def prune(
        self, *, dry: bool = False, keep: int = KEPT_PUBLICATIONS, grace: timedelta = timedelta(hours=1)
    ) -> PruneResult:
        """Prune snapshots without pins and collect garbage of a minimum age (``grace``); when ``dry`` only list them.
        The last ``keep`` publications pin their snapshots. Raises ``UnavailableError`` when catalog, lake or online
        store is away; what was pruned until then stays pruned."""
        now = self.catalog.clock.now()
        manifests = self.catalog.snapshots.list(self.catalog.scope, limit=_ALL, pruned=False, backfilled=True)
        pinned = find_pins(
            manifests,
            self.catalog.publications.list(self.catalog.scope, _ALL),
            self.catalog.staged.list(self.catalog.scope),
            now=now,
            kept=self.kept,
            releases=self.releases(),
            receipts=self.receipts,
            publications_kept=keep,
            backfills=self.catalog.backfills.snapshots(self.catalog.scope),
        )
        free = {snapshot for snapshot, by in pinned.items() if not by}
        expiring = self.catalog.verdicts.expiring(self.catalog.scope, now - self.quarantine_kept)
        if dry:
            garbage = self.publisher.unnamed(keep, without=free)
        else:
            free = set(self.catalog.snapshots.prune(self.catalog.scope, free, keep))
            self.catalog.verdicts.expire(self.catalog.scope, [one[0] for one in expiring])
            garbage = self.publisher.collect_garbage(keep=keep, grace=grace)
        return PruneResult(
            dry=dry,
            snapshots=tuple(_line(one, ()) for one in manifests if one.id in free),
            kept=tuple(_line(one, pinned[one.id]) for one in manifests if one.id not in free),
            expired=tuple(ExpiredRows(*one) for one in expiring),
            datasets=len(self.datasets()),
            lake=garbage.lake,
            online=garbage.online,
            events=garbage.events,
        )


def _line(manifest: SnapshotManifest, pinned: tuple[SnapshotPin, ...]) -> SnapshotLine:
    size = sum(file.bytes for file in manifest.files)
    return SnapshotLine(manifest.id, manifest.view, manifest.definition_version, manifest.as_of, size, pinned)
