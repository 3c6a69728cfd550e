"""Lookup: feature values of entities as of a moment, from one publication.

Invariants: a request resolves publication N once and every value comes from it; N never goes back, whichever process
of a catalog is asked (``publication_lease.py``); a publication with a missing or broken file is passed over for the one
before, never answered with null; the catalog being away changes nothing but is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from antiphon.catalog.features.publications import LONGEST_LEASE, Publication, Publications
from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import (
    AntiphonError,
    CorruptionError,
    FeatureUnavailableError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.features.online import lookup_errors
from antiphon.features.online.entity_rows import KEPT_ROWS, Entity, SnapshotRows
from antiphon.features.online.overlay_records import OverlayState
from antiphon.features.online.publication_lease import PublicationLease
from antiphon.features.online.remedies import EarlierRows
from antiphon.features.ports import OnlineSnapshots, OpenedSnapshot, StreamedOverlay
from antiphon.features.values import EntityRow, FeatureValue, FeatureVector

_log = logging.getLogger("antiphon.features")

_CHECK_SECONDS = 60.0
"""For so long a file that was found whole is not read again because a reading of it failed."""

_PREPARED = 256
"""Number of view sets resolved once for each publication."""

_PASSED_OVER = 16
"""Number of publications back to search for a readable one; older ones are collected."""


class FeatureRows(msgspec.Struct, frozen=True):
    """Rows of a bulk read, by view: values stay in the rows of their snapshots.

    Attributes:
        publication: the number every row comes from.
        views: each view with the rows of the entities, in the order of the request.
        catalog_away: the catalog did not answer, so the leased publication was served.
    """

    publication: int
    views: tuple[tuple[SnapshotRows, list[EntityRow]], ...]
    catalog_away: bool = False


class FeatureReader:
    """Reads features of one scope. Safe to share between threads.

    Args:
        overlay: streamed events; ``None`` reads snapshots alone.
        lease: seconds for which the publications are not read again.
        kept: how many rows of each snapshot are kept while they hold.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        publications: Publications,
        online: OnlineSnapshots,
        clock: Clock,
        overlay: StreamedOverlay | None = None,
        lease: float = LONGEST_LEASE,
        kept: int = KEPT_ROWS,
    ) -> None:
        self._scope = scope
        self._publications = publications
        self._online = online
        self._overlay = overlay
        self._clock = clock
        self._kept = kept
        self._lease = PublicationLease(scope, publications, clock, seconds=lease, moved=self._let_go)
        self._snapshots: dict[tuple[str, str], SnapshotRows] = {}
        self._condemned_ones: set[tuple[str, str]] = set()
        self._checked: dict[tuple[str, str], float] = {}
        self._prepared: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[SnapshotRows, ...]] = {}

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """Every feature of some views for one request.

        Args:
            views: view name to definition version.
            keys: entity key column to value; each view takes its own.
            as_of: the moment; from a week before the snapshot's own on, it is answered exactly.
            minimum_publication: a publication the client has seen already.

        Raises:
            FeatureUnavailableError: a view is not published, or ``as_of`` is older than its snapshot answers.
            InvalidInputError: an entity key is missing.
            UnavailableError: ``minimum_publication`` is not reached, or nothing readable is published.
        """
        return self.read_many(views, [keys], as_of, minimum_publication)[0]

    def read_many(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime | Sequence[datetime],
        minimum_publication: int | None = None,
    ) -> list[FeatureVector]:
        """As :meth:`read` for many entities, all from one publication and one state of the overlay. ``as_of``: one
        moment for all, or one for each."""
        moments = microseconds(as_of) if isinstance(as_of, datetime) else list(map(microseconds, as_of))
        found = self.rows(views, keys, moments, minimum_publication)
        refreshed = {one.view: from_microseconds(one.opened.meta.as_of) for one, _ in found.views}
        facts = {one.view: one.opened.meta.facts for one, _ in found.views if one.opened.meta.facts is not None}
        vectors: list[dict[str, FeatureValue]] = [{} for _ in keys]
        for one, rows in found.views:
            for vector, row in zip(vectors, rows, strict=True):
                vector.update(_values(one, row))
        return [FeatureVector(found.publication, values, refreshed, found.catalog_away, facts) for values in vectors]

    def rows(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: int | Sequence[int],
        minimum_publication: int | None = None,
    ) -> FeatureRows:
        """As :meth:`read_many` in bulk, with moments in microseconds: no value is copied out of its row.

        Raises:
            As :meth:`read`.
        """
        if not isinstance(as_of, int) and len(as_of) != len(keys):
            raise InvalidInputError(f"{len(keys)} entities but {len(as_of)} moments.", where="as_of")
        publication = self.publication()
        if not views:
            number = publication.number if publication is not None else 0
            if minimum_publication is not None and number < minimum_publication:
                raise lookup_errors.not_reached(minimum_publication, number)
            return FeatureRows(number, ())
        if publication is None:
            raise lookup_errors.nothing_published(self._scope)
        broken: CorruptionError | None = None
        for _ in range(_PASSED_OVER):
            if minimum_publication is not None and publication.number < minimum_publication:
                raise lookup_errors.not_reached(minimum_publication, publication.number) from broken
            try:
                return FeatureRows(
                    publication.number, self._read(self._opened(publication, views), keys, as_of), self._lease.away
                )
            except CorruptionError as error:
                broken = broken or error
            except FeatureUnavailableError as error:
                if broken is not None:
                    raise lookup_errors.damaged(broken) from error
                # A release that went live within the lease pins what was published just before it.
                later = self._later(publication.number)
                if later is None:
                    raise
                publication = later
                continue
            try:
                publication = self._publications.get(self._scope, publication.number - 1)
            except NotFoundError:
                break
        assert broken is not None
        raise lookup_errors.damaged(broken) from broken

    def publication(self) -> Publication | None:
        """The publication to serve now."""
        return self._lease.current()

    def _later(self, number: int) -> Publication | None:
        """The served publication, asked for within the lease, if it is later than this one."""
        self._lease.end()
        found = self.publication()
        return found if found is not None and found.number > number else None

    def _let_go(self, before: Publication | None, after: Publication) -> None:
        """Keep open what is current and, for requests still under way and a broken file, what was just before."""
        kept = [*after.snapshots.items(), *(before.snapshots.items() if before is not None else ())]
        names = {(key.partition("@")[0], snapshot) for key, snapshot in kept}
        numbers = {after.number, before.number if before is not None else after.number}
        self._prepared = {key: found for key, found in self._prepared.items() if key[0] in numbers}
        self._snapshots = {key: found for key, found in self._snapshots.items() if key in names}
        self._checked = {key: moment for key, moment in self._checked.items() if key in names}
        self._forget(names)

    def _forget(self, names: Iterable[tuple[str, str]]) -> None:
        """Close the other snapshots; a reader of texts leaves that to the store's owner."""
        self._online.forget(self._scope, names)

    def earlier(self, view: str, version: str, publication: int) -> Iterator[EarlierRows]:
        """The view's snapshots in this publication and those before it, the newest first and each once; those that
        cannot be read any more are passed over."""
        seen: set[str] = set()
        for number in range(publication, max(0, publication - _PASSED_OVER), -1):
            try:
                found = self._publications.get(self._scope, number)
                snapshot = found.snapshots.get(f"{view}@{version}")
                if snapshot is None or snapshot in seen:
                    continue
                seen.add(snapshot)
                (opened,) = self._opened(found, {view: version})
            except AntiphonError:
                continue
            yield EarlierRows(opened, partial(self._of_one, opened))

    def _of_one(self, opened: SnapshotRows, keys: Sequence[Mapping[str, str]], as_of: Sequence[int]) -> list[EntityRow]:
        ((_, rows),) = self._read((opened,), keys, as_of)
        return rows

    def _opened(self, publication: Publication, views: Mapping[str, str]) -> tuple[SnapshotRows, ...]:
        """The views' snapshots in a publication, found once for each set of views."""
        key = (publication.number, tuple(views.items()))
        prepared = self._prepared.get(key)
        if prepared is not None:
            return prepared
        opened: list[SnapshotRows] = []
        for view, version in views.items():
            snapshot = publication.snapshots.get(f"{view}@{version}")
            if snapshot is None:
                raise lookup_errors.not_published(view, version, publication.number)
            found = self._snapshots.get((view, snapshot))
            if found is None:
                found = SnapshotRows(view, self._open(view, snapshot), self._online.entity_hashes, self._kept)
                self._snapshots[view, snapshot] = found
            opened.append(found)
        if len(self._prepared) >= _PREPARED:
            self._prepared = {}
        self._prepared[key] = prepared = tuple(opened)
        return prepared

    def _read(
        self, opened: Sequence[SnapshotRows], keys: Sequence[Mapping[str, str]], as_of: int | Sequence[int]
    ) -> tuple[tuple[SnapshotRows, list[EntityRow]], ...]:
        """The overlay is read once for everything, then each view's snapshot once for all of its entities."""
        entities = [one.entities(keys) for one in opened]
        reading = self._streamed(opened, entities)
        return tuple((one, self._rows_of(one, own, as_of, reading)) for one, own in zip(opened, entities, strict=True))

    def _rows_of(
        self, one: SnapshotRows, entities: Sequence[Entity], as_of: int | Sequence[int], reading: OverlayState | None
    ) -> list[EntityRow]:
        streamed = one.streamed(entities, reading) if reading is not None and one.offset is not None else {}
        try:
            return one.rows(entities, as_of, streamed)
        except (FeatureUnavailableError, InvalidInputError, UnavailableError):
            raise
        except CorruptionError:
            self._condemned(one.view, one.snapshot, one)
            raise
        except Exception as error:
            # Damaged bytes fail in whatever way decodes them; the hash of all of them tells damage from a defect, once
            # a minute: a defect must not cost two readings of the file a request.
            now = self._clock.monotonic()
            if now < self._checked.get((one.view, one.snapshot), float("-inf")) + _CHECK_SECONDS:
                raise
            self._checked[one.view, one.snapshot] = now
            if not self._condemned(one.view, one.snapshot, one):
                raise
            raise lookup_errors.corrupt(one.view, one.snapshot) from error

    def _open(self, view: str, snapshot: str) -> OpenedSnapshot:
        try:
            opened = self._online.open(self._scope, view, snapshot)
        except CorruptionError:
            self._condemned(view, snapshot)
            raise
        self._condemned_ones.discard((view, snapshot))
        return opened

    def _condemned(self, view: str, snapshot: str, rows: SnapshotRows | None = None) -> bool:
        """Tell whether a snapshot is damaged. What was read of it (``rows``) is not used any more, whatever is found:
        another reader may have condemned it before, and a whole file has taken its place."""
        if rows is not None and self._snapshots.get((view, snapshot)) is rows:
            del self._snapshots[view, snapshot]
        self._prepared = {}
        if not self._online.condemn(self._scope, view, snapshot):
            return False
        self._checked.pop((view, snapshot), None)
        if (view, snapshot) not in self._condemned_ones:
            self._condemned_ones.add((view, snapshot))
            _log.error("The online snapshot %s of %s is damaged; it is built again from the lake.", snapshot, view)
        return True

    def _streamed(self, opened: Sequence[SnapshotRows], entities: Sequence[Sequence[Entity]]) -> OverlayState | None:
        """The events after the snapshots, of the views that follow a stream."""
        following = [
            (one, one.offset, own) for one, own in zip(opened, entities, strict=True) if one.offset is not None
        ]
        if self._overlay is None or not following:
            return None
        queries = dict.fromkeys(
            (one.prefix, hashed, offset) for one, offset, own in following for hashed in one.hashed(own)
        )
        reading = self._overlay.read([one.prefix for one, _, _ in following], queries)
        if any(reading.lacking(one.prefix) for one, _, _ in following):
            raise lookup_errors.replaying()
        for one, offset, _ in following:
            if reading.pruned[one.prefix] > offset:
                raise lookup_errors.pruned(one.view)
        return reading


def _values(one: SnapshotRows, row: EntityRow) -> dict[str, FeatureValue]:
    offsets = row.offsets or (None,) * len(row.values)
    return {
        name: FeatureValue(
            value,
            None if event_time is None else from_microseconds(event_time),
            one.definition_version,
            one.snapshot,
            offset,
        )
        for name, value, event_time, offset in zip(one.names, row.values, row.event_times, offsets, strict=True)
    }
