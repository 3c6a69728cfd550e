"""Rollouts: a candidate release on its way beside the live one, and the evidence about both.

Invariants: at most one rollout of an application is under way; its moves are a sequence that only grows; a move of a
rollout, the stages of its releases and the live pointer change in one transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.receipts import Role
from antiphon.catalog.releases import Release
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout as RolloutPlan

RolloutState = Literal["shadow", "canary", "promoted", "rolled_back", "aborted"]
Arm = Literal["canary", "control"]


class Rollout(msgspec.Struct, frozen=True):
    """One rollout.

    Attributes:
        candidate, control: release ids; the control is the release that was live at the start.
        step: index into ``plan.canary`` while in the canary.
        held: nothing moves until somebody says so.
        entered_at: when the present state and step began; ``ended_at`` ``None`` while it is under way.
    """

    id: str
    scope: Scope
    application: str
    candidate: str
    control: str
    plan: RolloutPlan
    state: RolloutState
    step: int
    held: bool
    reason: str
    principal: str
    created_at: datetime
    entered_at: datetime
    ended_at: datetime | None

    @property
    def weight(self) -> float:
        """Share of users in each arm now."""
        return self.plan.canary[self.step] / 100 if self.state == "canary" else 0.0


class RolloutMove(msgspec.Struct, frozen=True):
    """A rollout entering a state or step, with the sentence that says why."""

    rollout: str
    sequence: int
    state: RolloutState
    step: int
    held: bool
    reason: str
    principal: str
    at: datetime


class Assigned(msgspec.Struct, frozen=True):
    """Which release answers a request, and in which capacity.

    Attributes:
        probability: with which this unit came into its arm; 1 for somebody outside the rollout.
        mirror: the candidate that is to answer the same request in shadow, off the user's path.
    """

    release: Release
    role: Role = "live"
    rollout: str | None = None
    step: int = 0
    probability: float = 1.0
    mirror: Release | None = None


class Exposure(msgspec.Struct, frozen=True):
    """One request of a user in the canary or in its control, answered or failed.

    Attributes:
        unit: keyed hash of who was exposed. ``probability``: with which the unit came into its arm.
        error: code of the error it ended with. ``invalid``: a guard had to replace the output, or it met no schema.
        generated: whether the engine wrote it; a stored answer says nothing about latency.
        first_byte, seconds: wall seconds from arrival.
    """

    rollout: str
    id: str
    scope: Scope
    unit: str
    arm: Arm
    step: int
    probability: float
    error: str | None
    invalid: bool
    generated: bool
    first_byte: float
    seconds: float
    publication: int | None
    prediction: str | None
    created_at: datetime


class ShadowPair(msgspec.Struct, frozen=True):
    """One online answer and what the candidate said to the same request, off the user's path."""

    rollout: str
    scope: Scope
    prediction: str
    shadow: str | None
    error: str | None
    same_text: bool
    live_probability: float | None
    shadow_probability: float | None
    live_seconds: float
    shadow_seconds: float
    created_at: datetime


class JudgedMetric(msgspec.Struct, frozen=True):
    """One metric as the judge saw it.

    ``harm`` is the e-value against "the candidate is no worse", ``safe`` the one against "it is worse than allowed".
    """

    name: str
    canary_units: int
    canary_bad: float
    control_units: int
    control_bad: float
    harm: float
    safe: float
    weight: float
    note: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """One decision: ``sentence`` says it in words, with the figures that decided."""

    rollout: str
    sequence: int
    scope: Scope
    state: RolloutState
    step: int
    decision: Literal["promote", "hold", "roll_back"]
    sentence: str
    metrics: tuple[JudgedMetric, ...]
    harm: float
    harm_bound: float
    safe_bound: float
    created_at: datetime
