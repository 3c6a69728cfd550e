"""Rollouts: a candidate release on its way beside the live one, and the evidence about both.

Invariants: at most one rollout of an application is under way; its moves are a sequence that only grows; a move of a
rollout, the stages of its releases and the live pointer change in one transaction.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.rows import missing, next_moment, row_of, value_of
from antiphon.catalog.serving.receipt import Role
from antiphon.core.clock import utc
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.ids import canonical, new_id
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout

RolloutState = Literal["shadow", "canary", "promoted", "rolled_back", "aborted"]
Arm = Literal["canary", "control"]


class RolloutRecord(msgspec.Struct, frozen=True):
    """One rollout.

    Attributes:
        candidate, control: release ids; the control is the release that was live at the start.
        step: index into ``plan.canary`` while in the canary.
        held: it does not move until an operator releases it.
        entered_at: when the present state and step began; ``ended_at`` ``None`` while it is under way.
    """

    id: str
    scope: Scope
    application: str
    candidate: str
    control: str
    plan: Rollout
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


class Assignment(msgspec.Struct, frozen=True):
    """The release that answers a request, and its role.

    Attributes:
        probability: with which this unit came into its arm; 1 for a user outside the rollout.
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
        first_byte, seconds: wall seconds from arrival. tokens: of prompt and output together; 0 of a failure.
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
    tokens: int = 0


class ShadowPair(msgspec.Struct, frozen=True):
    """One online answer and what the candidate said to the same request, off the user's path.

    Attributes:
        live_probabilities, shadow_probabilities: those that each gave to the labels that are scored; empty for none.
    """

    rollout: str
    scope: Scope
    prediction: str
    shadow: str | None
    error: str | None
    same_text: bool
    live_probabilities: dict[str, float]
    shadow_probabilities: dict[str, float]
    live_seconds: float
    shadow_seconds: float
    created_at: datetime


class JudgedMetric(msgspec.Struct, frozen=True):
    """One metric as the judge saw it.

    ``harm`` is the e-value against "the candidate is no worse", ``safe`` the one against "it is worse than allowed".
    ``canary_good`` and ``control_good`` count values of a signal that speak for an answer.
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
    canary_good: int = 0
    control_good: int = 0


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


class RoutingState(msgspec.Struct, frozen=True):
    """Routing input of a gateway: the live release's id and the rollout under way, of one read transaction."""

    live: str | None
    rollout: RolloutRecord | None = None


UNDER_WAY: tuple[RolloutState, ...] = ("shadow", "canary")
"""The states in which a rollout has not ended."""

_plan = msgspec.json.Decoder(Rollout)


class Rollouts:
    """Repository of rollouts and their moves. Which releases are in which stage is ``catalog.releases``'s."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self,
        scope: Scope,
        application: str,
        candidate: str,
        control: str,
        plan: Rollout,
        principal: str,
        reason: str,
        *,
        state: RolloutState,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Record a rollout in its first state, with its first move.

        Raises:
            ConflictError: one is under way already.
        """
        now = utc(self._database.clock.now())
        rollout = RolloutRecord(
            id=new_id("roll"),
            scope=scope,
            application=application,
            candidate=candidate,
            control=control,
            plan=plan,
            state=state,
            step=0,
            held=False,
            reason=reason,
            principal=principal,
            created_at=now,
            entered_at=now,
            ended_at=None if state in UNDER_WAY else now,
        )
        with self._database.writing(within) as connection:
            releases = schema.releases.c.id
            named = select(func.count()).where(schema.owned(schema.releases, scope), releases.in_((candidate, control)))
            if connection.execute(named).scalar() != len({candidate, control}):
                raise NotFoundError(
                    f"The release {candidate!r} or {control!r} does not exist.",
                    where=str(scope),
                    next_step=f"See `antiphon releases list {application}`.",
                )
            statement = upsert(schema.rollouts).values(_row(rollout)).on_conflict_do_nothing()
            if not connection.execute(statement).rowcount:
                raise ConflictError(
                    f"A rollout of {application!r} is under way already.",
                    where=str(scope),
                    next_step="Wait for it, or end it with `antiphon releases abort` or `antiphon rollback`.",
                )
            self._add_move(connection, rollout, 1, now)
        return rollout

    def get(self, scope: Scope, rollout: str, *, within: Connection | None = None) -> RolloutRecord:
        """One rollout.

        Raises:
            NotFoundError: there is none of this id here.
        """
        found = self._select(scope, within, schema.rollouts.c.id == rollout)
        if not found:
            raise missing("rollout", rollout, scope, "See `antiphon releases rollouts`.")
        return found[0]

    def list(self, scope: Scope, application: str | None = None, limit: int = 50) -> builtins.list[RolloutRecord]:
        """Rollouts, latest first."""
        return self._select(scope, None, *schema.given(schema.rollouts, application=application), limit=limit)

    def list_active(self, scope: Scope) -> builtins.list[RolloutRecord]:
        """Every rollout under way, latest first."""
        return self._select(scope, None, schema.rollouts.c.ended_at.is_(None))

    def active(self, scope: Scope, application: str, *, within: Connection | None = None) -> RolloutRecord | None:
        """The application's rollout under way, ``None`` when there is none."""
        table = schema.rollouts
        found = self._select(scope, within, table.c.application == application, table.c.ended_at.is_(None))
        return found[0] if found else None

    def routing_state(self, scope: Scope, application: str) -> RoutingState:
        """The live release and the rollout under way, of one read transaction."""
        table = schema.release_pointers
        pointed = select(table.c.release).where(schema.owned(table, scope, application=application))
        with self._database.read() as connection:
            live = connection.execute(pointed.order_by(table.c.sequence.desc()).limit(1)).scalar()
            return RoutingState(live, self.active(scope, application, within=connection) if live is not None else None)

    def move(
        self,
        scope: Scope,
        rollout: str,
        *,
        state: RolloutState,
        step: int,
        held: bool,
        reason: str,
        principal: str,
        expected: tuple[RolloutState, int],
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Move a rollout by compare-and-swap on the state and step it is in; the move is recorded.

        Raises:
            NotFoundError: there is none of this id here.
            ConflictError: it has ended, or was moved since it was ``expected``.
        """
        with self._database.writing(within) as connection:
            before = self.get(scope, rollout, within=connection)
            if before.ended_at is not None or (before.state, before.step) != expected:
                raise ConflictError(
                    f"The rollout is {described(before)}, not {expected[0]} at step {expected[1] + 1}: "
                    f"{before.principal} moved it ({before.reason}).",
                    where=rollout,
                    next_step="Look at it again with `antiphon releases rollouts`.",
                )
            moves = self.moves(scope, rollout, within=connection)
            now = next_moment(self._database.clock, moves)
            moved = msgspec.structs.replace(
                before,
                state=state,
                step=step,
                held=held,
                reason=reason,
                principal=principal,
                entered_at=before.entered_at if (state, step) == expected else now,
                ended_at=None if state in UNDER_WAY else now,
            )
            table = schema.rollouts
            connection.execute(update(table).where(schema.owned(table, scope, id=rollout)).values(_row(moved)))
            self._add_move(connection, moved, len(moves) + 1, now)
        return moved

    def moves(self, scope: Scope, rollout: str, *, within: Connection | None = None) -> builtins.list[RolloutMove]:
        """Every move of a rollout, first to last."""
        table = schema.rollout_moves
        statement = select(table).where(schema.owned(table, scope, rollout=rollout)).order_by(table.c.sequence)
        return [value_of(RolloutMove, row) for row in self._database.rows(statement, within)]

    def _add_move(self, connection: Connection, rollout: RolloutRecord, sequence: int, at: datetime) -> None:
        row = row_of(schema.rollout_moves, rollout, rollout=rollout.id, sequence=sequence, at=at)
        connection.execute(insert(schema.rollout_moves).values(row))
        self._database.ring("releases", rollout.scope)

    def _select(
        self, scope: Scope, within: Connection | None, *conditions: ColumnElement[bool], limit: int | None = None
    ) -> builtins.list[RolloutRecord]:
        table = schema.rollouts
        statement = select(table).where(schema.owned(table, scope), *conditions)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit))
            return [value_of(RolloutRecord, row, plan=_plan.decode(row.plan)) for row in rows]


def described(rollout: RolloutRecord) -> str:
    """Describes a rollout's position in words: ``in the canary at 10 % (step 2 of 3)``."""
    held = ", held" if rollout.held else ""
    if rollout.state == "canary":
        steps = rollout.plan.canary
        return f"in the canary at {steps[rollout.step]} % (step {rollout.step + 1} of {len(steps)}){held}"
    words = {"shadow": "in shadow", "promoted": "promoted", "rolled_back": "rolled back", "aborted": "aborted"}
    return words[rollout.state] + held


def _row(rollout: RolloutRecord) -> dict[str, Any]:
    return row_of(schema.rollouts, rollout, plan=canonical(rollout.plan))
