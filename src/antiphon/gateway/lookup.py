"""``POST /v1/features/lookup``: feature values of many entities. Authenticates and translates; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.clock import from_microseconds
from antiphon.core.errors import InvalidInputError, TooLargeError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.gateway.http import incoming
from antiphon.gateway.http.bounds import Number
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.services import GatewayServices
from antiphon.serving.features.lookup import MOST_ENTITIES
from antiphon.serving.features.lookup_values import Lookup, LookupRequest, LookupValue, ages, moments

Key = str | int
InputJson = float | int | str | bool | None


class FeatureLookupBody(msgspec.Struct, frozen=True):
    """A lookup of features.

    Attributes:
        entities: the key columns of each entity.
        features: ``view`` or ``view.feature``; may be left out with an application, whose features are meant then. A
            whole view is without its vectors, which are named.
        application: hold the values against the freshness contracts of its live release.
        as_of: the moment; now by default.
        minimum_publication: a publication that was answered from before.
        purpose: what the values are for; an application has its own.
        user: on whose behalf.
        inputs: what on-demand features are told: one object for all entities, or a list with one for each. With an
            application and no features, its on-demand features are looked up too.
    """

    entities: Annotated[tuple[dict[str, Key], ...], msgspec.Meta(min_length=1, max_length=MOST_ENTITIES)]
    features: tuple[str, ...] = ()
    application: str | None = None
    as_of: datetime | None = None
    minimum_publication: Number | None = None
    purpose: str = ""
    user: str | None = None
    inputs: dict[str, InputJson] | tuple[dict[str, InputJson], ...] | None = None


class LookupSnapshot(msgspec.Struct, frozen=True):
    """The snapshot that a view's values come from."""

    snapshot: str
    definition_version: str
    as_of: datetime


class LookupEntity(msgspec.Struct, frozen=True):
    """One entity; every list is in the order of ``features``.

    ``known`` says whether any event of it is known. ``ages`` are seconds between the latest event in a value and
    ``as_of``. ``contracts`` say what happened: fresh, absent, flagged, previous, recomputed, defaulted, rejected,
    masked; the last three withhold the value. ``instead`` names the snapshot of a value that stands in for a stale one.
    A vector's value is a list of float32 numbers.
    """

    entity: Mapping[str, Key]
    known: bool
    values: tuple[LookupValue, ...]
    event_times: list[datetime | None]
    ages: list[float | None]
    contracts: tuple[str, ...]
    instead: dict[str, str | None] = {}


class FeatureLookupAnswer(msgspec.Struct, frozen=True):
    """The values found, all of one publication; ``models`` has what made each feature that is a vector."""

    publication: int
    as_of: datetime
    features: tuple[str, ...]
    snapshots: dict[str, LookupSnapshot]
    entities: list[LookupEntity]
    catalog_away: bool = False
    models: dict[str, EmbeddingModel] = {}


async def lookup(request: Request) -> Response:
    """The endpoint."""
    services: GatewayServices = request.app.state.services
    principal = await incoming.principal(request, services)
    given = incoming.json_object(await incoming.body(request, services.settings.gateway.max_body_bytes))
    sent = given.get("entities")
    if isinstance(sent, list) and len(sent) > MOST_ENTITIES:
        raise TooLargeError(
            f"There are {len(sent)} entities in one request.",
            where="entities",
            next_step=f"Send at most {MOST_ENTITIES} at a time.",
        )
    body = incoming.typed(given, FeatureLookupBody)
    if body.application is not None and body.purpose:
        raise InvalidInputError(
            "An application has a purpose of its own.", where="purpose", next_step="Leave out one of the two."
        )
    lookups, scope = services.features.lookups, services.scope(principal)
    planned = partial(lookups.plan, computed=body.inputs is not None)
    plan = await run_in_threadpool(planned, scope, body.features, body.application, body.purpose)
    found = await lookups.look_up(
        LookupRequest(
            scope=scope,
            principal=principal,
            plan=plan,
            entities=[{name: str(value) for name, value in entity.items()} for entity in body.entities],
            as_of=body.as_of,
            minimum_publication=body.minimum_publication,
            originating_user=incoming.originating_user(request, principal, body.user),
            inputs=body.inputs or {},
        )
    )
    return JsonResponse(answer(found, body.entities))


def answer(found: Lookup, entities: Sequence[Mapping[str, Key]]) -> FeatureLookupAnswer:
    """The lookup as it is sent."""
    return FeatureLookupAnswer(
        publication=found.publication,
        as_of=from_microseconds(found.as_of),
        features=found.features,
        snapshots={view: LookupSnapshot(*one) for view, one in found.snapshots.items()},
        entities=[
            LookupEntity(
                entity, line.known, line.values, moments(line), ages(line, found.as_of), line.contracts, line.instead
            )
            for entity, line in zip(entities, found.entities, strict=True)
        ],
        catalog_away=found.catalog_away,
        models=found.models,
    )
