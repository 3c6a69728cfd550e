"""Rollouts: what is on its way, what the judge said of it, and a hand on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from antiphon.catalog.releases.evidence import ArmCount, PairCount
from antiphon.catalog.releases.rollouts import JudgedMetric, RolloutRecord
from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.definitions.own_metrics import ShadowMeasure
from antiphon.gateway.admin.shapes import ReasonRequest, read, read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation

USERS = 300
"""Canary users that a declaration is made for when nobody says how many there will be."""


class RolloutQuery(msgspec.Struct, frozen=True):
    """Selects rollouts."""

    application: str | None = None
    limit: Few = 50


class Depth(msgspec.Struct, frozen=True):
    """The last so many judgements; and for how many canary users it is said what can be decided."""

    judgements: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    users: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = USERS


class RolloutRequest(msgspec.Struct, frozen=True):
    """A validated release; with ``force`` any, and then ``reason`` says why."""

    release: str
    reason: str = ""
    force: bool = False


class RolloutLine(msgspec.Struct, frozen=True):
    """A rollout; ``weight`` is the share of users in each arm now."""

    id: str
    application: str
    candidate: str
    control: str
    plan: Rollout
    state: str
    step: int
    weight: float
    held: bool
    reason: str
    principal: str
    created_at: datetime
    entered_at: datetime
    ended_at: datetime | None


class RolloutList(msgspec.Struct, frozen=True):
    """Latest first."""

    rollouts: tuple[RolloutLine, ...]


class MoveLine(msgspec.Struct, frozen=True):
    """A rollout entering a state or step, and why."""

    sequence: int
    state: str
    step: int
    held: bool
    reason: str
    principal: str
    at: datetime


class JudgementLine(msgspec.Struct, frozen=True):
    """The judge's decision in a sentence, with the e-values and the bounds that they are held against."""

    sequence: int
    state: str
    step: int
    decision: Literal["promote", "hold", "roll_back"]
    sentence: str
    metrics: tuple[JudgedMetric, ...]
    harm: float
    harm_bound: float
    safe_bound: float
    created_at: datetime


class RolloutDetail(msgspec.Struct, frozen=True):
    """A rollout with its evidence: moves and judgements first to last, and what it can decide, in words."""

    rollout: RolloutLine
    moves: tuple[MoveLine, ...]
    judgements: tuple[JudgementLine, ...]
    arms: tuple[ArmCount, ...]
    pairs: PairCount
    declaration: str


@operation("GET", "/admin/rollouts", "List rollouts, latest first.", "read")
def _list(call: OperationCall, query: RolloutQuery) -> RolloutList:
    found = call.services.learning.rollouts.list(call.scope, query.application, query.limit)
    return RolloutList(read_all(found, RolloutLine))


@operation("POST", "/admin/rollouts", "Send a validated release on its way beside the live one.", "release", status=201)
def _begin(call: OperationCall, body: RolloutRequest) -> RolloutLine:
    reason = body.reason or ("" if body.force else "asked for over the admin interface")
    begun = call.services.learning.transitions.begin(
        call.scope, body.release, principal=call.principal.id, reason=reason, force=body.force, by=call.principal
    )
    return read(begun, RolloutLine)


@operation("GET", "/admin/rollouts/{rollout}", "A rollout: moves, judgements, counts, and what it can decide.", "read")
def _get(call: OperationCall, query: Depth) -> RolloutDetail:
    return detail(call, call.path["rollout"], query.judgements, query.users)


def detail(call: OperationCall, rollout: str, judgements: int, users: int) -> RolloutDetail:
    """A rollout with its evidence."""
    learning, scope = call.services.learning, call.scope
    found = learning.rollouts.get(scope, rollout)
    application = learning.releases.get(scope, found.candidate).bundle.application
    return RolloutDetail(
        rollout=read(found, RolloutLine),
        moves=read_all(learning.rollouts.moves(scope, rollout), MoveLine),
        judgements=read_all(learning.judgements.of(scope, rollout, judgements), JudgementLine),
        arms=learning.exposures.count(found),
        pairs=learning.pairs.count(scope, rollout),
        declaration=declared(found.plan, users, application.shadow_measure, application.slo),
    )


@lru_cache(maxsize=64)
def declared(plan: Rollout, users: int, measure: ShadowMeasure, slo: SLO) -> str:
    """Describes in words what a plan can decide. It is simulated, which takes a second or two, and always comes out
    the same."""
    from antiphon.releases.declaration import declaration

    return declaration(plan, users, measure=measure, slo=slo)


@operation("POST", "/admin/rollouts/{rollout}/hold", "Let nothing move a rollout; both arms keep answering.", "release")
def _hold(call: OperationCall, body: ReasonRequest) -> RolloutLine:
    return _moved(call, call.services.learning.transitions.hold, body)


@operation("POST", "/admin/rollouts/{rollout}/resume", "Let a held rollout go on.", "release")
def _resume(call: OperationCall, body: ReasonRequest) -> RolloutLine:
    return _moved(call, call.services.learning.transitions.resume, body)


@operation(
    "POST",
    "/admin/rollouts/{rollout}/abort",
    "End a rollout without a verdict; its candidate may be sent again.",
    "release",
)
def _abort(call: OperationCall, body: ReasonRequest) -> RolloutLine:
    return _moved(call, call.services.learning.transitions.abort, body)


@operation(
    "POST", "/admin/rollouts/{rollout}/undo", "Roll a rollout back: all users are on the live release again.", "release"
)
def _undo(call: OperationCall, body: ReasonRequest) -> RolloutLine:
    return _moved(call, call.services.learning.transitions.undo, body)


def _moved(call: OperationCall, move: Callable[..., RolloutRecord], body: ReasonRequest) -> RolloutLine:
    return read(move(call.scope, call.path["rollout"], principal=call.principal.id, reason=body.reason), RolloutLine)
