"""Looking features up: many entities and many views in one publication, without asking a model.

Invariants: policy is asked once for a request (for each entity when the policies in force look at entities); every
value comes from one publication and is held against the same contracts as in an answer; what a contract or policy
withholds is never in the result, nor anything that is made of it. A contract that rejects withholds the value and says
so: the other entities of a request are not refused for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from antiphon.core.clock import Clock, microseconds, utc
from antiphon.core.errors import ForbiddenError, InvalidInputError, TooLargeError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.embedding.vector_reader import VectorReader, VectorRows
from antiphon.features.freshness import rule_of
from antiphon.features.online.entity_rows import SnapshotRows
from antiphon.features.online.lookup import FeatureRows
from antiphon.features.values import EntityRow
from antiphon.governance.policy.request import Decision, purpose_to_name
from antiphon.serving.answering.policy import policy_context
from antiphon.serving.features.lookup_derived import checked_inputs, derive, require_no_inputs
from antiphon.serving.features.lookup_values import EntityFeatures, Lookup, LookupPlan, LookupRequest
from antiphon.serving.features.row_contract import RowContract, joined, masked
from antiphon.serving.ports import PolicyDecider, RemedyFinder

MOST_ENTITIES = 1_000
"""Entities in one request."""

_TRIES = 5


class RowReader(Protocol):
    """Reads rows of one scope in bulk: ``FeatureReader`` of the online store, or ``FeastReader``."""

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
        reads_entities: whether the policies that decide a request look at the entities that are asked about.
        remedies: stand in for stale values where a contract asks for it.
        far: whether reading waits for another machine, so that it must not run on the event loop.
        vectors: reads embedded features.
    """

    def __init__(
        self,
        reader: Callable[[Scope], RowReader],
        decide: PolicyDecider,
        clock: Clock,
        *,
        reads_entities: Callable[[LookupRequest], bool] = lambda request: False,
        remedies: RemedyFinder | None = None,
        far: bool = False,
        vectors: Callable[[Scope], VectorReader] | None = None,
    ) -> None:
        self._reader = reader
        self._decide = decide
        self._clock = clock
        self._reads_entities = reads_entities
        self._remedies = remedies
        self._far = far
        self._vectors = vectors
        self._contracts: dict[tuple[int, SnapshotRows], RowContract] = {}

    async def look_up(self, request: LookupRequest) -> Lookup:
        """:meth:`look_up_now` for an event loop: a store on another machine, a remedy or a vector, which may have to be
        made, is waited for in a thread. Raises the same errors."""
        derived = request.plan.derived
        if (
            self._far
            or (derived is not None and derived.vectors)
            or any(rule_of(one).substitutes for one in request.plan.contracts.values())
        ):
            return await asyncio.to_thread(self.look_up_now, request)
        return self.look_up_now(request)

    def look_up_now(self, request: LookupRequest) -> Lookup:
        """Decide, read, hold against the contracts.

        Raises:
            ForbiddenError: policy does not let this principal read these features, or one of these entities.
            TooLargeError: more entities than one request may have.
            InvalidInputError: no entity, or an entity key is missing.
            FeatureUnavailableError: a view is not published, or the moment is older than its snapshot answers.
            UnavailableError: the minimum publication is not reached, or nothing readable is published.
        """
        entities = request.entities
        if not entities:
            raise InvalidInputError("There is no entity.", where="entities", next_step="Name at least one.")
        if len(entities) > MOST_ENTITIES:
            raise TooLargeError(
                f"There are {len(entities)} entities in one request.",
                where="entities",
                next_step=f"Send at most {MOST_ENTITIES} at a time.",
            )
        as_of = self._clock.now() if request.as_of is None else utc(request.as_of)
        masks = self._masks(request, as_of)
        if request.plan.derived is None:
            require_no_inputs(request)
            return self._read(request, as_of, masks, request.minimum_publication)
        inputs = checked_inputs(request)
        if not request.plan.derived.vectors:
            found = self._read(request, as_of, masks, request.minimum_publication)
            return derive(request, found, inputs, None, masks)
        minimum = request.minimum_publication
        for _ in range(_TRIES):
            vectors = self._read_vectors(request, as_of, minimum)
            found = self._read(request, as_of, masks, vectors.publication)
            if found.publication == vectors.publication:
                return derive(request, found, inputs, vectors, masks)
            minimum = found.publication
        raise UnavailableError(
            "Every time another publication became current before all was read.",
            where="publication",
            next_step="Try again.",
        )

    def _read_vectors(self, request: LookupRequest, as_of: datetime, minimum: int | None) -> VectorRows:
        derived = request.plan.derived
        if self._vectors is None or derived is None:
            raise UnavailableError("Vectors are not looked up here.", where="features", next_step="Leave them out.")
        return self._vectors(request.scope).rows(
            {view: spec for view, (spec, _) in derived.vectors.items()},
            request.entities,
            as_of,
            minimum,
            only={name for _, names in derived.vectors.values() for name in names},
        )

    def _read(
        self, request: LookupRequest, as_of: datetime, masks: list[tuple[str, ...]] | None, minimum: int | None
    ) -> Lookup:
        """The columns of rows."""
        plan, moment = request.plan, microseconds(as_of)
        found = self._reader(request.scope).rows(plan.views, request.entities, moment, minimum)
        names: tuple[str, ...] = ()
        columns: list[list[EntityFeatures]] = []
        for one, rows in found.views:
            contract = self._contract(plan, one)
            names += contract.names
            lines = contract.apply(rows, moment)
            if contract.asks and self._remedies is not None:
                self._stand_in(request, contract, rows, lines, as_of, found.publication)
            columns.append(lines)
        if not columns:
            lines = [EntityFeatures((), (), ())] * len(request.entities)
        else:
            lines = columns[0] if len(columns) == 1 else [joined(parts) for parts in zip(*columns, strict=True)]
        if masks is not None:
            lines = [masked(names, line, mask) for line, mask in zip(lines, masks, strict=True)]
        return Lookup(
            names,
            found.publication,
            moment,
            {one.view: (one.snapshot, one.definition_version, one.made_as_of) for one, _ in found.views},
            lines,
            found.catalog_away,
        )

    def _stand_in(
        self,
        request: LookupRequest,
        contract: RowContract,
        rows: Sequence[EntityRow],
        lines: list[EntityFeatures],
        as_of: datetime,
        publication: int,
    ) -> None:
        """Put other values in the place of stale ones, of all entities that have any in one go."""
        moment = microseconds(as_of)
        places = [place for place, row in enumerate(rows) if contract.stale(row, moment)]
        if not places or self._remedies is None:
            return
        keys = [request.entities[place] for place in places]
        plan, view = request.plan, contract.view
        found = self._remedies(request.scope, (view, plan.views[view]), keys, as_of, plan.contracts[view], publication)
        for place, instead in zip(places, found, strict=True):
            if instead:
                lines[place] = contract.with_remedies(rows[place], moment, instead)

    def _masks(self, request: LookupRequest, as_of: datetime) -> list[tuple[str, ...]] | None:
        """Features that policy masks, of each entity; ``None``: none of any."""
        plan = request.plan
        context = policy_context(
            request.scope, plan.purpose, "online", request.originating_user, request.entities[0], as_of
        )
        if not self._reads_entities(request):
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

    def _contract(self, plan: LookupPlan, one: SnapshotRows) -> RowContract:
        key = (id(plan), one)
        found = self._contracts.get(key)
        if found is None or found.plan is not plan:
            if len(self._contracts) > 1_000:
                self._contracts = {}
            found = self._contracts[key] = RowContract(plan, one)
        return found


def _require(decision: Decision, request: LookupRequest, which: str = "") -> Decision:
    if not decision.allowed:
        raise ForbiddenError(
            f"Policy does not let {request.principal.id} read {request.plan.resource}{which}: {decision.reason}.",
            where="policy",
            next_step=purpose_to_name(decision.policies, request.plan.resource, request.plan.purpose)
            or f"`antiphon policy explain {request.principal.id} answer {request.plan.resource}` "
            "says what would have to hold.",
        )
    return decision
