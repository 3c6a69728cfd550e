"""Publishing: makes snapshots current online, all at once.

Order: lake files (before) → sealed online files → manifest → catalog compare-and-swap. The catalog row is the
publication; a crash before it leaves garbage to collect and nothing else changed. A loser of the race rebases on
the winner, and never replaces a newer snapshot by an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import ConflictError, CorruptionError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.online.prune_fence import IncludedOffsets
from antiphon.features.ports import OnlineSnapshots, StreamedOverlay
from antiphon.features.streaming.consumer import StreamConsumer

_ATTEMPTS = 50
_Result = TypeVar("_Result")
KEPT_PUBLICATIONS = 10
"""Number of latest publications whose files and streamed events stay in place for a rollback."""


class CollectedGarbage(msgspec.Struct, frozen=True):
    """Lake files, online snapshots and number of streamed events that a collection removed."""

    lake: tuple[str, ...]
    online: tuple[str, ...]
    events: int


@dataclass
class Publisher:
    """Publishes for one scope. Safe to run in several processes at once. No collection removes lake files that are
    ``also_named`` from elsewhere (datasets)."""

    catalog: FeatureCatalog
    online: OnlineSnapshots
    overlay: StreamedOverlay | None = None
    consumer: StreamConsumer | None = None
    also_named: Callable[[Scope], Iterable[str]] | None = None

    @property
    def _scope(self) -> Scope:
        return self.catalog.scope

    def prepare(self, manifest: SnapshotManifest, spec: FeatureViewSpec) -> SnapshotManifest:
        """Build a snapshot's online file and record its manifest; doing it again changes nothing. Return the manifest
        as recorded: of one snapshot made twice, the first. Raises ``CorruptionError`` when a file of it is gone;
        nothing is recorded then."""
        known = self._recorded(manifest)
        self.online.build(known or manifest, spec, self.catalog.lake)
        if known is None:
            try:
                return self.catalog.snapshots.add(manifest)
            except ConflictError:  # Another process has made the same meanwhile.
                return self.catalog.snapshots.get(self._scope, manifest.id)
        if not self.catalog.snapshots.publishable(self._scope, manifest.id):
            self.catalog.snapshots.restore(self._scope, manifest.id)  # Its files were written again.
        return known

    def _recorded(self, manifest: SnapshotManifest) -> SnapshotManifest | None:
        try:
            return self.catalog.snapshots.get(self._scope, manifest.id)
        except NotFoundError:
            return None

    def publish(
        self, snapshots: Sequence[tuple[SnapshotManifest, FeatureViewSpec]], *, reason: str, principal: str
    ) -> Publication | None:
        """Make snapshots current in one publication. Return the current publication when they are current already,
        older than the current ones, or their views are on hold. Raises ``ConflictError`` when other publishers won
        every race."""
        prepared = {spec.key: self.prepare(manifest, spec) for manifest, spec in snapshots}

        def attempt(current: Publication | None) -> Publication | None:
            # Read after the publication: a hold written in the transaction of a flip makes this race lost.
            held = self.catalog.holds.of(self._scope)
            changes = self._changes(current, {key: one for key, one in prepared.items() if one.view not in held})
            if not changes:  # Also when this is done again because it was killed before all were served.
                return None if current is None else self.catalog.publications.serve(current)
            expected = current.number if current is not None else 0
            return self.catalog.publications.publish(
                self._scope, changes, expected=expected, reason=reason, principal=principal
            )

        return race(self.catalog, attempt)

    def withdraw(self, key: str, snapshot: str, *, reason: str, principal: str) -> None:
        """Take ``view@definition_version`` out of the current publication while it has this snapshot there; raises
        ``WriteConflictError`` when another publication came first."""
        current = self.catalog.publications.latest(self._scope)
        if current is not None and current.snapshots.get(key) == snapshot:
            self.catalog.publications.publish(
                self._scope, {key: None}, expected=current.number, reason=reason, principal=principal
            )

    def held(self, view: str) -> bool:
        """True for a view on hold."""
        return view in self.catalog.holds.of(self._scope)

    def _changes(self, current: Publication | None, prepared: dict[str, SnapshotManifest]) -> dict[str, str | None]:
        changes: dict[str, str | None] = {}
        for key, manifest in prepared.items():
            known = current.snapshots.get(key) if current is not None else None
            if known is None or (
                known != manifest.id and age(manifest) >= age(self.catalog.snapshots.get(self._scope, known))
            ):
                changes[key] = manifest.id
        return changes

    def rollback(self, to: int, *, reason: str, principal: str) -> Publication:
        """Publish the snapshots of publication ``to`` again, as N + 1.

        Files that were collected are built again from the lake, and pruned streamed events are read again from
        the log, before the flip; again for each number that another publisher takes first.

        Raises:
            NotFoundError: there is no publication ``to``, or the files of one of its snapshots were pruned.
            CorruptionError: a snapshot's lake files are gone.
        """
        going = [
            (self.catalog.snapshots.get(self._scope, snapshot), self.catalog.definition(key))
            for key, snapshot in self.catalog.publications.get(self._scope, to).snapshots.items()
        ]

        def attempt(current: Publication | None) -> Publication:
            expected = current.number if current is not None else 0
            for manifest, spec in going:
                self.bring_back(manifest, spec, expected + 1)
            return self.catalog.publications.rollback(
                self._scope, to, expected=expected, reason=reason, principal=principal
            )

        return race(self.catalog, attempt)

    def bring_back(self, manifest: SnapshotManifest, spec: FeatureViewSpec, publication: int) -> None:
        """Restore the online file and the streamed events of an old snapshot, where they are missing, for a publication
        to come by this number: no collection that was decided before it takes them. Raises ``NotFoundError`` when its
        lake files were pruned, ``CorruptionError`` when they are gone."""
        self._require_unpruned(manifest)
        self.online.build(manifest, spec, self.catalog.lake)
        self.restore_events(manifest, spec, publication)

    def restore_events(self, manifest: SnapshotManifest, spec: FeatureViewSpec, publication: int) -> None:
        """Restore the streamed events after a snapshot that a publication, current or to come, needs."""
        if self.consumer is not None and manifest.stream_offset is not None:
            self.consumer.restore(spec, manifest.stream_offset, publication)

    def missing_events(self, manifests: Iterable[SnapshotManifest]) -> dict[str, int]:
        """Count by snapshot the log offsets after it that are pruned from the overlay, where there are any; one reading
        of the overlay."""
        streamed = {
            one.id: (view_prefix(one.key), one.stream_offset) for one in manifests if one.stream_offset is not None
        }
        if self.overlay is None or not streamed:
            return {}
        pruned = self.overlay.read([prefix for prefix, _ in streamed.values()]).pruned
        return {
            snapshot: pruned[prefix] - offset
            for snapshot, (prefix, offset) in streamed.items()
            if pruned[prefix] > offset
        }

    def require_files(self, manifest: SnapshotManifest) -> None:
        """Refuse a snapshot whose files are not in the lake any more; raises ``NotFoundError`` when they were pruned,
        ``CorruptionError`` when one is gone or changed."""
        self._require_unpruned(manifest)
        for file in manifest.files:
            try:
                self.catalog.lake.open(file.path).close()
            except CorruptionError as error:
                raise CorruptionError(
                    f"The files of {manifest.id} are gone: {error.what}", where=manifest.view,
                    next_step="Name a later snapshot, or refresh the view.",
                ) from error  # fmt: skip

    def _require_unpruned(self, manifest: SnapshotManifest) -> None:
        at = self.catalog.snapshots.pruned_at(self._scope, manifest.id)
        if at is not None:
            raise NotFoundError(
                f"The files of {manifest.id} were pruned on {at:%Y-%m-%d}.",
                where=manifest.view,
                next_step="Name a later snapshot or publication; `antiphon features prune --dry-run` says what stays.",
            )

    def collect_garbage(
        self, *, keep: int = KEPT_PUBLICATIONS, grace: timedelta = timedelta(hours=1)
    ) -> CollectedGarbage:
        """Remove online files, lake files and streamed events that no kept publication needs.

        ``grace`` spares recent files, whose publication may be under way.
        """
        kept = kept_publications(self.catalog, keep)
        in_use = _builds(kept)
        older_than = (self.catalog.clock.now() - grace).timestamp()
        self.online.forget(self._scope, in_use)
        online = self.online.collect(self._scope, in_use, older_than)
        lake = self.catalog.lake.collect(self._scope, self._named(), older_than)
        return CollectedGarbage(tuple(lake), tuple(online), self._prune(keep))

    def unnamed(self, keep: int, *, without: Collection[str] = ()) -> CollectedGarbage:
        """Lake files and online snapshots, whatever their age, that a collection would remove after these snapshots
        were pruned; it does not tell of events."""
        named, builds = self._named(without), _builds(kept_publications(self.catalog, keep))
        lake = [path for path in self.catalog.lake.files(self._scope) if path not in named]
        online = [
            f"{view}/{snapshot}" for view, snapshot in self.online.files(self._scope) if (view, snapshot) not in builds
        ]
        return CollectedGarbage(tuple(lake), tuple(online), 0)

    def _named(self, without: Collection[str] = ()) -> set[str]:
        """Lake files with a reference. Quarantined rows are named by their verdicts."""
        manifests = self.catalog.snapshots.list(self._scope, limit=1_000_000, pruned=False, backfilled=True)
        named = {file.path for one in manifests if one.id not in without for file in one.files}
        if self.also_named is not None:
            named.update(self.also_named(self._scope))
        return named

    def _prune(self, keep: int) -> int:
        if self.overlay is None:
            return 0
        included = included_offsets(self.catalog, keep)
        return sum(
            self.overlay.prune(view_prefix(key), offset, included.publication)
            for key, offset in included.offsets.items()
        )


def kept_publications(catalog: FeatureCatalog, keep: int) -> list[Publication]:
    """The last ``keep`` publications, counted from the one that is served, the latest first."""
    announced = len(catalog.publications.online(catalog.scope).announced)
    return catalog.publications.list(catalog.scope, keep + announced)


def included_offsets(catalog: FeatureCatalog, keep: int = KEPT_PUBLICATIONS) -> IncludedOffsets:
    """Find the log offset up to which every snapshot of a view in the last ``keep`` publications includes the
    events."""
    least: dict[str, int] = {}
    publications = kept_publications(catalog, keep)
    for publication in publications:
        for key, snapshot in publication.snapshots.items():
            offset = catalog.snapshots.get(catalog.scope, snapshot).stream_offset
            if offset is not None:
                least[key] = min(offset, least.get(key, offset))
    return IncludedOffsets(publications[0].number if publications else 0, least)


def race(catalog: FeatureCatalog, attempt: Callable[[Publication | None], _Result]) -> _Result:
    """Attempt to replace the current publication until no other publisher comes first; raises ``ConflictError`` when
    other publishers won every race."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(ConflictError):
            return attempt(catalog.publications.latest(catalog.scope))
    return attempt(catalog.publications.latest(catalog.scope))


def age(manifest: SnapshotManifest) -> tuple[datetime, int]:
    """The moment and log offset of a snapshot: an older one replaces a newer one only on purpose."""
    return manifest.as_of, manifest.stream_offset or 0


def _builds(publications: Iterable[Publication]) -> set[tuple[str, str]]:
    return {(key.partition("@")[0], snapshot) for item in publications for key, snapshot in item.snapshots.items()}
