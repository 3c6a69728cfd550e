"""A request as it came in, and which release answers it: decided once, so that it ends as it began."""

from __future__ import annotations

import time

import msgspec

from antiphon.catalog.receipts import STAND_IN_ROLES
from antiphon.catalog.releases import Release
from antiphon.catalog.rollouts import Assigned
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, keyed_hash, new_id
from antiphon.serving.request import AnswerRequest


class Arrival(msgspec.Struct, frozen=True):
    """A request before anything was decided about it.

    Attributes:
        subject: keyed hash (hex) of the entity's keys.
        exposure_unit: who is exposed, as the caller named it: a unit of its own, a user, or else the subject.
        unit: its keyed hash (hex), by which a rollout assigns; it says nothing about who it is.
        arrived: the process's performance counter. ``queued``: seconds until there was a place.
    """

    request: AnswerRequest
    request_id: str
    subject: str
    exposure_unit: str
    unit: str
    arrived: float
    queued: float

    @property
    def seconds(self) -> float:
        """Wall seconds since it arrived."""
        return time.perf_counter() - self.arrived

    @property
    def takes_part(self) -> bool:
        """Whether a rollout may assign it: a user's question that leaves the release open, and that somebody waits for:
        how long flex work takes says nothing of a release."""
        request = self.request
        return request.path == "online" and request.release is None and request.tier != "flex"


def arrive(request: AnswerRequest, key: bytes, arrived: float) -> Arrival:
    """The request with its keyed hashes.

    Raises:
        InvalidInputError: its role is not one that can be asked for, or lacks what it needs.
    """
    _check_role(request)
    subject = keyed_hash(key, f"{request.scope}|{canonical(request.entity).decode()}").hex()
    exposure_unit = request.exposure_unit or request.originating_user or subject
    return Arrival(
        request=request,
        request_id=request.request_id or new_id("req"),
        subject=subject,
        exposure_unit=exposure_unit,
        unit=keyed_hash(key, f"{request.scope}|unit|{exposure_unit}").hex(),
        arrived=arrived,
        queued=time.perf_counter() - arrived,
    )


def as_requested(request: AnswerRequest, release: Release) -> Assigned:
    """The assignment of a request that no rollout decides about."""
    rollout = request.mirrors.rollout if request.mirrors is not None else None
    return Assigned(release=release, role=request.role, rollout=rollout)


def cache_namespace(request: AnswerRequest, assigned: Assigned) -> str | None:
    """Where stored answers for this request live; ``None``: none is read and none is kept.

    Both arms of a rollout begin without a stored answer: if the control were served what the live release has
    gathered, the candidate would be compared with a warm cache. What an evaluation or a shadow says must come from
    the model, and is nobody's answer afterwards; a part of an output is no whole answer.
    """
    if assigned.role in ("shadow", "evaluation") or request.only:
        return None
    if assigned.role in ("canary", "control"):
        return f"{assigned.release.id}~{assigned.rollout}"
    return assigned.release.id


def _check_role(request: AnswerRequest) -> None:
    if request.role in ("canary", "control", *STAND_IN_ROLES):
        raise InvalidInputError(
            f"The role {request.role!r} is given by a rollout or to what stands in, and cannot be asked for.",
            where="role",
            next_step="Leave the role out, and name a release to ask that one.",
        )
    if request.role != "live" and request.release is None:
        raise InvalidInputError(
            f"A request in the role {request.role!r} must name its release.",
            where="release",
            next_step="Name the release that is to answer.",
        )
    if (request.role == "shadow") != (request.mirrors is not None):
        raise InvalidInputError("A shadow mirrors one online answer, and nothing else does.", where="role")
