"""Lookup: feature values of entities as of a moment, from one publication.

Invariants: a request resolves publication N once and every value comes from it; N never goes back within a
process; a publication with a missing or broken file is passed over for the one before, never answered with null;
the catalog being away changes nothing but is said.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.publications import Publication
from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import AntiphonError, Corrupt, FeatureUnavailable, InvalidInput, NotFound, Unavailable
from antiphon.core.scope import Scope
from antiphon.definitions.expression import Kind, kind_of_value
from antiphon.features.compile_python import MeasureValue
from antiphon.features.evaluate import StreamedEvent
from antiphon.features.online.overlay import Overlay, OverlayReading, view_prefix
from antiphon.features.online.sealed import SealedSnapshot
from antiphon.features.online.store import OnlineStore
from antiphon.features.ports import PublicationReader

LEASE_SECONDS = 0.25
"""How long a reader takes a publication for current without asking the catalog; at most 0.5."""


class FeatureValue(msgspec.Struct, frozen=True):
    """One feature as read.

    ``event_time`` is that of the latest event in the value, ``None`` when there is none; ``stream_offset`` the
    highest log offset among streamed events in it, ``None`` when it comes from the snapshot alone.
    """

    value: MeasureValue
    event_time: datetime | None
    snapshot: str
    stream_offset: int | None
    definition_version: str


class FeatureVector(msgspec.Struct, frozen=True):
    """What a read found.

    Attributes:
        publication: the number every value comes from.
        values: ``view.feature`` to value.
        refreshed: view to the moment its snapshot was made as of; streamed views also know later events.
        catalog_away: the catalog did not answer, so the leased publication was served.
    """

    publication: int
    values: dict[str, FeatureValue]
    refreshed: dict[str, datetime]
    catalog_away: bool = False


class FeatureReader:
    """Reads features of one scope. Safe to share between threads.

    Args:
        overlay: streamed events; ``None`` reads snapshots alone.
        lease: seconds a publication is taken for current without asking.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        publications: PublicationReader,
        online: OnlineStore,
        clock: Clock,
        overlay: Overlay | None = None,
        lease: float = LEASE_SECONDS,
    ) -> None:
        if not 0 <= lease <= 0.5:
            raise InvalidInput(f"The lease on a publication is at most 0.5 s, not {lease}.", where="lease")
        self._scope = scope
        self._publications = publications
        self._online = online
        self._overlay = overlay
        self._clock = clock
        self._lease = lease
        self._lock = threading.Lock()
        self._current: Publication | None = None
        self._asked: float | None = None
        self._away = False

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
            FeatureUnavailable: a view is not published, or ``as_of`` is older than its snapshot answers.
            InvalidInput: an entity key is missing.
            Unavailable: ``minimum_publication`` is not reached, or nothing readable is published.
        """
        return self.read_many(views, [keys], as_of, minimum_publication)[0]

    def read_many(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime | Sequence[datetime],
        minimum_publication: int | None = None,
    ) -> list[FeatureVector]:
        """As :meth:`read` for many entities, all from one publication and one state of the overlay.

        Args:
            as_of: one moment for all, or one for each.
        """
        moments = [as_of] * len(keys) if isinstance(as_of, datetime) else list(as_of)
        if len(moments) != len(keys):
            raise InvalidInput(f"{len(keys)} entities but {len(moments)} moments.", where="as_of")
        if not views:
            return [FeatureVector(self._number(minimum_publication), {}, {}) for _ in keys]
        publication, opened = self._resolve(views, minimum_publication)
        refreshed = {view: from_microseconds(snapshot.meta.as_of) for view, snapshot in opened.items()}
        instants = [microseconds(moment) for moment in moments]
        asked = list(zip(keys, instants, strict=True))
        if self._overlay is None:
            rows = self._vectors(opened, asked, None)
        else:
            with self._overlay.reading() as overlay:
                self._require_unpruned(opened, overlay)
                rows = self._vectors(opened, asked, overlay)
        return [FeatureVector(publication.number, values, refreshed, self._away) for values in rows]

    def publication(self) -> Publication | None:
        """The publication currently leased, asked for again when the lease is over."""
        now = self._clock.monotonic()
        with self._lock:
            if self._asked is None or now - self._asked >= self._lease:
                try:
                    found = self._publications.current(self._scope)
                    self._away = False
                except AntiphonError:
                    if self._current is None:
                        raise
                    self._away = True
                    found = None
                if found is not None and (self._current is None or found.number > self._current.number):
                    self._let_go(self._current, found)
                    self._current = found
                self._asked = now
            return self._current

    def warm(self) -> int:
        """Open every snapshot of the current publication ahead of the first request; how many could be opened."""
        publication = self.publication()
        opened = 0
        for key, snapshot in publication.snapshots.items() if publication is not None else ():
            try:
                self._online.open(self._scope, key.partition("@")[0], snapshot)
                opened += 1
            except Corrupt:
                continue  # A read of it falls back to the publication before.
        return opened

    def _let_go(self, before: Publication | None, after: Publication) -> None:
        """Keep open what is current and, for requests still under way and a broken file, what was just before."""
        kept = [*after.snapshots.items(), *(before.snapshots.items() if before is not None else ())]
        self._online.forget(self._scope, {(key.partition("@")[0], snapshot) for key, snapshot in kept})

    def _number(self, minimum: int | None) -> int:
        current = self.publication()
        number = current.number if current is not None else 0
        if minimum is not None and number < minimum:
            raise _not_reached(minimum, number)
        return number

    def _resolve(self, views: Mapping[str, str], minimum: int | None) -> tuple[Publication, dict[str, SealedSnapshot]]:
        publication = self.publication()
        if publication is None:
            raise FeatureUnavailable(
                "Nothing is published yet.", where=str(self._scope), next_step="Run `antiphon features refresh`."
            )
        broken: Corrupt | None = None
        while True:
            if minimum is not None and publication.number < minimum:
                raise _not_reached(minimum, publication.number) from broken
            try:
                return publication, self._opened(publication, views)
            except Corrupt as error:
                broken = error
            try:
                publication = self._publications.get(self._scope, publication.number - 1)
            except NotFound:
                raise Unavailable(
                    f"No publication can be read: {broken.what}", where="online store", next_step=broken.next_step
                ) from broken

    def _opened(self, publication: Publication, views: Mapping[str, str]) -> dict[str, SealedSnapshot]:
        opened: dict[str, SealedSnapshot] = {}
        for view, version in views.items():
            snapshot = publication.snapshots.get(f"{view}@{version}")
            if snapshot is None:
                raise FeatureUnavailable(
                    f"The view {view!r} is not published in definition version {version}.",
                    where=f"publication {publication.number}",
                    next_step=f"Run `antiphon features refresh {view}`.",
                )
            opened[view] = self._online.open(self._scope, view, snapshot)
        return opened

    def _require_unpruned(self, opened: Mapping[str, SealedSnapshot], overlay: OverlayReading) -> None:
        for view, snapshot in opened.items():
            offset = snapshot.meta.stream_offset
            if offset is not None and overlay.pruned(view_prefix(snapshot.meta.spec.key)) > offset:
                raise Unavailable(
                    f"Streamed events after the snapshot of {view!r} are pruned.",
                    where="overlay",
                    next_step="Roll back with `antiphon features rollback`, which restores them first.",
                )

    def _vectors(
        self,
        opened: Mapping[str, SealedSnapshot],
        asked: Sequence[tuple[Mapping[str, str], int]],
        overlay: OverlayReading | None,
    ) -> list[dict[str, FeatureValue]]:
        """Values for each entity and moment; what several share (an airport, say) is read once."""
        rows: list[dict[str, FeatureValue]] = [{} for _ in asked]
        for view, snapshot in opened.items():
            known: dict[tuple[bytes, int], dict[str, FeatureValue]] = {}
            for row, (keys, as_of) in zip(rows, asked, strict=True):
                place = (self._hashed(snapshot, keys), as_of)
                values = known.get(place)
                if values is None:
                    values = known[place] = self._values(view, snapshot, place[0], as_of, overlay)
                row.update(values)
        return rows

    def _hashed(self, snapshot: SealedSnapshot, keys: Mapping[str, str]) -> bytes:
        entity = snapshot.meta.spec.entity
        try:
            return self._online.entity_hash(entity.name, [str(keys[key]) for key in entity.keys])
        except KeyError as error:
            raise InvalidInput(
                f"The entity key {error.args[0]!r} is missing.",
                where=f"entity.{error.args[0]}",
                next_step=f"The view {snapshot.meta.spec.name!r} needs {', '.join(entity.keys)}.",
            ) from None

    def _values(
        self, view: str, snapshot: SealedSnapshot, hashed: bytes, as_of: int, overlay: OverlayReading | None
    ) -> dict[str, FeatureValue]:
        meta = snapshot.meta
        if as_of < meta.answers_from:
            raise FeatureUnavailable(
                f"{from_microseconds(as_of).isoformat()} is more than a week before the snapshot of "
                f"{meta.spec.name!r}, which is as of {from_microseconds(meta.as_of).isoformat()}.",
                where="as_of",
                next_step="Ask for a later moment, or use a point-in-time dataset.",
            )
        streamed: list[StreamedEvent] = []
        if overlay is not None and meta.stream_offset is not None:
            found = overlay.events(view_prefix(meta.spec.key), hashed, meta.stream_offset)
            streamed = [_fitting(snapshot, event) for event in found]
        together = None
        if snapshot.plan.fitted_windows:
            together = snapshot.state(self._online.entity_hash(meta.spec.entity.name, [None] * len(snapshot.plan.keys)))
        readings = snapshot.evaluator.read(snapshot.state(hashed), streamed, as_of, together, meta.as_of)
        return {
            f"{view}.{name}": FeatureValue(
                reading.value,
                None if reading.event_time is None else from_microseconds(reading.event_time),
                meta.snapshot,
                reading.stream_offset,
                meta.spec.definition_version,
            )
            for name, reading in readings.items()
        }


def _not_reached(minimum: int, number: int) -> Unavailable:
    return Unavailable(
        f"Publication {minimum} is not readable here yet; {number} is.",
        where="minimum_publication",
        next_step="Try again in a moment.",
    )


def _fitting(snapshot: SealedSnapshot, event: StreamedEvent) -> StreamedEvent:
    """The event with values of another kind than the snapshot's column set to null, as batch reads them."""
    plain = snapshot.plain
    if not plain or all(value_fits(event.measures[index], kind) for index, kind in plain):
        return event
    kinds = dict(plain)
    measures = tuple(
        value if index not in kinds or value_fits(value, kinds[index]) else None
        for index, value in enumerate(event.measures)
    )
    return msgspec.structs.replace(event, measures=measures)


def value_fits(value: MeasureValue, kind: Kind) -> bool:
    """Whether a plain value is of a column's kind."""
    return value is None or kind_of_value(value) == kind
