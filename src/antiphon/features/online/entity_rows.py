"""Rows of entities from one snapshot of a view: read in bulk, and kept while they hold.

A row is taken as batch finished it where it holds (``online.finished``), and otherwise made from the entity's state.
Invariants: a kept row is of this snapshot alone and is served only for moments at which nothing enters or leaves its
windows (``EntityRow.since ≤ t < until``), so it is the row that reading anew would give; an entity with streamed
events is always read anew, from its state. At most :data:`KEPT_ROWS` rows are kept, the first kept going first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from antiphon.core.clock import from_microseconds
from antiphon.core.errors import FeatureUnavailableError, InvalidInputError
from antiphon.definitions.nodes import Kind, kind_of_value
from antiphon.features.online.overlay_records import OverlayState, view_prefix
from antiphon.features.ports import OpenedSnapshot, StateQuery
from antiphon.features.values import EVER, EntityRow, MeasureValue, StreamedEvent

KEPT_ROWS = 32_768
"""Rows of one snapshot that a process keeps: about 25 MB for ten numbers each."""

_TRIED = 100
"""Finished rows are no longer read once so many more of them have expired than held."""

T = TypeVar("T")
Entity = Hashable
"""The key's text, or the texts of several."""


class SnapshotRows:
    """A view's opened snapshot with the rows that were read of it. Safe to share between threads.

    Attributes:
        view: the view's name.
        names: ``view.feature`` in the order of a row.
        snapshot: its id; ``definition_version`` is that of its definition.
        made_as_of: the moment it was made as of.
        prefix: what the view's streamed events stand under; ``offset`` is the log offset of the snapshot, ``None`` when
            the view follows no stream.
    """

    def __init__(
        self,
        view: str,
        opened: OpenedSnapshot,
        entity_hashes: Callable[[str, Iterable[Sequence[str | None]]], list[bytes]],
        kept: int = KEPT_ROWS,
    ) -> None:
        spec = opened.meta.spec
        self.view = view
        self.opened = opened
        self.names = tuple(f"{view}.{name}" for name in opened.evaluator.names)
        self.snapshot = opened.meta.snapshot
        self.definition_version = spec.definition_version
        self.prefix = view_prefix(spec.key)
        self.offset = opened.meta.stream_offset
        self.made_as_of = from_microseconds(opened.meta.as_of)
        self._entity_hashes = entity_hashes
        self._entity = spec.entity.name
        self._keys = spec.entity.keys
        self._kept = _RowCache[EntityRow](kept)
        self._held = self._expired = 0
        self._expired_from = EVER
        self._hashes = _RowCache[bytes](kept)

    def entities(self, keys: Sequence[Mapping[str, str]]) -> list[Entity]:
        """Entity of each request, by its keys; raises ``InvalidInputError`` when one is missing."""
        try:
            if len(self._keys) == 1:
                key = self._keys[0]
                return [str(each[key]) for each in keys]
            return [tuple([str(each[key]) for key in self._keys]) for each in keys]
        except KeyError as error:
            raise InvalidInputError(
                f"The entity key {error.args[0]!r} is missing.",
                where=f"entity.{error.args[0]}",
                next_step=f"The view {self.opened.meta.spec.name!r} needs {', '.join(self._keys)}.",
            ) from None

    def hashed(self, entities: Sequence[Entity]) -> list[bytes]:
        """The hash that each entity is stored under."""
        known = self._hashes.get
        found = [known(entity) for entity in entities]
        if None not in found:
            return found  # type: ignore[return-value]
        missing = [entity for entity, hashed in zip(entities, found, strict=True) if hashed is None]
        fresh = dict(zip(missing, self._hashed(missing), strict=True))
        self._hashes.keep(fresh)
        return [fresh[entity] if hashed is None else hashed for entity, hashed in zip(entities, found, strict=True)]

    def _hashed(self, entities: Sequence[Entity]) -> list[bytes]:
        texts = zip(entities) if len(self._keys) == 1 else entities
        return self._entity_hashes(self._entity, texts)  # type: ignore[arg-type]

    def rows(
        self, entities: Sequence[Entity], as_of: int | Sequence[int], streamed: Mapping[bytes, list[StreamedEvent]]
    ) -> list[EntityRow]:
        """The row of each entity.

        Args:
            as_of: one moment (microseconds) for all, or one for each.
            streamed: events after the snapshot, by the entity's hash.

        Raises:
            FeatureUnavailableError: a moment is older than the snapshot answers.
            CorruptionError, UnavailableError: as ``OpenedSnapshot.states``.
        """
        meta, earliest = self.opened.meta, as_of if isinstance(as_of, int) else min(as_of, default=EVER)
        if earliest < meta.answers_from:
            raise FeatureUnavailableError(
                f"{from_microseconds(earliest).isoformat()} is more than a week before the snapshot of "
                f"{meta.spec.name!r}, which is as of {from_microseconds(meta.as_of).isoformat()}.",
                where="as_of",
                next_step="Ask for a later moment, or use a point-in-time dataset.",
            )
        kept = self._kept
        found: list[EntityRow | None]
        if streamed:
            moments = [as_of] * len(entities) if isinstance(as_of, int) else as_of
            found = [
                row
                if (row := kept.get(entity)) is not None and row.since <= moment < row.until and hashed not in streamed
                else None
                for entity, moment, hashed in zip(entities, moments, self.hashed(entities), strict=True)
            ]
        elif isinstance(as_of, int):
            found = [
                row if (row := kept.get(entity)) is not None and row.since <= as_of < row.until else None
                for entity in entities
            ]
        else:
            found = [
                row if (row := kept.get(entity)) is not None and row.since <= moment < row.until else None
                for entity, moment in zip(entities, as_of, strict=True)
            ]
        if None not in found:
            return found  # type: ignore[return-value]
        if isinstance(as_of, int):
            return self._filled(entities, [as_of] * len(entities), found, streamed)
        return self._filled(entities, as_of, found, streamed)

    def _filled(
        self,
        entities: Sequence[Entity],
        moments: Sequence[int],
        found: list[EntityRow | None],
        streamed: Mapping[bytes, list[StreamedEvent]],
    ) -> list[EntityRow]:
        """The rows found, with those that are missing read."""
        missing = [place for place, row in enumerate(found) if row is None]
        unknown = [entities[place] for place in missing] if len(missing) < len(found) else entities
        # Of a view that follows a stream hashes are asked for by every reading; elsewhere a kept row needs none.
        hashes = self._hashed(unknown) if self.offset is None else self.hashed(unknown)
        since, before = self.opened.meta.as_of, self._expired_from
        fresh: dict[Entity, EntityRow] = {}
        if streamed or min(moments) < since or max(moments) >= before:
            chosen = [
                (place, hashed)
                for place, hashed in zip(missing, hashes, strict=True)
                if since <= moments[place] < before and hashed not in streamed
            ]
            finished = self.opened.finished([hashed for _, hashed in chosen]) if chosen else []
            tried = [place for place, _ in chosen]
        else:
            finished, tried = self.opened.finished(hashes), missing
        expired = 0
        for place, row in zip(tried, finished, strict=True):
            if row is not None:
                if moments[place] < row.until:
                    found[place] = fresh[entities[place]] = row
                else:
                    expired += 1
        if fresh:
            self._kept.keep(fresh)
        # Where most have expired, reading finished rows first is a round trip for nothing, and more expire.
        self._held += len(fresh)
        self._expired += expired
        if self._expired > _TRIED + self._held:
            self._expired_from = min(self._expired_from, max(moments))
        if None in found:
            places = dict(zip(missing, hashes, strict=True))
            left = {
                (entities[place], moments[place]): hashed for place, hashed in places.items() if found[place] is None
            }
            made = self._made(left, streamed)
            for place in missing:
                if found[place] is None:
                    found[place] = made[entities[place], moments[place]]
        return found  # type: ignore[return-value]

    def _made(
        self, places: Mapping[tuple[Entity, int], bytes], streamed: Mapping[bytes, list[StreamedEvent]]
    ) -> dict[tuple[Entity, int], EntityRow]:
        """Each entity and moment from its state, read in one go."""
        meta, evaluator = self.opened.meta, self.opened.evaluator
        width = evaluator.plan.tile
        queries: list[StateQuery] = []
        for (_, as_of), hashed in places.items():
            events = streamed.get(hashed)
            queries.append(StateQuery(hashed, as_of, {event.event_time // width for event in events} if events else ()))
        # What encodings are set against is asked for with the entities: one round trip for everything.
        together: list[StateQuery] = []
        if evaluator.encodes:
            (hashed_together,) = self._entity_hashes(self._entity, [[None] * len(self._keys)])
            together = [StateQuery(hashed_together, meta.as_of)]
        states = self.opened.states([*queries, *together])
        every = states[-1] if together else None
        rows: dict[tuple[Entity, int], EntityRow] = {}
        for place, question, state in zip(places, queries, states, strict=False):
            rows[place] = evaluator.row(state, streamed.get(question.entity) or (), question.as_of, every, meta.as_of)
        # Of an entity that is asked about at several moments the last one stays.
        self._kept.keep({entity: row for (entity, as_of), row in rows.items() if row.until > as_of + 1})
        return rows

    def streamed(self, entities: Sequence[Entity], reading: OverlayState) -> dict[bytes, list[StreamedEvent]]:
        """Of these entities the events after the snapshot."""
        found: dict[bytes, list[StreamedEvent]] = {}
        for hashed in self.hashed(entities):
            events = reading.events[self.prefix, hashed]
            if events and hashed not in found:
                found[hashed] = [_fitting(self.opened, event) for event in events]
        return found


class _RowCache(dict[Entity, T]):
    """A dictionary that is bounded: of too many the first kept go, an eighth at a time, since finding the first is dear
    in a dictionary that lost many. Reading needs no lock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()

    def keep(self, found: Mapping[Entity, T]) -> None:
        """Add what was found."""
        with self._lock:
            self.update(found)
            if len(self) > self._most:
                for entity in list(islice(self, len(self) - self._most + self._most // 8)):
                    del self[entity]


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
    """Tell whether a plain value is of a column's kind."""
    return value is None or kind_of_value(value) == kind
