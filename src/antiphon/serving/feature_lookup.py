"""Looking features up: many entities and many views in one publication, without asking a model.

Invariants: policy is asked once for a request (for each entity when the policies in force look at entities); every
value comes from one publication and is held against the same contracts as in an answer; what a contract or policy
withholds is never in the result. A contract that rejects withholds the value and says so: the other entities of a
request are not refused for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from antiphon.core.clock import Clock, from_microseconds, microseconds, parse_duration, utc
from antiphon.core.errors import Forbidden, InvalidInput, TooLarge
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.features.entity_rows import SnapshotRows
from antiphon.features.evaluate import EVER, EntityRow
from antiphon.features.expressions.compile_python import MeasureValue
from antiphon.features.lookup import FeatureRows
from antiphon.features.remedies import Remedied
from antiphon.governance.policy_request import Resource
from antiphon.governance.principal import Principal
from antiphon.serving.freshness import REMEDIES
from antiphon.serving.ports import Decide, Decision, Remedies

MOST_ENTITIES = 1_000
"""Entities in one request."""

_WITHHELD = {"default": "defaulted", "reject": "rejected"}


class LookupPlan(msgspec.Struct, frozen=True, eq=False):
    """What is looked up and under which rules; made once for what stays the same.

    Attributes:
        resource: what policy is asked about, with every feature that is read.
        views: view name to definition version.
        features: the features that are returned, by view in the order asked; ``None``: all of the view's.
        contracts: freshness contract by view.
        purpose: what the values are for.
    """

    resource: Resource
    views: dict[str, str]
    features: dict[str, tuple[str, ...] | None]
    contracts: dict[str, Freshness] = {}
    purpose: str = ""


class LookupRequest(msgspec.Struct, frozen=True):
    """One lookup.

    Attributes:
        entities: entity key column to value, of each entity.
        as_of: the moment; now by default.
        minimum_publication: a publication that the client has seen already.
    """

    scope: Scope
    principal: Principal
    plan: LookupPlan
    entities: Sequence[Mapping[str, str]]
    as_of: datetime | None = None
    minimum_publication: int | None = None
    originating_user: str | None = None


_NOTHING: dict[str, str | None] = {}


class LookedUp(msgspec.Struct, frozen=True, gc=False):
    """One entity's features, each list in the order of ``Lookup.features``.

    Attributes:
        event_times: of the latest event in each value (microseconds since 1970).
        contracts: what happened to each: fresh, absent, flagged, previous, recomputed, defaulted, rejected, masked.
        instead: of features for which another value stands in the snapshot that it is of; a recomputed one is of none.
    """

    values: tuple[MeasureValue, ...]
    event_times: tuple[int | None, ...]
    contracts: tuple[str, ...]
    instead: dict[str, str | None] = {}

    @property
    def known(self) -> bool:
        """Whether any event of the entity is known."""
        return any(moment is not None for moment in self.event_times)


class Lookup(msgspec.Struct, frozen=True):
    """What a lookup found.

    Attributes:
        features: ``view.feature`` of every column.
        publication: the number every value comes from.
        as_of: the moment (microseconds since 1970).
        snapshots: view to (snapshot, definition version, the moment it was made as of).
        entities: in the order asked.
        catalog_away: the catalog did not answer, so the leased publication was served.
    """

    features: tuple[str, ...]
    publication: int
    as_of: int
    snapshots: dict[str, tuple[str, str, datetime]]
    entities: list[LookedUp]
    catalog_away: bool = False


class RowReader(Protocol):
    """Reads rows of one scope in bulk (``features.lookup.FeatureReader``)."""

    def rows(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: int | Sequence[int],
        minimum_publication: int | None = None,
    ) -> FeatureRows: ...


class FeatureLookup:
    """Looks features up with the services it was given. Safe to share between threads.

    Args:
        reads_entities: whether the policies in force for a tenant look at the entities that are asked about.
        remedies: stand in for stale values where a contract asks for it.
        far: whether reading waits for another machine, so that it must not run on the event loop.
    """

    def __init__(
        self,
        reader: Callable[[Scope], RowReader],
        decide: Decide,
        clock: Clock,
        *,
        reads_entities: Callable[[str], bool] = lambda tenant: False,
        remedies: Remedies | None = None,
        far: bool = False,
        most: int = MOST_ENTITIES,
    ) -> None:
        self._reader = reader
        self._decide = decide
        self._clock = clock
        self._reads_entities = reads_entities
        self._remedies = remedies
        self._far = far
        self._most = most
        self._judges: dict[tuple[int, SnapshotRows], _Judge] = {}

    async def look_up(self, request: LookupRequest) -> Lookup:
        """:meth:`look_up_now` for an event loop: a store on another machine, or a remedy, is waited for in a thread.

        Raises:
            As :meth:`look_up_now`.
        """
        if self._far or any(one.when_stale in REMEDIES for one in request.plan.contracts.values()):
            return await asyncio.to_thread(self.look_up_now, request)
        return self.look_up_now(request)

    def look_up_now(self, request: LookupRequest) -> Lookup:
        """Decide, read, hold against the contracts.

        Raises:
            Forbidden: policy does not let this principal read these features, or one of these entities.
            TooLarge: more entities than one request may have.
            InvalidInput: no entity, or an entity key is missing.
            FeatureUnavailable: a view is not published, or the moment is older than its snapshot answers.
            Unavailable: the minimum publication is not reached, or nothing readable is published.
        """
        entities, plan = request.entities, request.plan
        if not entities:
            raise InvalidInput("There is no entity.", where="entities", next_step="Name at least one.")
        if len(entities) > self._most:
            raise TooLarge(
                f"There are {len(entities)} entities in one request.",
                where="entities",
                next_step=f"Send at most {self._most} at a time.",
            )
        as_of = self._clock.now() if request.as_of is None else utc(request.as_of)
        masks = self._decided(request, as_of)
        moment = microseconds(as_of)
        found = self._reader(request.scope).rows(plan.views, entities, moment, request.minimum_publication)
        names: tuple[str, ...] = ()
        columns: list[list[LookedUp]] = []
        for one, rows in found.views:
            judge = self._judge(plan, one)
            names += judge.names
            looked = judge.judged(rows, moment)
            if judge.asks and self._remedies is not None:
                self._stand_in(request, judge, rows, looked, as_of, found.publication)
            columns.append(looked)
        looked = columns[0] if len(columns) == 1 else [_joined(parts) for parts in zip(*columns, strict=True)]
        if masks is not None:
            looked = [_masked(names, line, mask) for line, mask in zip(looked, masks, strict=True)]
        return Lookup(
            names,
            found.publication,
            moment,
            {one.view: (one.snapshot, one.definition_version, one.made_as_of) for one, _ in found.views},
            looked,
            found.catalog_away,
        )

    def _stand_in(
        self,
        request: LookupRequest,
        judge: _Judge,
        rows: Sequence[EntityRow],
        looked: list[LookedUp],
        as_of: datetime,
        publication: int,
    ) -> None:
        """Put other values in the place of stale ones, of all entities that have any in one go."""
        moment = microseconds(as_of)
        places = [place for place, row in enumerate(rows) if judge.stale(row, moment)]
        if not places or self._remedies is None:
            return
        keys = [request.entities[place] for place in places]
        plan, view = request.plan, judge.view
        found = self._remedies.remedied(
            request.scope, (view, plan.views[view]), keys, as_of, plan.contracts[view], publication
        )
        for place, instead in zip(places, found, strict=True):
            if instead:
                looked[place] = judge.with_remedies(rows[place], moment, instead)

    def _decided(self, request: LookupRequest, as_of: datetime) -> list[tuple[str, ...]] | None:
        """What policy hides of each entity; ``None``: nothing of any."""
        plan, tenant = request.plan, request.scope.tenant
        context = {
            "purpose": plan.purpose,
            "path": "online",
            "tenant": tenant,
            "originator": request.originating_user,
            "keys": request.entities[0],
            "as_of": int(as_of.timestamp()),
        }
        if not self._reads_entities(tenant):
            masked = _require(self._decide(request.principal, "answer", plan.resource, context), request).masked
            return [masked] * len(request.entities) if masked else None
        masks = [
            _require(
                self._decide(request.principal, "answer", plan.resource, {**context, "keys": keys}),
                request,
                f", entity {number}",
            ).masked
            for number, keys in enumerate(request.entities)
        ]
        return masks if any(masks) else None

    def _judge(self, plan: LookupPlan, one: SnapshotRows) -> _Judge:
        key = (id(plan), one)
        found = self._judges.get(key)
        if found is None or found.plan is not plan:
            if len(self._judges) > 1_000:
                self._judges = {}
            found = self._judges[key] = _Judge(plan, one)
        return found


class _Judge:
    """A view's contract and choice of features, ready to be applied to rows of one snapshot."""

    __slots__ = ("_age", "_fresh", "_picked", "_poor", "_stale", "asks", "names", "plan", "view")

    def __init__(self, plan: LookupPlan, one: SnapshotRows) -> None:
        self.plan, self.view = plan, one.view
        asked = plan.features[one.view]
        place = {name: index for index, name in enumerate(one.names)}
        self.names = one.names if asked is None else tuple(f"{one.view}.{name}" for name in asked)
        self._picked = None if self.names == one.names else tuple(place[name] for name in self.names)
        contract = plan.contracts.get(one.view)
        self._age = 2**62
        self._stale, self._poor, self.asks = "fresh", False, False
        if contract is not None:
            self._age = int(parse_duration(contract.max_age).total_seconds() * 1e6)
            self._stale = {"flag": "flagged", **_WITHHELD}[contract.withheld]
            self.asks = contract.when_stale in REMEDIES
            facts = one.opened.meta.facts
            quality = facts.source_quality if facts is not None else None
            wanted = contract.min_source_quality
            self._poor = wanted > 0 and (quality is None or quality < wanted)
        self._fresh = ("fresh",) * len(self.names)

    def judged(self, rows: Sequence[EntityRow], as_of: int) -> list[LookedUp]:
        """What is left of each row. Most are fresh throughout, which one comparison tells."""
        picked, fresh = self._picked, self._fresh
        oldest = as_of - self._age
        enough = EVER if self._poor else oldest
        looked: list[LookedUp] = []
        append, made = looked.append, LookedUp
        for row in rows:
            if picked is None:
                values, times = row.values, row.event_times
            else:
                values, times = self._columns(row)
            if row.oldest >= enough:
                append(made(values, times, fresh, _NOTHING))
            else:
                append(self._one_by_one(values, times, oldest))
        return looked

    def _columns(self, row: EntityRow) -> tuple[tuple[MeasureValue, ...], tuple[int | None, ...]]:
        if self._picked is None:
            return row.values, row.event_times
        picked = self._picked
        return tuple([row.values[index] for index in picked]), tuple([row.event_times[index] for index in picked])

    def stale(self, row: EntityRow, as_of: int) -> bool:
        """Whether a value of the row does not meet the contract."""
        oldest = as_of - self._age
        values, times = self._columns(row)
        return any(
            value is not None and (self._poor or (moment is not None and moment < oldest))
            for value, moment in zip(values, times, strict=True)
        )

    def with_remedies(self, row: EntityRow, as_of: int, instead: Mapping[str, Remedied]) -> LookedUp:
        """The row with other values in the place of stale ones."""
        values, times = self._columns(row)
        oldest = as_of - self._age
        line = self._one_by_one(values, times, oldest)
        changed = list(zip(line.values, line.event_times, line.contracts, strict=True))
        snapshots: dict[str, str | None] = {}
        for place, (name, value, moment) in enumerate(zip(self.names, values, times, strict=True)):
            other = instead.get(name)
            if other is None or value is None or not (self._poor or (moment is not None and moment < oldest)):
                continue
            at = None if other.event_time is None else microseconds(other.event_time)
            changed[place] = (other.value, at, other.contract)
            snapshots[name] = other.snapshot
        kept, at_, contracts = zip(*changed, strict=True)
        return LookedUp(tuple(kept), tuple(at_), tuple(contracts), snapshots)

    def _one_by_one(self, values: tuple[MeasureValue, ...], times: tuple[int | None, ...], oldest: int) -> LookedUp:
        contracts = []
        for value, moment in zip(values, times, strict=True):
            if value is None:
                contracts.append("absent")
            elif self._poor or (moment is not None and moment < oldest):
                contracts.append(self._stale)
            else:
                contracts.append("fresh")
        withheld = _WITHHELD.values()
        kept = tuple(None if said in withheld else value for value, said in zip(values, contracts, strict=True))
        return LookedUp(kept, times, tuple(contracts))


def _joined(parts: Sequence[LookedUp]) -> LookedUp:
    values: tuple[MeasureValue, ...] = ()
    times: tuple[int | None, ...] = ()
    contracts: tuple[str, ...] = ()
    instead: dict[str, str | None] = {}
    for part in parts:
        values += part.values
        times += part.event_times
        contracts += part.contracts
        instead |= part.instead
    return LookedUp(values, times, contracts, instead)


def _masked(names: Sequence[str], line: LookedUp, mask: Sequence[str]) -> LookedUp:
    hidden = [name in mask or f"{name.partition('.')[0]}.*" in mask for name in names]
    if not any(hidden):
        return line
    return LookedUp(
        tuple(None if hide else value for hide, value in zip(hidden, line.values, strict=True)),
        tuple(None if hide else moment for hide, moment in zip(hidden, line.event_times, strict=True)),
        tuple("masked" if hide else said for hide, said in zip(hidden, line.contracts, strict=True)),
        {name: one for name, one in line.instead.items() if not hidden[names.index(name)]},
    )


def _require(decision: Decision, request: LookupRequest, which: str = "") -> Decision:
    if not decision.allowed:
        raise Forbidden(
            f"Policy does not let {request.principal.id} read {request.plan.resource}{which}: {decision.reason}.",
            where="policy",
            next_step=f"`antiphon policy explain {request.principal.id} answer {request.plan.resource}` "
            "says what would have to hold.",
        )
    return decision


def ages(line: LookedUp, as_of: int) -> list[float | None]:
    """Seconds between each value's latest event and the moment."""
    return [None if moment is None else (as_of - moment) / 1e6 for moment in line.event_times]


def moments(line: LookedUp) -> list[datetime | None]:
    """The event times as times."""
    return [None if moment is None else from_microseconds(moment) for moment in line.event_times]
