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
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.releases import Activation, Release, Releases, Stage
from antiphon.catalog.rollouts import UNDER_WAY, RolloutRecord, Rollouts, RolloutState, described
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.releases.candidate import FeatureExists, check_candidate, check_features, first_state, next_step, unread

Expected = tuple[RolloutState, int]

PromotionPolicy = Callable[[Release, bool, Principal, str, bool], None]
"""Policy about making a release reach users: release, gates passed, principal, reason, forced.

Raises ``ForbiddenError``.
"""


class RollbackResult(msgspec.Struct, frozen=True):
    """The result of going back.

    Attributes:
        release: the release that answers everybody now.
        left: the release that answers nobody any more.
        rollout: the rollout that was undone; ``None`` when the pointer moved.
        activation: the pointer's move; ``None`` when a rollout was undone, which moves no pointer.
    """

    application: str
    release: str
    left: str
    rollout: RolloutRecord | None = None
    activation: Activation | None = None


class RolloutTransitions:
    """Begins, advances and ends rollouts, and goes back.

    Args:
        database: the catalog, whose transactions hold each transition together.
        audit: records each transition in its transaction.
        feature_exists: asked about every view that a release pins, before it sees traffic in place of another.
        promotion: policy about making a release reach users; ``None`` permits.
    """

    def __init__(
        self,
        database: Database,
        releases: Releases,
        rollouts: Rollouts,
        *,
        audit: AuditLog,
        feature_exists: FeatureExists,
        promotion: PromotionPolicy | None = None,
    ) -> None:
        self._database = database
        self._releases = releases
        self._rollouts = rollouts
        self._audit = audit
        self._feature_exists = feature_exists
        self._promotion = promotion

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
        """Begins the rollout of a validated release beside the live one, by the plan that it pins.

        Args:
            force: begin also without passed gates; the reason is then recorded as the reason for that.
            by: who does it, for policy; ``None`` where it was decided before (an order of a training).

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: there is no such release here.
            ConflictError: it is live already, nothing is live, or a rollout of the application is under way.
            InvalidInputError: it did not pass its gates, a feature it pins is not there, or forcing has no reason.
        """
        if force and not reason.strip():
            raise InvalidInputError(
                "Going past the gates needs a reason.", where=release, next_step="Give one with --reason."
            )
        with self._database.writing(within) as connection:
            candidate = self._releases.get(scope, release, within=connection)
            application = candidate.bundle.application.name
            live = self._releases.live(scope, application, within=connection)
            check_candidate(self._feature_exists, scope, candidate, live, force)
            self._ask(connection, scope, candidate, by, reason, force)
            self._no_other(scope, application, connection)
            assert live is not None
            plan = candidate.bundle.application.rollout
            state = first_state(plan)
            why = f"gates passed over: {reason}" if force and candidate.stage != "validated" else reason
            rollout = self._rollouts.start(
                scope, application, release, live.id, plan, principal, why, state=state, within=connection
            )
            self._enter(connection, rollout, principal, why)
            forced = {"forced": True, "stage": candidate.stage} if why != reason else {}
            self._record(connection, rollout, "begin", principal, forced)
        return rollout

    def advance(
        self,
        scope: Scope,
        rollout: str,
        *,
        principal: str,
        reason: str,
        expected: Expected | None = None,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Enter the next step; after the last one the candidate becomes the live release and the control retires.

        Args:
            expected: the state and step that the caller decided about.

        Raises:
            NotFoundError: there is no such rollout here.
            ConflictError: it has ended, is held, was moved by another, or its control is no longer live.
        """
        with self._database.writing(within) as connection:
            before = self._under_way(connection, scope, rollout, expected)
            if before.held:
                raise ConflictError(
                    f"The rollout is held: {before.reason}",
                    where=rollout,
                    next_step=f"`antiphon releases resume {before.application} --reason …` lets it go on.",
                )
            live = self._releases.live(scope, before.application, within=connection)
            if live is None or live.id != before.control:
                raise ConflictError(
                    f"The rollout's control {before.control} is no longer live, so that nothing is compared with it.",
                    where=rollout,
                    next_step=f"`antiphon releases abort {before.application} --reason …` and begin again.",
                )
            state, step = next_step(before)
            moved = self._move(connection, before, state, step, False, principal, reason)
            self._enter(connection, moved, principal, reason)
            self._record(connection, moved, "promote" if state == "promoted" else "advance", principal)
        return moved

    def undo(
        self,
        scope: Scope,
        rollout: str,
        *,
        principal: str,
        reason: str,
        expected: Expected | None = None,
        within: Connection | None = None,
    ) -> RolloutRecord:
        """Roll back a rollout that is under way: everybody is on the control again, which never left the pointer.

        Raises:
            NotFoundError: there is no such rollout here.
            ConflictError: it has ended, or was moved since it was ``expected``.
        """
        return self._end(scope, rollout, "rolled_back", principal, reason, expected, within)

    def abort(
        self, scope: Scope, rollout: str, *, principal: str, reason: str, within: Connection | None = None
    ) -> RolloutRecord:
        """End a rollout without a verdict: the candidate is what it was before, and may be sent again.

        Raises:
            As :meth:`undo`.
        """
        return self._end(scope, rollout, "aborted", principal, reason, None, within)

    def hold(
        self, scope: Scope, rollout: str, *, principal: str, reason: str, within: Connection | None = None
    ) -> RolloutRecord:
        """Let nothing move until :meth:`resume`; users stay in their arms.

        Raises:
            As :meth:`undo`.
        """
        return self._set_held(scope, rollout, True, principal, reason, within)

    def resume(
        self, scope: Scope, rollout: str, *, principal: str, reason: str, within: Connection | None = None
    ) -> RolloutRecord:
        """Let a held rollout go on.

        Raises:
            As :meth:`undo`.
        """
        return self._set_held(scope, rollout, False, principal, reason, within)

    def activate(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        principal: str,
        reason: str,
        by: Principal | None = None,
        within: Connection | None = None,
    ) -> Activation:
        """Make a release live at once, past gates and canary.

        Args:
            by: who does it, for policy, which is asked about forcing it when it did not pass its gates.

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: the application has no such release.
            ConflictError: a rollout is under way, whose control would be taken away.
            InvalidInputError: it would take the place of one that answers, and a view that it pins is not published.
        """
        with self._database.writing(within) as connection:
            self.require_permission(scope, application, release, reason=reason, by=by, within=connection)
            live = self._releases.live(scope, application, within=connection)
            if live is not None and not unread(self._feature_exists, scope, live):
                check_features(self._feature_exists, scope, self._releases.get(scope, release, within=connection))
            moved = self._releases.activate(scope, application, release, principal, reason, within=connection)
            detail = {"application": application, "reason": reason}
            self._audit.append(scope, principal, "release.activate", release, detail, within=connection)
        return moved

    def require_permission(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        reason: str,
        by: Principal | None,
        within: Connection | None = None,
    ) -> None:
        """Refuse to make a release live now or, once its features are published, later.

        Raises:
            ForbiddenError: policy does not let this principal promote this release.
            NotFoundError: the application has no such release.
            ConflictError: a rollout is under way, whose control would be taken away.
        """
        with self._database.writing(within) as connection:
            if by is not None:
                self._ask(connection, scope, self._releases.get(scope, release, within=connection), by, reason, None)
            self._no_other(scope, application, connection)

    def rollback(
        self, scope: Scope, application: str, *, principal: str, reason: str, within: Connection | None = None
    ) -> RollbackResult:
        """Undo the rollout under way; with none under way, make live again what was live before.

        Raises:
            ConflictError: no rollout is under way and nothing was live before.
        """
        with self._database.writing(within) as connection:
            active = self._rollouts.active(scope, application, within=connection)
            if active is not None:
                undone = self.undo(scope, active.id, principal=principal, reason=reason, within=connection)
                live = self._releases.live(scope, application, within=connection)
                assert live is not None
                return RollbackResult(application, live.id, undone.candidate, undone)
            before = self._releases.live(scope, application, within=connection)
            moved = self._releases.rollback(scope, application, principal, reason, within=connection)
            assert before is not None
            detail = {"application": application, "reason": reason, "left": before.id}
            self._audit.append(scope, principal, "release.rollback", moved.release, detail, within=connection)
            return RollbackResult(application, moved.release, before.id, None, moved)

    def _ask(
        self,
        connection: Connection,
        scope: Scope,
        release: Release,
        by: Principal | None,
        reason: str,
        force: bool | None,
    ) -> None:
        """Ask policy; ``force`` is ``None`` when it is forced just if it did not pass."""
        if self._promotion is None or by is None:
            return
        # One that was live before is as good as validated: to make it live again is going back. One that merely entered
        # a rollout may have been forced into it.
        stages = self._releases.stages(scope, release.id, within=connection)
        passed = any(move.stage in ("validated", "live") for move in stages)
        self._promotion(release, passed, by, reason, not passed if force is None else force)

    def _no_other(self, scope: Scope, application: str, connection: Connection) -> None:
        active = self._rollouts.active(scope, application, within=connection)
        if active is not None:
            raise ConflictError(
                f"A rollout of {application!r} is under way: {active.candidate} is {described(active)}.",
                where=active.id,
                next_step=f"Wait for it, or end it with `antiphon releases abort {application} --reason …` or "
                f"`antiphon rollback {application}`.",
            )

    def _under_way(
        self, connection: Connection, scope: Scope, rollout: str, expected: Expected | None
    ) -> RolloutRecord:
        found = self._rollouts.get(scope, rollout, within=connection)
        if found.ended_at is not None or (expected is not None and (found.state, found.step) != expected):
            raise ConflictError(
                f"The rollout is {described(found)} ({found.principal}: {found.reason}).",
                where=rollout,
                next_step="A promoted release is taken back with `antiphon rollback`."
                if found.state == "promoted"
                else "Look at it again with `antiphon releases rollouts`.",
            )
        return found

    def _end(
        self,
        scope: Scope,
        rollout: str,
        state: RolloutState,
        principal: str,
        reason: str,
        expected: Expected | None,
        within: Connection | None,
    ) -> RolloutRecord:
        with self._database.writing(within) as connection:
            before = self._under_way(connection, scope, rollout, expected)
            moved = self._move(connection, before, state, before.step, False, principal, reason)
            self._enter(connection, moved, principal, reason)
            self._record(connection, moved, "undo" if state == "rolled_back" else "abort", principal)
        return moved

    def _set_held(
        self, scope: Scope, rollout: str, held: bool, principal: str, reason: str, within: Connection | None
    ) -> RolloutRecord:
        with self._database.writing(within) as connection:
            before = self._under_way(connection, scope, rollout, None)
            if before.held == held:
                return before
            moved = self._move(connection, before, before.state, before.step, held, principal, reason)
            self._record(connection, moved, "hold" if held else "resume", principal)
        return moved

    def _move(
        self,
        connection: Connection,
        before: RolloutRecord,
        state: RolloutState,
        step: int,
        held: bool,
        principal: str,
        reason: str,
    ) -> RolloutRecord:
        return self._rollouts.move(
            before.scope,
            before.id,
            state=state,
            step=step,
            held=held,
            reason=reason,
            principal=principal,
            expected=(before.state, before.step),
            within=connection,
        )

    def _enter(self, connection: Connection, rollout: RolloutRecord, principal: str, reason: str) -> None:
        """Make pointer and stages agree with the state that the rollout has just entered."""
        scope, candidate = rollout.scope, rollout.candidate
        if rollout.state == "promoted":
            self._releases.activate(scope, rollout.application, candidate, principal, reason, within=connection)
            return
        stage: Stage
        if rollout.state == "aborted":
            past = [move.stage for move in self._releases.stages(scope, candidate, within=connection)]
            stage = next((stage for stage in reversed(past) if stage not in UNDER_WAY), "draft")
        else:
            stage = rollout.state
        self._releases.set_stage(scope, candidate, stage, principal=principal, reason=reason, within=connection)

    def _record(
        self,
        connection: Connection,
        rollout: RolloutRecord,
        act: str,
        principal: str,
        more: dict[str, Any] | None = None,
    ) -> None:
        detail = {
            "application": rollout.application,
            "candidate": rollout.candidate,
            "control": rollout.control,
            "state": rollout.state,
            "step": rollout.step,
            "reason": rollout.reason,
            **(more or {}),
        }
        self._audit.append(rollout.scope, principal, f"rollout.{act}", rollout.id, detail, within=connection)
