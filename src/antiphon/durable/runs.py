"""Runs: submitted workflows, who holds them, and the journal of their steps.

Invariants:
- A run is held by at most one worker that may write: claiming raises the run's epoch, and every write of a worker
  is conditional on the epoch it claimed. A worker that lost its lease can compute, but not commit.
- A step is recorded at most once; what was recorded first stays.
- A transactional step's effect and its record are one transaction.
- The time of a worker that an attempt took is in the ledger once it has ended, and once.

Fencing by epoch: Gray & Cheriton, "Leases", SOSP 1989; the fencing token as in Kleppmann, *Designing
Data-Intensive Applications*, ch. 8.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Select, insert, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger, MeteredUsage
from antiphon.core.clock import Clock, microseconds
from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.core.telemetry import traceparent
from antiphon.definitions.workflows import RollbackPolicy
from antiphon.durable.attempts import RunAttempt, RunAttempts
from antiphon.durable.claims import (
    Candidates,
    ServedRuns,
    claimable,
    first_of,
    held_back,
    held_by,
    holds,
    limits_on,
    next_moments,
    waiting,
)
from antiphon.durable.policy import DEFAULT_POLICY, WorkflowPolicy
from antiphon.durable.rollbacks import rollback_of
from antiphon.durable.run import (
    ARGUMENTS,
    ERROR,
    RESULT,
    RUN_KEY,
    STEP,
    ProgressReport,
    Run,
    RunRequest,
    RunResult,
    StepUnderWay,
    columns_of,
    encode_json,
    lease_lost,
    read_run,
    read_under_way,
    write_under_way,
)
from antiphon.durable.run_orders import RunOrders

T = TypeVar("T")

BY_POLICY = 0
"""In the column ``max_attempts`` until its first claim: as many attempts as the workflow's policy says."""

_runs, _steps = schema.runs, schema.steps


class Runs(RunOrders):
    """Repository of runs and their steps: reads and changes them.

    Args:
        database: the catalog.
        clock: wall time of leases; the database's own unless given.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        super().__init__(database, clock)
        self._attempts = RunAttempts(database)
        self._ledger = Ledger(database)

    def submit(
        self,
        scope: Scope,
        workflow: str,
        arguments: Mapping[str, Any],
        key: str | None = None,
        *,
        max_attempts: int = BY_POLICY,
        not_before: datetime | None = None,
        deadline: datetime | None = None,
        within: Connection | None = None,
    ) -> str:
        """Queue a run in the caller's trace and return its id; the same key again returns the id it gave before.

        Args:
            deadline: when it is to have ended.
            max_attempts: at most so many; without it as many as the policy of its workflow says, where it is claimed.

        Raises:
            ConflictError: the key was used for another workflow or other arguments.
            InvalidInputError: the arguments are no JSON.
        """
        encoded = encode_json(dict(arguments), f"arguments of {workflow}")
        now = self._clock.now()
        with self._database.writing(within) as connection:
            if key is not None:
                named = schema.owned(_runs, scope) & RUN_KEY.is_(self._database, scope, key)
                known = connection.execute(select(_runs.c.id, _runs.c.workflow, _runs.c.arguments).where(named)).first()
                if known is not None:
                    stored = self._database.unseal(scope, ARGUMENTS, known.id, known.arguments)
                    if (known.workflow, stored) != (workflow, encoded):
                        raise ConflictError(
                            f"The key {key!r} was used for another run ({known.id}).",
                            where=str(scope),
                            next_step="Use another key.",
                        )
                    return str(known.id)
            run = new_id("run")
            index, sealed = (None, None) if key is None else RUN_KEY.stored(self._database, scope, run, key)
            connection.execute(
                insert(_runs).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=run,
                    workflow=workflow,
                    key=index,
                    key_sealed=sealed,
                    arguments=self._database.seal(scope, ARGUMENTS, run, encoded),
                    status="queued",
                    epoch=0,
                    attempts=0,
                    max_attempts=max_attempts,
                    not_before=not_before or now,
                    deadline=deadline,
                    cancel_requested=False,
                    done=0,
                    note="",
                    trace=traceparent(),
                    created_at=now,
                    updated_at=now,
                )
            )
            self._database.ring("runs", scope)
        return run

    def claim(
        self,
        worker: str,
        served: ServedRuns,
        lease: timedelta,
        *,
        fair: bool = False,
        held: Collection[str] = (),
        turn: Callable[[Set[str]], Set[str]] = frozenset,
        policy: Callable[[str], WorkflowPolicy] = lambda workflow: DEFAULT_POLICY,
    ) -> Run | None:
        """Take the run that is served and due and has waited longest: queued, or held by a worker whose lease is over.
        One that has a value has waited for so many times as long.

        Those that the caller works on itself (``held``) are not taken: after a machine slept past a lease it goes on
        with them, where nobody else has taken them since.

        ``policy`` of its workflow says how many attempts a run has that was submitted without a number.

        ``turn`` is told of which workflows a run waits, and says of which one is taken now; by default of any.

        With ``fair`` the tenant goes first of whose runs fewest are under way, and of its runs the one that was left
        alone for longest.

        A run whose lease ended too often, or that cannot be read, fails here instead of killing one worker after
        another.
        """
        candidates = claimable(served, fair)
        while True:
            # Most looks find nothing: they do not take the write lock.
            if not self._found(candidates, {"now": self._clock.now(), "held": list(held)}):
                return None
            with self._database.transaction() as connection:
                now = self._clock.now()  # A hold that began while others wrote is in force.
                due = {"now": now, "held": list(held)}
                if not (found := self._found(candidates, due, connection)):
                    return None
                first = turn({workflow for workflow, _ in found} - {""})
                of_found = {
                    "moment": microseconds(now),
                    "environment": served.environment,
                    "found": [run for workflow, run in found if workflow in first or not workflow],
                }
                row = connection.execute(first_of(), of_found).one()
                scope = Scope(row.tenant, row.environment)
                if row.status == "running":
                    self._note_lost(scope, row, connection)
                values: dict[str, Any] = {"worker": None, "lease_until": None}
                most = row.max_attempts or policy(row.workflow).attempts
                if row.cancel_requested:
                    values |= self._ending(row, "cancelled", None, connection)
                elif (why := self._hopeless(row, most)) is not None:
                    values |= self._ending(row, "failed", why, connection)
                else:
                    values = {
                        "status": "running",
                        "started_at": row.started_at or now,
                        "worker": worker,
                        "attempts": row.attempts + 1,
                        "max_attempts": most,
                        "lease_until": now + lease,
                        "claimed_at": now,
                        "under_way": None,
                    }
                values |= {"epoch": row.epoch + 1, "updated_at": now}
                connection.execute(update(_runs).where(schema.owned(_runs, scope, id=row.id)).values(values))
                if values["status"] == "running":
                    return self.get(scope, row.id, within=connection)

    def _found(
        self, candidates: Candidates, due: Mapping[str, Any], within: Connection | None = None
    ) -> builtins.list[tuple[str, tuple[str, str]]]:
        """The runs that were found: workflow, tenant and id."""
        with self._database.reading(within) as connection:
            rows = connection.execute(candidates, due).all()
        named = ((workflow, str(name).rpartition("/")) for workflow, name in map(tuple, rows) if name)
        return [(workflow, (tenant, run)) for workflow, (tenant, _, run) in named]

    def _note_lost(self, scope: Scope, row: Row[Any], within: Connection) -> None:
        """Note the attempt of a worker whose lease is over."""
        # A row without these moments, written by other hands, is claimed as well: it would strand all others.
        begun, over = row.claimed_at or row.updated_at, row.lease_until or row.updated_at
        attempt = RunAttempt(
            row.epoch, row.attempts, "lost", row.worker, begun, over, read_under_way(row.under_way), None
        )
        self._attempts.add(scope, row.id, attempt, within=within)
        self._meter(scope, row.id, row.workflow, begun, over)

    def _meter(
        self, scope: Scope, run: str, workflow: str, begun: datetime, over: datetime, application: str = ""
    ) -> None:
        """Enter the time of a worker that an attempt took, with the transaction that ends it."""
        taken = max(0, microseconds(over) - microseconds(begun))
        usage = MeteredUsage("worker", taken, application=application, role=workflow, work=run)
        self._ledger.add_with_commit(scope, [usage])

    def _note_failed(self, run: Run, error: str, under_way: Sequence[StepUnderWay], within: Connection) -> None:
        now = self._clock.now()
        attempt = RunAttempt(
            run.epoch, run.attempts, "failed", run.worker, run.claimed_at or now, now, tuple(under_way), error
        )
        self._attempts.add(run.scope, run.id, attempt, within=within)

    def _hopeless(self, row: Row[Any], most: int) -> str | None:
        """The reason for which no worker can bring a run to its end; ``None`` for one that may be claimed."""
        if row.attempts >= most:
            return f"The run's worker died or lost its lease in each of {row.attempts} attempts."
        try:
            read_run(row, self._database)
        except CorruptionError as error:
            return f"The run cannot be read: {error.what}"
        except msgspec.DecodeError:
            return "The run cannot be read: another version wrote it, or it is damaged."
        return None

    def queued(self, served: ServedRuns) -> bool:
        """Tells whether one of these runs waits to be claimed."""
        return self._first(select(_runs.c.id).where(waiting(served)).limit(1), {"now": self._clock.now()}) is not None

    def next_due(self, served: ServedRuns) -> timedelta | None:
        """Time until the next of these runs may be claimed: until the moment that one waits for, or until a lease
        ends; ``None`` while there is neither."""
        now = self._clock.now()
        row = self._first(next_moments(served), {"now": now})
        moments = [moment for moment in row or () if moment is not None]
        return max(min(moments) - now, timedelta()) if moments else None

    def _first(
        self, statement: Select[Any], values: Mapping[str, Any], within: Connection | None = None
    ) -> Row[Any] | None:
        """The first row of a statement that is made once, with these values."""
        with self._database.reading(within) as connection:
            return connection.execute(statement, values).first()

    def heartbeat(
        self,
        run: Run,
        lease: timedelta,
        progress: ProgressReport | None = None,
        under_way: Sequence[StepUnderWay] = (),
    ) -> RunRequest | None:
        """Extend the lease, and say which steps are under way; returns what is asked of the run's holder.

        Raises:
            LeaseLostError: the run is not this holder's any more.
        """
        now = self._clock.now()
        values: dict[str, Any] = {"lease_until": now + lease, "updated_at": now}
        values |= {"under_way": write_under_way(under_way)}
        values |= columns_of(progress)
        with self._database.transaction() as connection:
            extended = update(_runs).where(holds(run)).values(values).returning(_runs.c.cancel_requested)
            found = connection.execute(extended).first()
            if found is None:
                raise lease_lost(run)
            if found.cancel_requested:
                return "cancel"
            yields = select(_runs.c.id).where(holds(run), held_back())
            return "yield" if self._first(yields, {"now": now}, connection) is not None else None

    def reclaim(self, worker: str, environment: str, *, parts: bool = False, within: Connection | None = None) -> int:
        """End every lease of a worker that has ended or was started again under its name, with ``parts`` also those of
        its executors that are named ``WORKER/PART``; returns how many there were."""
        over = self._clock.now() - timedelta(microseconds=1)
        with self._database.writing(within) as connection:
            ended = update(_runs).where(held_by(worker, environment, parts)).values(lease_until=over)
            if reclaimed := connection.execute(ended).rowcount:
                self._database.ring("runs", Scope(environment=environment))
        return reclaimed

    def record(
        self, run: Run, name: str, occurrence: int, result: Any, started_at: datetime,
        undo: RollbackPolicy | None = None,
    ) -> Any:  # fmt: skip
        """Record a completed step and return its result as it will be read back.

        Args:
            undo: the policy by which it is undone, where it can be.

        Raises:
            LeaseLostError: the run is not this holder's any more.
            InvalidInputError: the result is no JSON.
        """
        return self.transact(run, name, occurrence, lambda _connection: result, started_at, undo)

    def transact(
        self, run: Run, name: str, occurrence: int, effect: Callable[[Connection], Any], started_at: datetime,
        undo: RollbackPolicy | None = None,
    ) -> Any:  # fmt: skip
        """Run an effect and record the step in one transaction.

        Raises:
            LeaseLostError: the run is not this holder's any more; the effect was not run.
            InvalidInputError: the result is no JSON; the effect is undone.
        """

        def recorded(connection: Connection) -> bytes:
            encoded = encode_json(effect(connection), f"result of step {name!r}")
            connection.execute(
                insert(_steps).values(
                    tenant=run.scope.tenant,
                    environment=run.scope.environment,
                    run=run.id,
                    name=name,
                    occurrence=occurrence,
                    epoch=run.epoch,
                    result=self._database.seal(run.scope, STEP, f"{run.id}:{name}:{occurrence}", encoded),
                    started_at=started_at,
                    ended_at=self._clock.now(),
                    undo=undo,
                )
            )
            return encoded

        return msgspec.json.decode(self.fenced(run, recorded))

    def fenced(self, run: Run, effect: Callable[[Connection], T]) -> T:
        """Run an effect in a transaction that makes sure of the run's holder first.

        Raises:
            LeaseLostError: the run is not this holder's any more; the effect was not run.
        """
        with self._database.transaction() as connection:
            if connection.execute(select(_runs.c.id).where(holds(run))).first() is None:
                raise lease_lost(run)
            return effect(connection)

    def end(self, run: Run, result: Mapping[str, Any], progress: ProgressReport | None = None) -> None:
        """End a run with its result, as succeeded unless a :class:`RunResult` says otherwise.

        Raises:
            LeaseLostError: the run is not this holder's any more.
            InvalidInputError: the result is no JSON.
        """
        ended = result if isinstance(result, RunResult) else RunResult(result, "succeeded")
        error = None if ended.error is None else self._database.seal_text(run.scope, ERROR, run.id, ended.error)
        sealed = self._database.seal(run.scope, RESULT, run.id, encode_json(dict(ended), "result"))
        values: dict[str, Any] = {"status": ended.status, "result": sealed, "error": error, "under_way": None}
        values |= columns_of(progress)
        failed = ended.error or "" if ended.status == "failed" else None
        self._leave(run, failed=failed, ended_at=self._clock.now(), **values)

    def fail(
        self, run: Run, error: str, retry_at: datetime | None = None, under_way: Sequence[StepUnderWay] = ()
    ) -> None:
        """End a run with an error, or queue it again for ``retry_at`` or to undo its steps; the attempt is kept with
        the error and the steps that were under way.

        Raises:
            LeaseLostError: the run is not this holder's any more.
        """
        under = write_under_way(under_way)
        if retry_at is not None:
            sealed = self._database.seal_text(run.scope, ERROR, run.id, error)
            values: dict[str, Any] = {"status": "queued", "error": sealed, "not_before": retry_at}
            self._leave(run, failed=error, under=under_way, under_way=under, **values)
            return

        def leave(connection: Connection) -> None:
            ending = self._ending(run, "failed", error, connection)
            self._leave(run, failed=error, under=under_way, within=connection, under_way=under, **ending)

        self.fenced(run, leave)

    def give_back(self, run: Run) -> None:
        """Queue a run again because its worker stops; the attempt does not count.

        Raises:
            LeaseLostError: the run is not this holder's any more.
        """
        self._leave(run, status="queued", attempts=run.attempts - 1)

    def end_cancelled(self, run: Run) -> None:
        """End a run that was asked to be cancelled, after it stopped; or queue it to undo its steps.

        Raises:
            LeaseLostError: the run is not this holder's any more.
        """

        def leave(connection: Connection) -> None:
            self._leave(run, within=connection, **self._ending(run, "cancelled", None, connection))

        self.fenced(run, leave)

    def end_rolled_back(self, run: Run, progress: ProgressReport | None = None) -> None:
        """End a run as it would have ended before its steps were undone.

        Raises:
            LeaseLostError: the run is not this holder's any more.
        """
        rolled_back = rollback_of(self.steps(run.scope, run.id))
        if rolled_back is None:
            raise lease_lost(run)
        error = rolled_back.error
        sealed = None if error is None else self._database.seal_text(run.scope, ERROR, run.id, error)
        values: dict[str, Any] = {"status": rolled_back.ends, "error": sealed, "rollback": "done", "under_way": None}
        self._leave(run, ended_at=self._clock.now(), **values, **columns_of(progress))

    def _leave(
        self,
        run: Run,
        *,
        failed: str | None = None,
        under: Sequence[StepUnderWay] = (),
        within: Connection | None = None,
        **values: Any,
    ) -> None:
        values |= {"worker": None, "lease_until": None, "updated_at": self._clock.now()}
        if ended := values.get("ended_at") is not None:
            values |= {"paused_by": None}
        leaving = update(_runs).where(holds(run)).values(values).returning(_runs.c.schedule)
        with self._database.writing(within) as connection:
            if (left := connection.execute(leaving).first()) is None:
                raise lease_lost(run)
            now = values["updated_at"]
            self._meter(run.scope, run.id, run.workflow, run.claimed_at or now, now, run.application)
            if failed is not None:
                self._note_failed(run, failed, under, connection)
            if not ended or connection.execute(limits_on(run, now)).first() is not None:
                self._database.ring("runs", run.scope)  # It waits, or leaves its slot to one that does.
            elif left.schedule is not None:
                self._database.ring("features", run.scope)  # Its schedule may have the next due.
