"""A rollout's transitions: each moves the rollout, the stages of its releases, the live pointer and the audit at once.

Invariants, of every committed state of the catalog:
- The live pointer stays on the control until the promotion, and is on the candidate from then on; undoing before
  the promotion moves no pointer.
- The candidate's stage is the rollout's state while it is under way, and ``live``, ``rolled_back`` or what it was
  before when it has ended.
- Of two that move a rollout at the same time, one wins; the other gets a ``ConflictError`` that names the winner.

Transitions decide nothing: who calls them (a person, or the judge through ``orchestration.rollouts``) did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Activation, Release, Releases, Stage
from antiphon.catalog.releases.rollouts import UNDER_WAY, RolloutRecord, Rollouts, RolloutState, described
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.releases.candidate import (
    FeatureExists,
    GateClearance,
    check_candidate,
    check_features,
    clearance,
    first_state,
    next_step,
    require_gates,
    require_reason,
    unread,
)

Position = tuple[RolloutState, int]

ModelChange = Callable[[Release, datetime], str | None]
"""Says, in words, that a release's model is not the one that was served at a moment; ``None`` if nothing shows it."""

PromotionPolicy = Callable[[Release, bool, Principal, str, bool], None]
"""Policy about making a release reach users: release, gates passed, principal, reason, forced.

Raises ``ForbiddenError``.
"""


class RollbackResult(msgspec.Struct, frozen=True):
    """The result of going back.

    Attributes:
        release: the release that answers everybody now.
        left: the release that answers nobody any more.
        rollout: the rollout that was undone, which moves no pointer; ``None`` when the pointer moved.
    """

    application: str
    release: str
    left: str
    rollout: RolloutRecord | None = None


@dataclass(frozen=True)
class RolloutTransitions:
    """Begins, advances and ends rollouts, and goes back.

    Attributes:
        database: the catalog, whose transactions hold each transition together.
        audit: records each transition in its transaction.
        feature_exists: asked about every view that a release pins, before it sees traffic in place of another.
        promotion: policy about making a release reach users; ``None`` permits.
        model_change: asked about the model of a release before it reaches more users than it did; ``None`` where models
            do not change by themselves.
    """

    database: Database
    releases: Releases
    rollouts: Rollouts
    _: KW_ONLY
    audit: AuditLog
    feature_exists: FeatureExists
    promotion: PromotionPolicy | None = None
    model_change: ModelChange | None = None

    def begin(
        self,
        scope: Scope,
        release: str,
        *,
        principal: str,
        reason: str,
        force: bool = False,
        by: Principal | None = None,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Begin the rollout of a validated release beside the live one, by the plan that it pins.

        Args:
            force: begin also without passed gates: policy is asked about that, and the reason is on record.
            by: who does it, for policy; ``None`` where it was decided before (an order of a training).

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: there is no such release here.
            ConflictError: it is live already, nothing is live, or a rollout of the application is under way.
            InvalidInputError: it did not pass its gates, a feature it pins is not there, or forcing has no reason.
        """
        require_reason(release, force, reason)
        with self.database.writing(within) as connection:
            candidate = self.releases.get(scope, release, within=connection)
            application = candidate.bundle.application.name
            live = self.releases.live(scope, application, within=connection)
            found = self.clearance_of(candidate, within=connection)
            if candidate.stage != "validated":  # One that was rolled back is not sent again for having been live.
                found = msgspec.structs.replace(found, passed=False)
            check_candidate(self.feature_exists, scope, candidate, live, None if force else found)
            self._ask(candidate, found, by, reason, force or not found.passed)
            self._no_other(scope, application, connection)
            assert live is not None
            plan, why = candidate.bundle.application.rollout, found.reason(reason)
            rollout = self.rollouts.start(
                scope, application, release, live.id, plan, principal, why, state=first_state(plan), within=connection
            )
            self._enter(connection, rollout)
            self._record(connection, rollout, "begin", **found.record(candidate))
        return rollout

    def advance(
        self,
        scope: Scope,
        rollout: str,
        *,
        principal: str,
        reason: str,
        expected: Position | None = None,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Enter the next step; after the last one the candidate becomes the live release and the control retires.

        Args:
            expected: the state and step that the caller decided about.

        Raises:
            NotFoundError: there is no such rollout here.
            ConflictError: it has ended, is held, was moved by another, or its control is no longer live.
        """
        with self.database.writing(within) as connection:
            before = self._under_way(connection, scope, rollout, expected)
            if before.held:
                raise ConflictError(
                    f"The rollout is held: {before.reason}",
                    where=rollout,
                    next_step=f"`antiphon releases resume {before.application} --reason …` lets it go on.",
                )
            live = self.releases.live(scope, before.application, within=connection)
            if live is None or live.id != before.control:
                raise ConflictError(
                    f"The rollout's control {before.control} is no longer live, so that nothing is compared with it.",
                    where=rollout,
                    next_step=f"`antiphon releases abort {before.application} --reason …` and begin again.",
                )
            if (changed := self.model_changed(before, within=connection)) is not None:
                raise ConflictError(
                    f"What the rollout has shown is of another model. {changed}",
                    where=rollout,
                    next_step=f"`antiphon releases abort {before.application} --reason …`, validate, begin again.",
                )
            to = next_step(before)
            act = "promote" if to[0] == "promoted" else "advance"
            return self._move(connection, before, to, act, principal, reason)

    def model_changed(self, rollout: RolloutRecord, *, within: Connection | None = None) -> str | None:
        """Says, in words, that the candidate's model has changed since the rollout began; ``None`` without a sign."""
        if self.model_change is None:
            return None
        candidate = self.releases.get(rollout.scope, rollout.candidate, within=within)
        return self.model_change(candidate, rollout.created_at)

    def undo(
        self,
        scope: Scope,
        rollout: str,
        *,
        principal: str,
        reason: str,
        expected: Position | None = None,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Roll back a rollout that is under way: everybody is on the control again, which never left the pointer.

        Raises:
            NotFoundError: there is no such rollout here.
            ConflictError: it has ended, or was moved since it was ``expected``.
        """
        with self.database.writing(within) as connection:
            before = self._under_way(connection, scope, rollout, expected)
            return self._move(connection, before, ("rolled_back", before.step), "undo", principal, reason)

    def abort(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> RolloutRecord:
        """End a rollout without a verdict: the candidate is what it was before, and may be sent again. Raises as
        :meth:`undo`."""
        with self.database.transaction() as connection:
            before = self._under_way(connection, scope, rollout)
            return self._move(connection, before, ("aborted", before.step), "abort", principal, reason)

    def hold(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> RolloutRecord:
        """Let nothing move until :meth:`resume`; users stay in their arms. Raises as :meth:`undo`."""
        return self._set_held(scope, rollout, True, principal, reason)

    def resume(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> RolloutRecord:
        """Let a held rollout go on. Raises as :meth:`undo`."""
        return self._set_held(scope, rollout, False, principal, reason)

    def activate(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        principal: str,
        reason: str,
        force: bool = False,
        by: Principal | None = None,
        within: Connection | None = None,
    ) -> Activation:
        """Make a release live at once, past shadow and canary.

        Args:
            force: also one that has not passed its gates and is not declared ungated.
            by: who does it, for policy, which is asked about forcing it when it goes past its gates.

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: the application has no such release.
            ConflictError: a rollout is under way, whose control would be taken away.
            InvalidInputError: it has not passed its gates, forcing has no reason, or a view it pins is not published.
        """
        require_reason(release, force, reason)
        with self.database.writing(within) as connection:
            found = self.require_permission(
                scope, application, release, reason=reason, force=force, by=by, within=connection
            )
            candidate = self.releases.get(scope, release, within=connection)
            if not force:
                require_gates(candidate, found)
            live = self.releases.live(scope, application, within=connection)
            if live is not None and not unread(self.feature_exists, scope, live):
                check_features(self.feature_exists, scope, candidate)
            why = found.reason(reason)
            moved = self.releases.activate(scope, application, release, principal, why, within=connection)
            detail = {"application": application, "reason": why, **found.record(candidate)}
            self.audit.append(scope, principal, "release.activate", release, detail, within=connection)
        return moved

    def require_permission(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        reason: str,
        force: bool = False,
        by: Principal | None,
        within: Connection | None = None,
    ) -> GateClearance:
        """Refuse to make a release live now or, once its features are published and its gates passed, later.

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: the application has no such release.
            ConflictError: a rollout is under way, whose control would be taken away.
        """
        with self.database.writing(within) as connection:
            candidate = self.releases.get(scope, release, within=connection)
            found = self.clearance_of(candidate, within=connection)
            self._ask(candidate, found, by, reason, not found.passed and (force or found.ungated is not None))
            self._no_other(scope, application, connection)
            return found

    def rollback(
        self,
        scope: Scope,
        application: str,
        *,
        principal: str,
        reason: str,
        expected: str | None = None,
        within: Connection | None = None,
    ) -> RollbackResult:
        """Undo the rollout under way; with none, make live what was live before, or raise ``ConflictError``.

        Args:
            expected: the live release that the caller decided about; then no rollout is undone in its place.
        """
        with self.database.writing(within) as connection:
            active = self.rollouts.active(scope, application, within=connection)
            before = self.releases.live(scope, application, within=connection)
            if expected is not None and (before is None or before.id != expected):
                raise ConflictError(
                    f"{expected} is not the live release of {application!r} any more.",
                    where=str(scope),
                    next_step="Look at it again with `antiphon releases list`.",
                )
            if expected is not None:
                self._no_other(scope, application, connection)
            if active is not None:
                assert before is not None  # undoing a rollout moves no pointer
                undone = self.undo(scope, active.id, principal=principal, reason=reason, within=connection)
                return RollbackResult(application, before.id, undone.candidate, undone)
            moved = self.releases.rollback(scope, application, principal, reason, within=connection)
            assert before is not None
            detail = {"application": application, "reason": reason, "left": before.id}
            self.audit.append(scope, principal, "release.rollback", moved.release, detail, within=connection)
            return RollbackResult(application, moved.release, before.id)

    def _ask(self, release: Release, found: GateClearance, by: Principal | None, reason: str, past_gates: bool) -> None:
        """Ask policy about promoting a release, which it is not before its gates have passed, or about forcing it."""
        if self.promotion is not None and by is not None:
            self.promotion(release, found.passed or not past_gates, by, reason, past_gates)

    def clearance_of(self, release: Release, *, within: Connection | None = None) -> GateClearance:
        """Tells whether a release may reach users."""
        scope, application = release.scope, release.bundle.application.name
        stages = self.releases.stages(scope, release.id, within=within)
        first = not self.releases.history(scope, application, within=within)
        model_change = None if self.model_change is None else partial(self.model_change, release)
        return clearance(release, stages, first=first, model_change=model_change)

    def _no_other(self, scope: Scope, application: str, connection: Connection) -> None:
        active = self.rollouts.active(scope, application, within=connection)
        if active is not None:
            raise ConflictError(
                f"A rollout of {application!r} is under way: {active.candidate} is {described(active)}.",
                where=active.id,
                next_step=f"Wait for it, or end it with `antiphon releases abort {application} --reason …` or "
                f"`antiphon rollback {application}`.",
            )

    def _under_way(
        self, connection: Connection, scope: Scope, rollout: str, expected: Position | None = None
    ) -> RolloutRecord:
        found = self.rollouts.get(scope, rollout, within=connection)
        if found.ended_at is not None or (expected is not None and (found.state, found.step) != expected):
            raise ConflictError(
                f"The rollout is {described(found)} ({found.principal}: {found.reason}).",
                where=rollout,
                next_step="A promoted release is taken back with `antiphon rollback`."
                if found.state == "promoted"
                else "Look at it again with `antiphon releases rollouts`.",
            )
        return found

    def _set_held(self, scope: Scope, rollout: str, held: bool, principal: str, reason: str) -> RolloutRecord:
        with self.database.transaction() as connection:
            before = self._under_way(connection, scope, rollout)
            if before.held == held:
                return before
            place, act = (before.state, before.step), "hold" if held else "resume"
            return self._move(connection, before, place, act, principal, reason, held)

    def _move(
        self,
        connection: Connection,
        before: RolloutRecord,
        to: Position,
        act: str,
        principal: str,
        reason: str,
        held: bool = False,
    ) -> RolloutRecord:
        """Move a rollout, make pointer and stages agree with the state that it enters, and record the act."""
        moved = self.rollouts.move(
            before.scope,
            before.id,
            state=to[0],
            step=to[1],
            held=held,
            reason=reason,
            principal=principal,
            expected=(before.state, before.step),
            within=connection,
        )
        if to != (before.state, before.step):
            self._enter(connection, moved)
        self._record(connection, moved, act)
        return moved

    def _enter(self, connection: Connection, rollout: RolloutRecord) -> None:
        """Make pointer and stages agree with the state that the rollout has just entered."""
        scope, candidate, principal, reason = rollout.scope, rollout.candidate, rollout.principal, rollout.reason
        if rollout.state == "promoted":
            self.releases.activate(scope, rollout.application, candidate, principal, reason, within=connection)
            return
        stage: Stage
        if rollout.state == "aborted":
            past = [move.stage for move in self.releases.stages(scope, candidate, within=connection)]
            stage = next((stage for stage in reversed(past) if stage not in UNDER_WAY), "draft")
        else:
            stage = rollout.state
        self.releases.set_stage(scope, candidate, stage, principal=principal, reason=reason, within=connection)

    def _record(self, connection: Connection, rollout: RolloutRecord, act: str, **more: Any) -> None:
        detail = {
            "application": rollout.application,
            "candidate": rollout.candidate,
            "control": rollout.control,
            "state": rollout.state,
            "step": rollout.step,
            "reason": rollout.reason,
            **more,
        }
        self.audit.append(rollout.scope, rollout.principal, f"rollout.{act}", rollout.id, detail, within=connection)
