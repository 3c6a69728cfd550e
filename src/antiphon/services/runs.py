"""Durable runs of one project: reading, canceling, queueing again what failed, and starting a refresh."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Connection

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.catalog.batch.batches import KIND as BATCH
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.jobs import BatchJob
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.attempts import RunAttempt, RunAttempts
from antiphon.durable.claims import WORKERS
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.rollbacks import Rollback, rollback_of
from antiphon.durable.run import ENDED, Run, RunStatus, StepTime
from antiphon.features.offline.backfill import KEEP
from antiphon.features.offline.backfill import WORKFLOW as BACKFILL
from antiphon.governance.identity.principal import Principal
from antiphon.learning.workbench.optimizer import WORKFLOW as OPTIMIZE
from antiphon.operations.processes import ProcessIdentity
from antiphon.orchestration.conductor.waiting import RunWait
from antiphon.orchestration.restarted_parts import BrokenPart, broken_parts
from antiphon.services.conducting.run_waits import RunWaits
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.gateway_shares import PREFIX as GATEWAYS
from antiphon.services.governance.policies import require_cancel
from antiphon.services.learning.workbench_orders import kept_under
from antiphon.services.project.store import Store

RunMove = Literal["retry", "pause", "resume"]
"""The move that a person can make beside canceling: of a run that failed, of one that goes on, and of a paused one."""


class PeerProcess(msgspec.Struct, frozen=True):
    """A process that works with the same catalog from elsewhere; a gateway, which serves all tenants, has no name."""

    kind: str
    name: str


class ProjectRuns:
    """Durable runs, and starting a refresh."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features
        self._waits = RunWaits(store)

    def get(self, scope: Scope, run: str) -> Any:
        return self._store.runs.get(scope, run)

    def list(self, scope: Scope, limit: int = 50, status: RunStatus | None = None) -> Any:
        return self._store.runs.list(scope, limit=limit, status=status)

    def attempts(self, scope: Scope, run: str) -> tuple[RunAttempt, ...]:
        """The attempts of a run that failed or were lost, the first one first."""
        return tuple(RunAttempts(self._store.database).list(scope, run))

    def steps(self, scope: Scope, run: str, limit: int) -> tuple[Sequence[StepTime], int]:
        """The last completed steps of a run, in the order in which they ended, and the number of all."""
        return self._store.runs.step_times(scope, run, limit)

    def rollback(self, scope: Scope, run: str) -> Rollback | None:
        """The rollback of a run: which of its steps were undone; ``None`` where there was none."""
        return rollback_of(self._store.runs.steps(scope, run))

    def broken(self, scope: Scope) -> tuple[BrokenPart, ...]:
        """Parts of the tenant's workers that failed and are begun again."""
        leases = ProcessLeases(self._store.database, scope.environment)
        return tuple(
            part for worker in leases.living(f"{WORKERS}{scope.tenant}/") for part in broken_parts(worker.detail)
        )

    def peers(self, scope: Scope, here: Collection[int]) -> tuple[PeerProcess, ...]:
        """Gateways, and workers of a tenant, that hold their lease and are none of these processes of this machine."""
        leases, own = ProcessLeases(self._store.database, scope.environment), ProcessIdentity.own().host
        found = []
        for kind, prefix in (("gateway", GATEWAYS), ("worker", f"{WORKERS}{scope.tenant}/")):
            for lease in leases.living(prefix):
                host, _, _, pid, _ = [*lease.holder.rsplit("/", 4), *([""] * 4)][:5]
                if host != own or not pid.isdecimal() or int(pid) not in here:
                    found.append(PeerProcess(kind, lease.name.removeprefix(prefix) if kind == "worker" else ""))
        return tuple(found)

    def waits(self, scope: Scope, runs: Iterable[Run]) -> Mapping[str, RunWait]:
        """The wait of those of these runs that have not begun, by id."""
        return self._waits.of(scope, runs)

    def of_jobs(self, scope: Scope, jobs: Iterable[BatchJob]) -> Mapping[str, Run]:
        """The run that works on each of these batch jobs, by the job's id."""
        found = {}
        for job in jobs:
            run = self._store.runs.find(scope, f"{OPENAI_BATCH if job.kind == BATCH else TABLE_JOB}:{job.id}")
            if run is not None:
                found[job.id] = run if run.forked_to is None else self._store.runs.get(scope, run.forked_to)
        return found

    def may_move(self, run: Run, by: Principal) -> bool:
        """Tells whether a principal may cancel, pause or retry a run: whoever may order what it does."""
        try:
            require_cancel(self._store, by, run)
        except (ForbiddenError, NotFoundError):  # Also where the release or job that it is about is gone.
            return False
        return True

    def cancel(self, scope: Scope, run: str, by: Principal, reason: str = "", originator: str | None = None) -> Any:
        """Ask a run to stop, with what it works on. It is on record.

        Args:
            originator: the user on whose behalf ``by`` asks.

        Raises:
            ForbiddenError: ``by`` may not order what the run does.
            NotFoundError: there is no such run. ConflictError: it ended otherwise, or is being undone.
        """
        require_cancel(self._store, by, self._store.runs.get(scope, run))
        with self._store.database.transaction() as connection:
            self._store.audit.append(
                scope, by.id, "run.cancel", run, {"reason": reason}, originator=originator, within=connection
            )
            found = self._store.runs.get(scope, run, within=connection)
            if found.workflow == OPENAI_BATCH:
                # Its worker ends it, with the files of what was done: a pause would keep that from it.
                Batches(self._store.database).cancel(scope, str(found.arguments["batch"]), within=connection)
                return self._store.runs.resume(scope, run, within=connection)
            if found.is_rolled_back and found.status not in ENDED:
                raise ConflictError(
                    f"The steps of the run {run} are being undone.",
                    where="run",
                    next_step=f"Wait for its end, or `antiphon runs pause {run} --reason TEXT`.",
                )
            cancelled = self._store.runs.cancel(scope, run, within=connection)
            if cancelled.workflow == OPTIMIZE and cancelled.status == "cancelled":
                # One under way forgets them itself, once it has stopped.
                self._store.evaluations.forget_answers(scope, kept_under(run), within=connection)
            job = cancelled.arguments.get("job") if cancelled.workflow == TABLE_JOB else None
            if job is not None:
                with contextlib.suppress(ConflictError):  # it ended before
                    self._store.jobs.set_status(scope, str(job), "cancelled", within=connection)
        return cancelled

    def pause(self, scope: Scope, run: str, by: Principal, reason: str) -> Run:
        """Let nobody work on a run until it is resumed; what it did so far stays. It is on record.

        Raises:
            ForbiddenError: ``by`` may not order what the run does.
            NotFoundError: there is no such run. InvalidInputError: no reason.
            ConflictError: it ended, is to be canceled, or is paused already.
        """
        store = self._store
        if not reason.strip():
            raise InvalidInputError("A run is paused for a reason.", where="reason", next_step="Say why.")
        require_cancel(store, by, store.runs.get(scope, run))
        with store.database.transaction() as connection:
            before = store.runs.get(scope, run, within=connection)
            found = store.runs.pause(scope, run, by.id, within=connection)
            if found.status in ENDED or found.cancel_requested:
                state = found.status if found.status in ENDED else "about to be canceled"
                raise ConflictError(f"The run {run} is {state}.", where="run", next_step="There is no pausing it.")
            if before.paused_by is not None:
                raise ConflictError(
                    f"The run {run} is paused by {before.paused_by} already.",
                    where="run",
                    next_step=f"`antiphon runs resume {run}` lets it go on.",
                )
            store.audit.append(scope, by.id, "run.pause", run, {"reason": reason}, within=connection)
        return found

    def resume(self, scope: Scope, run: str, by: Principal) -> Run:
        """End the pause of a run, on record; raises as :meth:`pause`, and ``ConflictError`` for one that is not
        paused."""
        store = self._store
        require_cancel(store, by, store.runs.get(scope, run))
        with store.database.transaction() as connection:
            if store.runs.get(scope, run, within=connection).paused_by is None:
                raise ConflictError(
                    f"The run {run} is not paused.", where="run", next_step="`antiphon runs show` tells."
                )
            found = store.runs.resume(scope, run, within=connection)
            store.audit.append(scope, by.id, "run.resume", run, within=connection)
        return found

    def retry(self, scope: Scope, run: str, by: Principal, reason: str = "", from_step: str = "") -> Run:
        """Queue a run again that failed, from where it was; or with ``from_step`` begin another one that goes on from
        before that step. It is on record.

        Raises:
            ForbiddenError: ``by`` may not order what the run does.
            NotFoundError: there is no such run, or it came to no such step.
            ConflictError: the run is in no state for it, or its schedule has another one open.
        """
        store = self._store
        require_cancel(store, by, store.runs.get(scope, run))
        letters = DeadLetters(store.database)
        with store.database.transaction() as connection:
            if from_step:
                found = letters.fork(scope, run, from_step, within=connection)
                detail = {"reason": reason, "name": from_step, "run": found.id}
            else:
                found = letters.retry(scope, run, within=connection)
                detail = {"reason": reason}
            self._reopen(found, run, connection)
            store.audit.append(scope, by.id, "run.fork" if from_step else "run.retry", run, detail, within=connection)
        return found

    def moves(self, scope: Scope, runs: Iterable[Run], by: Principal) -> Mapping[str, RunMove]:
        """The next move of those of these runs that ``by`` may move, by id."""
        found = {run.id: (run, move) for run in runs if (move := _move(run)) is not None}
        return {id: move for id, (run, move) in found.items() if self.may_move(run, by)}

    def skip(self, scope: Scope, run: str, step: str, result: Any, by: Principal, reason: str) -> Run:
        """Record the result of the step at which a run failed by hand, and queue the run again. It is on record.

        Raises:
            ForbiddenError, NotFoundError: as :meth:`retry`.
            ConflictError: the run did not fail at this step, or the step is transactional.
            InvalidInputError: no reason.
        """
        store = self._store
        if not reason.strip():
            raise InvalidInputError("A step is skipped for a reason.", where="reason", next_step="Say why.")
        require_cancel(store, by, store.runs.get(scope, run))
        with store.database.transaction() as connection:
            found = DeadLetters(store.database).skip(scope, run, step, result, by.id, within=connection)
            self._reopen(found, run, connection)
            detail = {"reason": reason, "name": step}
            store.audit.append(scope, by.id, "run.skip", run, detail, within=connection)
        return found

    def _reopen(self, run: Run, failed: str, within: Connection) -> None:
        """Queue what the run works on again, and count it as the one that its schedule has open."""
        store, scope = self._store, run.scope
        if run.workflow == BACKFILL:
            kept = sum(step.name.startswith(KEEP) for step in store.runs.steps(scope, run.id, within=within))
            if kept != len(store.backfills.list(scope, run.id, within=within)):
                raise ConflictError(
                    "What the backfill kept is another run's, or was discarded.",
                    where="run",
                    next_step="Order another backfill.",
                )
        if run.workflow == OPENAI_BATCH:
            raise ConflictError(
                "A batch that ended has the files of what was done.",
                where=failed,
                next_step="Send what is left of it as a new batch.",
            )
        if run.workflow == TABLE_JOB:
            store.jobs.reopen(scope, str(run.arguments["job"]), within=within)
        if run.schedule is None or (record := store.schedules.list(scope, within=within).get(run.schedule)) is None:
            return
        if record.run not in (None, failed):
            other = store.runs.get(scope, str(record.run), within=within)
            if other.status not in ENDED:
                raise ConflictError(
                    f"The schedule {run.schedule} has another run open: {other.id}.",
                    where=failed,
                    next_step=f"Wait for its end, or cancel it: `antiphon runs cancel {other.id}`.",
                )
        store.schedules.reopen(scope, run.schedule, run.id, within=within)
        store.asset_parts.reopen(scope, failed, run.id, within=within)

    def refresh(
        self,
        scope: Scope,
        views: Sequence[str],
        as_of: datetime | None,
        key: str | None = None,
        whole: bool = False,
        past: bool = False,
    ) -> Any:
        run = self._features.refresh(
            scope, views=views, as_of=as_of, reason="requested", principal="admin", key=key, whole=whole, past=past
        )
        return self._store.runs.get(scope, run)


def _move(run: Run) -> RunMove | None:
    if run.status == "failed":
        # A batch that failed has ended with its files.
        return None if run.workflow == OPENAI_BATCH else "retry"
    if run.status in ENDED:
        return None
    return "pause" if run.paused_by is None else "resume"
