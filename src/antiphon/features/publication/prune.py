"""Pruning: the files of snapshots that nothing needs any more, rows that rules kept aside long ago, and garbage.

Invariant: what pins a snapshot is looked at in the transaction that gives its files up, and a publication of what was
given up is refused; files go only after that. A crash between leaves files that the next collection removes.
Manifests, statistics and verdicts stay for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Literal

import msgspec

from antiphon.catalog.publications import Publication, Publications
from antiphon.catalog.snapshots import SnapshotManifest, Snapshots
from antiphon.catalog.verdicts import StagedSnapshot, StagedSnapshots, Verdicts
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.features.publication.publish import KEPT_PUBLICATIONS, Publisher

_ALL = 1_000_000


class SnapshotPin(msgspec.Struct, frozen=True):
    """Something that needs a snapshot's files, and which one: a publication's number, a release's id, how many
    receipts, a moment."""

    kind: Literal["publication", "embargo", "release", "receipt", "age"]
    what: str


class SnapshotLine(msgspec.Struct, frozen=True):
    """A snapshot; ``bytes`` its files take in the lake, ``pins`` what needs them."""

    snapshot: str
    view: str
    definition_version: str
    as_of: datetime
    bytes: int
    pins: tuple[SnapshotPin, ...] = ()


class ExpiredRows(msgspec.Struct, frozen=True):
    """Rows kept aside that expire; their verdict keeps how many there were and why."""

    verdict: str
    view: str
    kept_since: datetime


class PruneResult(msgspec.Struct, frozen=True):
    """What a pruning removes or, when it is dry, would remove.

    Attributes:
        snapshots: those whose files are given up; ``kept`` the others, with what pins them.
        expired: verdicts whose rows go.
        datasets: files of the lake that datasets pin.
        lake, online: files and builds that nothing names. When dry, those that are there now but for what was just
            named above: younger ones than an hour are spared.
        events: streamed events that every kept snapshot includes; not known when dry.
    """

    dry: bool
    snapshots: tuple[SnapshotLine, ...]
    kept: tuple[SnapshotLine, ...]
    expired: tuple[ExpiredRows, ...]
    datasets: int
    lake: tuple[str, ...]
    online: tuple[str, ...]
    events: int

    def said(self) -> str:
        """In words; empty when there was nothing."""
        counts = {
            "snapshots": len(self.snapshots),
            "quarantines": len(self.expired),
            "files of the lake": len(self.lake),
            "sealed builds": len(self.online),
            "streamed events": self.events,
        }
        return ", ".join(f"{number} {what}" for what, number in counts.items() if number)


class ServingPeriod(msgspec.Struct, frozen=True):
    """When a snapshot was current, from the first time to the last; ``until`` is now while it is."""

    since: datetime
    until: datetime


def served(publications: Sequence[Publication], now: datetime) -> dict[str, list[ServingPeriod]]:
    """The times during which each snapshot was current.

    Args:
        publications: all of them, latest first.
    """
    found: dict[str, list[ServingPeriod]] = {}
    until = now
    for publication in publications:
        for snapshot in publication.snapshots.values():
            found.setdefault(snapshot, []).append(ServingPeriod(publication.created_at, until))
        until = publication.created_at
    return found


def pins(
    manifests: Sequence[SnapshotManifest],
    publications: Sequence[Publication],
    staged: Sequence[StagedSnapshot],
    *,
    now: datetime,
    kept: timedelta,
    releases: Mapping[str, Sequence[str]],
    receipts: Callable[[datetime, datetime], int],
    publications_kept: int = KEPT_PUBLICATIONS,
) -> dict[str, tuple[SnapshotPin, ...]]:
    """What pins each snapshot; one without a pin may go.

    Args:
        manifests: latest first.
        publications: all, latest first.
        kept: how long a snapshot stays after it was last current, or after it was made.
        releases: ``view@definition_version`` to the releases in use that read it: its latest snapshot stays.
        receipts: how many receipts were written between two moments; of an answer's features a receipt names
            snapshots of the publication that was current then.
    """
    current = served(publications, now)
    written = cache(receipts)  # snapshots that were current together ask alike
    waiting = {one.snapshot: one.publish_at for one in staged}
    latest: dict[str, str] = {}
    for manifest in manifests:
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
        if latest[manifest.key] == manifest.id:
            pinned += [SnapshotPin("release", release) for release in releases.get(manifest.key, ())]
        recent = [one for one in times if one.until > now - kept]
        if number := sum(written(one.since, one.until) for one in recent):
            pinned.append(SnapshotPin("receipt", f"{number} receipts"))
        last = max((one.until for one in times), default=manifest.created_at)
        if max(last, manifest.created_at) > now - kept:
            pinned.append(SnapshotPin("age", f"until {max(last, manifest.created_at) + kept:%Y-%m-%d %H:%M:%SZ}"))
        found[manifest.id] = tuple(pinned)
    return found


class Pruner:
    """Prunes one scope. Doing it again, or twice at once, changes nothing.

    Args:
        publisher: collects what nothing names.
        releases: ``view@definition_version`` to the releases in use that read it.
        receipts: how many receipts were written between two moments.
        datasets: files of the lake that datasets name.
        kept, quarantine_kept: how long snapshots stay after they were last current, and rows kept aside.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        snapshots: Snapshots,
        publications: Publications,
        staged: StagedSnapshots,
        verdicts: Verdicts,
        publisher: Publisher,
        clock: Clock,
        releases: Callable[[], Mapping[str, Sequence[str]]],
        receipts: Callable[[datetime, datetime], int],
        datasets: Callable[[], Sequence[str]],
        kept: timedelta,
        quarantine_kept: timedelta,
    ) -> None:
        self._scope = scope
        self._snapshots = snapshots
        self._publications = publications
        self._staged = staged
        self._verdicts = verdicts
        self._publisher = publisher
        self._clock = clock
        self._releases = releases
        self._receipts = receipts
        self._datasets = datasets
        self._kept = kept
        self._quarantine_kept = quarantine_kept

    def prune(
        self, *, dry: bool = False, keep: int = KEPT_PUBLICATIONS, grace: timedelta = timedelta(hours=1)
    ) -> PruneResult:
        """Give up what nothing pins and collect what nothing names; when ``dry`` only say what that would be.

        Args:
            keep: publications that pin.
            grace: spares garbage that was written so recently.

        Raises:
            UnavailableError: catalog, lake or online store is away; what was given up until then stays so.
        """
        now = self._clock.now()
        manifests = self._snapshots.list(self._scope, limit=_ALL, pruned=False)
        pinned = pins(
            manifests,
            self._publications.list(self._scope, _ALL),
            self._staged.list(self._scope),
            now=now,
            kept=self._kept,
            releases=self._releases(),
            receipts=self._receipts,
            publications_kept=keep,
        )
        free = {snapshot for snapshot, by in pinned.items() if not by}
        expiring = self._verdicts.expiring(self._scope, now - self._quarantine_kept)
        if dry:
            lake, online = self._publisher.unnamed(keep, without=free)
            events = 0
        else:
            free = set(self._snapshots.prune(self._scope, free, keep))
            self._verdicts.expire(self._scope, [one[0] for one in expiring])
            collected = self._publisher.collect_garbage(keep=keep, grace=grace)
            lake, online, events = collected.lake, collected.online, collected.events
        return PruneResult(
            dry=dry,
            snapshots=tuple(_line(one, ()) for one in manifests if one.id in free),
            kept=tuple(_line(one, pinned[one.id]) for one in manifests if one.id not in free),
            expired=tuple(ExpiredRows(*one) for one in expiring),
            datasets=len(self._datasets()),
            lake=lake,
            online=online,
            events=events,
        )


def _line(manifest: SnapshotManifest, pinned: tuple[SnapshotPin, ...]) -> SnapshotLine:
    return SnapshotLine(
        manifest.id,
        manifest.view,
        manifest.definition_version,
        manifest.as_of,
        sum(file.bytes for file in manifest.files),
        pinned,
    )
