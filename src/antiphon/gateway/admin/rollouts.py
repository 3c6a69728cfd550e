"""Rollouts: what is on its way, what the judge said of it, and a hand on it."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec

from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout
from antiphon.gateway.admin import release_shapes, shapes
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices

USERS = 300
"""Canary users that a declaration is made for when nobody says how many there will be."""

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class RolloutQuery(msgspec.Struct, frozen=True):
    """Selects rollouts."""

    application: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class Depth(msgspec.Struct, frozen=True):
    """The last so many judgements; and for how many canary users it is said what can be decided."""

    judgements: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    users: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = USERS


class RolloutRequest(msgspec.Struct, frozen=True):
    """A validated release; with ``force`` any, and then ``reason`` says why."""

    release: str
    reason: str = ""
    force: bool = False


class RolloutMoveRequest(msgspec.Struct, frozen=True):
    """The reason, for the record."""

    reason: Reason


def _list(call: OperationCall) -> release_shapes.RolloutList:
    query: RolloutQuery = call.query
    found = call.services.learning.rollouts.list(call.scope, query.application, query.limit)
    return release_shapes.RolloutList(tuple(map(release_shapes.rollout_line, found)))


def _get(call: OperationCall) -> release_shapes.RolloutDetail:
    query: Depth = call.query
    return detail(call.services, call.scope, call.path["rollout"], query.judgements, query.users)


def detail(
    services: GatewayServices, scope: Scope, rollout: str, judgements: int, users: int
) -> release_shapes.RolloutDetail:
    """A rollout with its evidence."""
    learning = services.learning
    found = learning.rollouts.get(scope, rollout)
    return release_shapes.RolloutDetail(
        rollout=release_shapes.rollout_line(found),
        moves=shapes.read_all(learning.rollouts.moves(scope, rollout), release_shapes.MoveLine),
        judgements=shapes.read_all(learning.judgements.of(scope, rollout, judgements), release_shapes.JudgementLine),
        arms=learning.exposures.count(found),
        pairs=learning.pairs.count(scope, rollout),
        declaration=declared(found.plan, users),
    )


@lru_cache(maxsize=64)
def declared(plan: Rollout, users: int) -> str:
    """Describes in words what a plan can decide. It is simulated, which takes a second or two, and always comes out
    the same."""
    from antiphon.releases.declaration import declaration

    return declaration(plan, users)


def _begin(call: OperationCall) -> release_shapes.RolloutLine:
    body: RolloutRequest = call.body
    reason = body.reason or ("" if body.force else "asked for over the admin interface")
    begun = call.services.learning.transitions.begin(
        call.scope, body.release, principal=call.principal.id, reason=reason, force=body.force, by=call.principal
    )
    return release_shapes.rollout_line(begun)


def _hold(call: OperationCall) -> release_shapes.RolloutLine:
    moved = call.services.learning.transitions.hold(
        call.scope, call.path["rollout"], principal=call.principal.id, reason=call.body.reason
    )
    return release_shapes.rollout_line(moved)


def _resume(call: OperationCall) -> release_shapes.RolloutLine:
    moved = call.services.learning.transitions.resume(
        call.scope, call.path["rollout"], principal=call.principal.id, reason=call.body.reason
    )
    return release_shapes.rollout_line(moved)


def _abort(call: OperationCall) -> release_shapes.RolloutLine:
    moved = call.services.learning.transitions.abort(
        call.scope, call.path["rollout"], principal=call.principal.id, reason=call.body.reason
    )
    return release_shapes.rollout_line(moved)


def _undo(call: OperationCall) -> release_shapes.RolloutLine:
    moved = call.services.learning.transitions.undo(
        call.scope, call.path["rollout"], principal=call.principal.id, reason=call.body.reason
    )
    return release_shapes.rollout_line(moved)


OPERATIONS = (
    Operation(
        "GET",
        "/admin/rollouts",
        "List rollouts, latest first.",
        "read",
        release_shapes.RolloutList,
        _list,
        RolloutQuery,
    ),
    Operation(
        "POST",
        "/admin/rollouts",
        "Send a validated release on its way beside the live one.",
        "release",
        release_shapes.RolloutLine,
        _begin,
        body=RolloutRequest,
        status=201,
    ),
    Operation(
        "GET",
        "/admin/rollouts/{rollout}",
        "A rollout: moves, judgements, counts, and what it can decide.",
        "read",
        release_shapes.RolloutDetail,
        _get,
        Depth,
    ),
    *(
        Operation(
            "POST",
            f"/admin/rollouts/{{rollout}}/{run.__name__.strip('_')}",
            summary,
            "release",
            release_shapes.RolloutLine,
            run,
            body=RolloutMoveRequest,
        )
        for run, summary in (
            (_hold, "Let nothing move a rollout; both arms keep answering."),
            (_resume, "Let a held rollout go on."),
            (_abort, "End a rollout without a verdict; its candidate may be sent again."),
            (_undo, "Roll a rollout back: everybody is on the live release again."),
        )
    ),
)
