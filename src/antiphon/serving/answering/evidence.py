"""Evidence of a rollout: the exposure of a user in one of its arms, or a pair of live answer and shadow.

Pure: the values are made here and committed by ``recorder``. An exposure has its request's id, so that one request
is one exposure even when its first recording was committed and said to have failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from antiphon.catalog.releases.rollouts import Assignment, Exposure, ShadowPair
from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES, Receipt
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, InvalidOutputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO, ApplicationSpec
from antiphon.serving.answering.context import Arrival
from antiphon.serving.answering.probabilities import outcome_probabilities
from antiphon.serving.request import MirroredAnswer


def answered(arrival: Arrival, assigned: Assignment, receipt: Receipt, replaced: bool) -> Exposure | None:
    """The exposure behind an answer; ``None`` for a user in no arm.

    A substitute is not an answer of the release: its arm failed this user, as it would have without a substitute. The
    start of an engine that was stopped says nothing about it.

    Args:
        replaced: whether the served text has a guard's fallback in it, from this request or from when it was made.
    """
    return _exposure(
        arrival,
        assigned,
        error=receipt.role if receipt.role in STAND_IN_ROLES else None,
        invalid=replaced,
        generated=receipt.cache.origin == "generated",
        first_byte=receipt.timing.first_byte - receipt.timing.start,
        seconds=receipt.timing.total - receipt.timing.start,
        tokens=receipt.usage.prompt_tokens + receipt.usage.completion_tokens,
        publication=receipt.publication,
        prediction=receipt.prediction,
        created_at=receipt.created_at,
    )


def failed(
    arrival: Arrival, assigned: Assignment, publication: int | None, error: Exception, moment: datetime
) -> Exposure | None:
    """The exposure of a user who got no answer; ``None`` for a user in no arm."""
    seconds = arrival.seconds
    return _exposure(
        arrival,
        assigned,
        error=code_of(error),
        invalid=isinstance(error, InvalidOutputError),
        generated=False,
        first_byte=seconds,
        seconds=seconds,
        publication=publication,
        prediction=None,
        created_at=moment,
    )


def answered_events(receipt: Receipt, slo: SLO, replaced: bool) -> Iterator[str]:
    """The events of an online request that a release answered or left to a substitute; none of any other answer."""
    if receipt.path != "online" or receipt.role not in SEEN_ROLES + STAND_IN_ROLES:
        return
    yield "requests"
    if receipt.role in STAND_IN_ROLES:
        yield "failed"
        return
    if replaced:
        yield "invalid"
    if receipt.cache.origin == "generated":
        yield "generated"
        waited = receipt.timing.start
        if receipt.timing.first_byte - waited > parse_duration(slo.ttft_p99).total_seconds():
            yield "late_first_byte"
        if receipt.timing.total - waited > parse_duration(slo.latency_p99).total_seconds():
            yield "late"


def failed_events(assigned: Assignment, error: Exception) -> Iterator[str]:
    """The events of an online request that got no answer; none where it was the caller's doing."""
    invalid = isinstance(error, InvalidOutputError)
    of_caller = isinstance(error, AntiphonError) and not error.of_platform and not invalid
    if assigned.role not in SEEN_ROLES or of_caller:
        return
    yield from ("requests", "failed")
    if invalid:
        yield "invalid"


def _exposure(arrival: Arrival, assigned: Assignment, **outcome: Any) -> Exposure | None:
    if assigned.role not in ("canary", "control") or assigned.rollout is None:
        return None
    return Exposure(
        rollout=assigned.rollout,
        id=arrival.request_id,
        scope=arrival.request.scope,
        unit=arrival.unit,
        arm=assigned.role,
        step=assigned.step,
        probability=assigned.probability,
        **outcome,
    )


def uses_template(receipt: Receipt) -> bool:
    """Tells whether a guard put its fallback into this receipt's text."""
    return any(action.action == "template" for action in receipt.guards)


def paired(mirrors: MirroredAnswer, application: ApplicationSpec, receipt: Receipt, text: str) -> ShadowPair:
    """The online answer and the shadow's receipt and text, side by side."""
    return ShadowPair(
        rollout=mirrors.rollout,
        scope=receipt.scope,
        prediction=mirrors.prediction,
        shadow=receipt.prediction,
        error=None,
        same_text=receipt.text_blob == mirrors.text_blob,
        live_probabilities=mirrors.probabilities,
        shadow_probabilities=outcome_probabilities(application.shape, receipt.classes, text),
        live_seconds=mirrors.seconds,
        shadow_seconds=receipt.timing.total - receipt.timing.start,
        created_at=receipt.created_at,
    )


def unpaired(mirrors: MirroredAnswer, scope: Scope, code: str, seconds: float, moment: datetime) -> ShadowPair:
    """An online answer without an answer of the candidate."""
    return ShadowPair(
        rollout=mirrors.rollout,
        scope=scope,
        prediction=mirrors.prediction,
        shadow=None,
        error=code,
        same_text=False,
        live_probabilities=mirrors.probabilities,
        shadow_probabilities={},
        live_seconds=mirrors.seconds,
        shadow_seconds=seconds,
        created_at=moment,
    )


def code_of(error: Exception) -> str:
    """The error's code; an unexpected error is an internal one."""
    return error.code if isinstance(error, AntiphonError) else AntiphonError.code
