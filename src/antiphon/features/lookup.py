"""Lookup: feature values of entities as of a moment, from one publication.

Invariants: a request resolves publication N once and every value comes from it; N never goes back within a
process; a publication with a missing or broken file is passed over for the one before, never answered with null;
the catalog being away changes nothing but is said.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.publications import Publication
from antiphon.catalog.snapshot_facts import SnapshotFacts
from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import AntiphonError, Corrupt, FeatureUnavailable, InvalidInput, NotFound, Unavailable
from antiphon.core.scope import Scope
from antiphon.definitions.expression import Kind, kind_of_value
from antiphon.features.compile_python import MeasureValue
from antiphon.features.evaluate import Evaluator, StreamedEvent
from antiphon.features.online.encoding import SnapshotMeta
from antiphon.features.online.streamed import OverlayReading, view_prefix
from antiphon.features.ports import (
    OnlineSnapshots,
    OpenedSnapshot,
    PublicationReader,
    StateQuestion,
    StreamedOverlay,
)

LEASE_SECONDS = 0.25
"""How long a reader takes a publication for current without asking the catalog; at most 0.5."""

_PASSED_OVER = 16
"""How many publications back a readable one is looked for; older ones are collected."""


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
        publication: the number every value comes from; ``None`` when all are read from Feast.
        values: ``view.feature`` to value.
        refreshed: view to the moment its snapshot was made as of; streamed views also know later events.
        catalog_away: the catalog did not answer, so the leased publication was served.
        facts: view to what its snapshot says about itself: source, quality, sampling rate, rows.
    """

    publication: int | None
    values: dict[str, FeatureValue]
    refreshed: dict[str, datetime]
    catalog_away: bool = False
    facts: dict[str, SnapshotFacts] = {}


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
        online: OnlineSnapshots,
        clock: Clock,
        overlay: StreamedOverlay | None = None,
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
        instants = [microseconds(moment) for moment in moments]
        asked = list(zip(keys, instants, strict=True))
        publication = self._first()
        broken: Corrupt | None = None
        for _ in range(_PASSED_OVER):
            if minimum_publication is not None and publication.number < minimum_publication:
                raise _not_reached(minimum_publication, publication.number) from broken
            try:
                opened = self._opened(publication, views)
                rows = self._vectors(opened, asked)
            except Corrupt as error:
                broken = error
            else:
                refreshed = {view: from_microseconds(snapshot.meta.as_of) for view, snapshot in opened.items()}
                facts = {view: one.meta.facts for view, one in opened.items() if one.meta.facts is not None}
                return [FeatureVector(publication.number, values, refreshed, self._away, facts) for values in rows]
            try:
                publication = self._publications.get(self._scope, publication.number - 1)
            except NotFound:
                break
        assert broken is not None
        raise Unavailable(
            f"No publication can be read: {broken.what}", where="online store", next_step=broken.next_step
        ) from broken

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

    def _first(self) -> Publication:
        publication = self.publication()
        if publication is None:
            raise FeatureUnavailable(
                "Nothing is published yet.", where=str(self._scope), next_step="Run `antiphon features refresh`."
            )
        return publication

    def _opened(self, publication: Publication, views: Mapping[str, str]) -> dict[str, OpenedSnapshot]:
        opened: dict[str, OpenedSnapshot] = {}
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

    def _require_unpruned(self, opened: Mapping[str, OpenedSnapshot], overlay: OverlayReading) -> None:
        for view, snapshot in opened.items():
            offset = snapshot.meta.stream_offset
            if offset is not None and overlay.pruned[view_prefix(snapshot.meta.spec.key)] > offset:
                raise Unavailable(
                    f"Streamed events after the snapshot of {view!r} are pruned.",
                    where="overlay",
                    next_step="Roll back with `antiphon features rollback`, which restores them first.",
                )

    def _vectors(
        self, opened: Mapping[str, OpenedSnapshot], asked: Sequence[tuple[Mapping[str, str], int]]
    ) -> list[dict[str, FeatureValue]]:
        """Values for each entity and moment; what several share (an airport, say) is read once.

        The overlay is read once for everything, then each view's snapshot once for all of its entities.
        """
        places = {
            view: [(self._hashed(snapshot, keys), as_of) for keys, as_of in asked] for view, snapshot in opened.items()
        }
        streamed = self._streamed(opened, places)
        rows: list[dict[str, FeatureValue]] = [{} for _ in asked]
        for view, snapshot in opened.items():
            known = self._values(view, snapshot, dict.fromkeys(places[view]), streamed.get(view, {}))
            for row, place in zip(rows, places[view], strict=True):
                row.update(known[place])
        return rows

    def _streamed(
        self, opened: Mapping[str, OpenedSnapshot], places: Mapping[str, Sequence[tuple[bytes, int]]]
    ) -> dict[str, dict[bytes, list[StreamedEvent]]]:
        """Of each view that follows a stream, the events after its snapshot by entity."""
        if self._overlay is None:
            return {}
        offsets = {
            view: (view_prefix(snapshot.meta.spec.key), snapshot.meta.stream_offset)
            for view, snapshot in opened.items()
            if snapshot.meta.stream_offset is not None
        }
        if not offsets:
            return {}
        wanted = dict.fromkeys(
            (prefix, hashed, offset)
            for view, (prefix, offset) in offsets.items()
            for hashed, _ in places[view]
            if offset is not None
        )
        reading = self._overlay.read([prefix for prefix, _ in offsets.values()], wanted)
        self._require_unpruned(opened, reading)
        found: dict[str, dict[bytes, list[StreamedEvent]]] = {}
        for view, (prefix, _) in offsets.items():
            snapshot = opened[view]
            events = {hashed: reading.events[prefix, hashed] for hashed in {hashed for hashed, _ in places[view]}}
            found[view] = {
                hashed: [_fitting(snapshot, event) for event in listed] for hashed, listed in events.items() if listed
            }
        return found

    def _hashed(self, snapshot: OpenedSnapshot, keys: Mapping[str, str]) -> bytes:
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
        self,
        view: str,
        snapshot: OpenedSnapshot,
        places: Iterable[tuple[bytes, int]],
        streamed: Mapping[bytes, list[StreamedEvent]],
    ) -> dict[tuple[bytes, int], dict[str, FeatureValue]]:
        """Of each distinct (entity, moment) the view's features."""
        meta, evaluator = snapshot.meta, snapshot.evaluator
        width = evaluator.plan.tile
        asked: list[StateQuestion] = []
        for hashed, as_of in places:
            if as_of < meta.answers_from:
                raise FeatureUnavailable(
                    f"{from_microseconds(as_of).isoformat()} is more than a week before the snapshot of "
                    f"{meta.spec.name!r}, which is as of {from_microseconds(meta.as_of).isoformat()}.",
                    where="as_of",
                    next_step="Ask for a later moment, or use a point-in-time dataset.",
                )
            events = streamed.get(hashed)
            asked.append(
                StateQuestion(hashed, as_of, {event.event_time // width for event in events} if events else ())
            )
        # What encodings are set against is asked for with the entities: one round trip for everything.
        together = [StateQuestion(self._together(meta, evaluator), meta.as_of, ())] if evaluator.encodes else []
        states = snapshot.states([*asked, *together])
        found: dict[tuple[bytes, int], dict[str, FeatureValue]] = {}
        for question, state in zip(asked, states[: len(asked)], strict=True):
            readings = evaluator.read(
                state,
                streamed.get(question.entity, ()),
                question.as_of,
                states[-1] if together else None,
                meta.as_of,
            )
            found[question.entity, question.as_of] = {
                f"{view}.{name}": FeatureValue(
                    reading.value,
                    None if reading.event_time is None else from_microseconds(reading.event_time),
                    meta.snapshot,
                    reading.stream_offset,
                    meta.spec.definition_version,
                )
                for name, reading in readings.items()
            }
        return found

    def _together(self, meta: SnapshotMeta, evaluator: Evaluator) -> bytes:
        return self._online.entity_hash(meta.spec.entity.name, [None] * len(evaluator.plan.keys))


def _not_reached(minimum: int, number: int) -> Unavailable:
    return Unavailable(
        f"Publication {minimum} is not readable here yet; {number} is.",
        where="minimum_publication",
        next_step="Try again in a moment.",
    )


def _fitting(snapshot: OpenedSnapshot, event: StreamedEvent) -> StreamedEvent:
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
