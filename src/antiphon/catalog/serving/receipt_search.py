"""Search of receipts by facets, counted, newest first and page by page.

Invariants:
- All receipts of the same facets carry the same number, their *kind*; a catalog has hundreds of kinds for millions of
  receipts. A search is for some kinds in a span, and reads an index of either: never a receipt that it does not return.
- The work is bounded by what is returned and by :data:`MOST_COUNTED`, not by the number of receipts. Whether all were
  counted is said.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, bindparam, func, or_, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.receipt import SEEN_ROLES, Receipt, ReceiptFacets
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope

FACETS = ReceiptFacets.__struct_fields__
MOST_COUNTED = 200_000
"""The newest so many receipts of a span are counted."""
_MOST_MERGED = 40
"""Of more kinds than these a page is found by time instead of kind by kind."""
_MOST_KNOWN = 100_000

_table = schema.receipts


class Place(msgspec.Struct, frozen=True):
    """The place of a receipt in their order, newest first."""

    created_at: datetime
    prediction: str


class FacetCount(msgspec.Struct, frozen=True):
    """One value of a facet, and the receipts that a search would find with it instead of the facet's chosen ones."""

    value: str
    count: int


class FacetCounts(msgspec.Struct, frozen=True):
    """Values of each facet by falling count; ``matching`` and ``counted`` are receipts, of which ``complete`` tells
    whether they are all of the span or the newest."""

    values: dict[str, tuple[FacetCount, ...]]
    matching: int
    counted: int
    complete: bool


class ReleaseCount(msgspec.Struct, frozen=True):
    """Requests that a release answered, and when the latest was."""

    requests: int
    latest: datetime


class ReceiptSearch:
    """Finds receipts of a scope. Keeps what the kinds stand for, which never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "receipts.payload", Receipt)
        self._known: dict[tuple[Scope, int], ReceiptFacets] = {}
        self._lock = threading.Lock()

    def counts(
        self,
        scope: Scope,
        chosen: Mapping[str, Sequence[str]],
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
    ) -> FacetCounts:
        """Counts the newest receipts with ``since <= created_at < until`` by the values of each facet; those about a
        subject, if one is given.

        Args:
            chosen: facet to the values of which a receipt has one.
        """
        _require_facets(chosen)
        span = [schema.owned(_table, scope), *_between(since, until), *schema.given(_table, subject=subject)]
        newest = select(_table.c.kind).where(*span).order_by(_table.c.created_at.desc()).limit(MOST_COUNTED).subquery()
        statement = select(newest.c.kind, func.count()).group_by(newest.c.kind)
        with self._database.read() as connection:
            found = [
                (self._facets(connection, scope, kind), count) for kind, count in connection.execute(statement).all()
            ]
        counted = sum(count for _, count in found)
        return FacetCounts(
            {facet: _values(facet, found, chosen) for facet in FACETS},
            sum(count for facets, count in found if _meets(facets, chosen)),
            counted,
            counted < MOST_COUNTED,
        )

    def by_release(self, scope: Scope, application: str) -> dict[str, ReleaseCount]:
        """Release to all requests that it answered users, without those of releases that answered none."""
        found: dict[str, ReleaseCount] = {}
        c = _table.c
        with self._database.read() as connection:
            facets = {kind: self._facets(connection, scope, kind) for kind in self._kinds(connection, scope)}
            kinds = [kind for kind, one in facets.items() if one.application == application and one.role in SEEN_ROLES]
            for some in in_parts(c.kind, kinds):
                counts = select(c.kind, func.count(), func.max(c.created_at)).where(schema.owned(_table, scope), some)
                for kind, requests, latest in connection.execute(counts.group_by(c.kind)).all():
                    before = found.get(facets[kind].release, ReleaseCount(0, latest))
                    found[facets[kind].release] = ReleaseCount(before.requests + requests, max(before.latest, latest))
        return found

    def page(
        self,
        scope: Scope,
        chosen: Mapping[str, Sequence[str]],
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
        before: Place | None = None,
    ) -> list[Receipt]:
        """The newest of the receipts that :meth:`counts` tells of as matching, from behind a place on."""
        _require_facets(chosen)
        with self._database.read() as connection:
            kinds = [
                kind for kind in self._kinds(connection, scope) if _meets(self._facets(connection, scope, kind), chosen)
            ]
            if not kinds:
                return []
            span = [*_between(since, until), *_behind(before), *schema.given(_table, subject=subject)]
            predictions = self._newest(connection, scope, kinds, span, limit, by_time=subject is not None)
            found: list[Receipt] = []
            for some in in_parts(_table.c.prediction, predictions):
                # Asked for in an order, SQLite reads all receipts in it instead of these by their key.
                found += self._documents.find(scope, some, within=connection)
            return sorted(found, key=lambda one: (one.created_at, one.prediction), reverse=True)

    def _newest(
        self,
        connection: Connection,
        scope: Scope,
        kinds: Sequence[int],
        span: Sequence[ColumnElement[bool]],
        limit: int,
        *,
        by_time: bool,
    ) -> list[str]:
        c = _table.c
        order = (c.created_at.desc(), c.prediction.desc())
        every = select(c.prediction, c.created_at).where(schema.owned(_table, scope), *span)
        if by_time or len(kinds) > _MOST_MERGED:
            # The sum keeps a planner from reading whole kinds by their index, to sort them.
            newest = every.where((c.kind + 0).in_(kinds)).order_by(*order).limit(limit)
            return [row.prediction for row in connection.execute(newest).all()]
        one = every.where(c.kind == bindparam("of_kind")).order_by(*order).limit(limit)
        found = [row for kind in kinds for row in connection.execute(one, {"of_kind": kind}).all()]
        found.sort(key=lambda row: (row.created_at, row.prediction), reverse=True)
        return [row.prediction for row in found[:limit]]

    def _kinds(self, connection: Connection, scope: Scope) -> list[int]:
        """Each kind once, by as many steps through the index as there are kinds."""
        least = select(func.min(_table.c.kind).label("kind")).where(schema.owned(_table, scope))
        walk = least.cte("walk", recursive=True)
        following = (
            select(func.min(_table.c.kind))
            .where(schema.owned(_table, scope), _table.c.kind > walk.c.kind)
            .scalar_subquery()
        )
        walk = walk.union_all(select(following).where(walk.c.kind.is_not(None)))
        return [kind for (kind,) in connection.execute(select(walk.c.kind)).all() if kind is not None]

    def _facets(self, connection: Connection, scope: Scope, kind: int) -> ReceiptFacets:
        known = self._known.get((scope, kind))
        if known is None:
            columns = [_table.c[name] for name in FACETS]
            # Without the order SQLite walks the table until it meets the kind.
            first = select(*columns).where(schema.owned(_table, scope, kind=kind)).order_by(_table.c.created_at)
            row = connection.execute(first.limit(1)).one()
            known = ReceiptFacets(*row)
            with self._lock:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[scope, kind] = known
        return known


def _between(since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    at = _table.c.created_at
    return [*([] if since is None else [at >= since]), *([] if until is None else [at < until])]


def _behind(place: Place | None) -> list[ColumnElement[bool]]:
    if place is None:
        return []
    c = _table.c
    # The first condition alone bounds what is read of an index.
    return [
        c.created_at <= place.created_at,
        or_(c.created_at < place.created_at, c.prediction < place.prediction),
    ]


def _require_facets(chosen: Mapping[str, Sequence[str]]) -> None:
    for name in chosen:
        if name not in FACETS:
            raise InvalidInputError(
                f"{name!r} is no facet.", where="facets", next_step=f"Choose of {', '.join(FACETS)}."
            )


def _meets(facets: ReceiptFacets, chosen: Mapping[str, Sequence[str]], but: str = "") -> bool:
    return all(getattr(facets, facet) in values for facet, values in chosen.items() if values and facet != but)


def _values(
    facet: str, found: Sequence[tuple[ReceiptFacets, int]], chosen: Mapping[str, Sequence[str]]
) -> tuple[FacetCount, ...]:
    sums = dict.fromkeys(chosen.get(facet, ()), 0)
    for facets, count in found:
        if _meets(facets, chosen, but=facet):
            value = getattr(facets, facet)
            sums[value] = sums.get(value, 0) + count
    return tuple(FacetCount(value, count) for value, count in sorted(sums.items(), key=lambda one: (-one[1], one[0])))
