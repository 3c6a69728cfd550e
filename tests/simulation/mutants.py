"""Planted faults: small changes to the source of production functions, one at a time, that a simulation must find.

They share nothing with the checks: each is a text that stands in a function, and what stands there instead.
"""

from __future__ import annotations

from tests.simulation.conductor_mutants import CONDUCTOR_MUTANTS
from tests.simulation.mutant import Change, Mutant
from tests.simulation.mutant import one_change as _one

from antiphon.batch.batch_job import BatchJobs
from antiphon.batch.row_runner import RowRunner
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.durable import runs
from antiphon.durable.abandoned_runs import AbandonedRuns
from antiphon.durable.executor import WorkflowRegistry
from antiphon.durable.runs import Runs
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.publication.publish import Publisher
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.writer import AuditWriter
from antiphon.orchestration import stream_partitions
from antiphon.orchestration.duties import Duties
from antiphon.orchestration.rollouts import RolloutKeeper
from antiphon.orchestration.stream_partitions import StreamPartitions
from antiphon.releases.rollout import RolloutTransitions

_LEAVING = """leaving = update(_runs).where(holds(run)).values(values).returning(_runs.c.schedule)
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
            self._database.ring("features", run.scope)  # Its schedule may have the next due."""
_RUN = "schema.owned(_runs, run.scope, id=run.id"

MUTANTS: tuple[Mutant, ...] = (
    _one(
        "heartbeat without the epoch",
        "runs",
        Runs,
        "heartbeat",
        "update(_runs).where(holds(run))",
        f'update(_runs).where({_RUN}, status="running"))',
    ),
    _one(
        "heartbeat revives a lost lease",
        "runs",
        Runs,
        "heartbeat",
        "update(_runs).where(holds(run)).values(values)",
        f"update(_runs).where({_RUN}))"
        '.values(values | {"status": "running", "epoch": run.epoch, "worker": run.worker})',
    ),
    _one("end without the epoch", "runs", Runs, "_leave", "holds(run)", _RUN + ', status="running")'),
    _one(
        "ownership cleared late",
        "runs",
        Runs,
        "_leave",
        _LEAVING,
        'late = {name: values.pop(name) for name in ("worker", "lease_until")}\n'
        f"    {_LEAVING}\n"
        f"    self._database.write(update(_runs).where({_RUN})).values(late), within)",
    ),
    _one(
        "steps without a fence",
        "runs",
        Runs,
        "fenced",
        "connection.execute(select(_runs.c.id).where(holds(run))).first() is None",
        "False",
    ),
    _one(
        "effect apart from its record",
        "runs",
        Runs,
        "transact",
        "def recorded(connection: Connection) -> bytes:\n        encoded = encode_json(effect(connection)",
        "with self._database.transaction() as apart:\n        done = effect(apart)\n\n"
        "    def recorded(connection: Connection) -> bytes:\n        encoded = encode_json(done",
    ),
    _one(
        "claim of what another holds",
        "runs",
        runs,
        "claimable",
        "_runs.c.lease_until < now",
        "_runs.c.lease_until.is_not(None)",
    ),
    _one("claim forgets the tenant", "runs", WorkflowRegistry, "served", "scope.tenant", "None"),
    _one("claim keeps the epoch", "runs", Runs, "claim", "row.epoch + 1", "row.epoch or 1"),
    _one(
        "claim before its time",
        "runs",
        runs,
        "claimable",
        "_runs.c.not_before <= now",
        "_runs.c.not_before.is_not(None)",
    ),
    _one(
        "reclaim of another's leases",
        "runs",
        runs,
        "held_by",
        "named = _runs.c.worker == worker",
        "named = _runs.c.worker.is_not(None)",
    ),
    _one(
        "runs freed of a worker that was started again",
        "runs",
        AbandonedRuns,
        "_free",
        "if not self._leases.release_all([worker.name], worker.holder, within=connection):",
        "if False:",
    ),
    _one(
        "retry forgets the attempts",
        "runs",
        Runs,
        "fail",
        '"not_before": retry_at}',
        '"not_before": retry_at, "attempts": 0}',
    ),
    _one(
        "submission forgets its key",
        "runs",
        Runs,
        "submit",
        "(None, None) if key is None else",
        "(None, None) if key else",
    ),
    _one(
        "rows without the epoch",
        "batches",
        Jobs,
        "_require_epoch",
        "row.epoch != epoch or row.status in ENDED",
        "row.status in ENDED",
    ),
    _one("take-over keeps the epoch", "batches", Jobs, "take_over", "running.epoch + 1", "running.epoch or 1"),
    _one(
        "take-over by a worker that lost its run",
        "batches",
        Runs,
        "fenced",
        "connection.execute(select(_runs.c.id).where(holds(run))).first() is None",
        "False",
    ),
    _one("ended job opens again", "batches", Jobs, "set_status", "if found.status in ENDED:", "if False:"),
    _one(
        "take-over of a batch keeps the epoch",
        "requests",
        Batches,
        "take_over",
        ".values(epoch=found.job.epoch + 1)",
        ".values(epoch=found.job.epoch or 1)",
    ),
    _one("batch without the epoch", "requests", Batches, "_held", "if found.job.epoch != epoch:", "if False:"),
    _one("ending settled twice", "requests", Batches, "settle", "if found.ending is not None:", "if False:"),
    _one(
        "batch ends before its files are named",
        "requests",
        BatchJobs,
        "_finish",
        "with self.database.transaction() as connection:\n        for file",
        "with self.database.transaction() as connection:\n"
        "        self.batches.finish(scope, batch.id, epoch, within=connection)\n"
        "    with self.database.transaction() as connection:\n        for file",
    ),
    Mutant(
        "counter instead of rows",
        "batches",
        (
            Change(
                Jobs,
                "write_rows",
                "return written.rowcount",
                'counted = self.__dict__.setdefault("counted", {})\n'
                "    counted[job] = counted.get(job, 0) + len(rows)\n"
                "    return written.rowcount",
            ),
            Change(Jobs, "_job", "rows_done=int(done)", 'rows_done=self.__dict__.get("counted", {}).get(row.id, 0)'),
        ),
    ),
    _one(
        "rows under way are forgotten",
        "batches",
        RowRunner,
        "run",
        "    await self._write()\n    self._require",
        "    self._require",
    ),
    _one(
        "publication without compare-and-swap",
        "publications",
        Publications,
        "publish",
        "if number != expected:",
        "if (expected := number) != number:",
    ),
    _one(
        "publication upon what was read",
        "publications",
        Publications,
        "publish",
        "if number != expected:\n            raise _lost(scope, expected, number)",
        "snapshots = self.get(scope, expected, within=connection).snapshots if expected else {}\n"
        "        expected = number",
    ),
    _one(
        "rollback forgets what came since",
        "publications",
        Publications,
        "rollback",
        "{**current.snapshots, **back.snapshots}",
        "{**back.snapshots}",
    ),
    _one(
        "older snapshot over a newer one",
        "publications",
        Publisher,
        "_changes",
        "age(manifest) >= age(self.catalog.snapshots.get(self._scope, known))",
        "True",
    ),
    Mutant(
        "rollout moved without a check of its state",
        "rollouts",
        (
            Change(Rollouts, "move", "before.ended_at is not None or (before.state, before.step) != expected", "False"),
            Change(
                RolloutTransitions,
                "_under_way",
                "found.ended_at is not None or (expected is not None and (found.state, found.step) != expected)",
                "False",
            ),
        ),
    ),
    _one("held rollout advances", "rollouts", RolloutTransitions, "advance", "if before.held:", "if False:"),
    _one(
        "judgement apart from its move",
        "rollouts",
        RolloutKeeper,
        "_act",
        "with self._database.transaction() as connection:\n"
        "        self._judgements.add(judgement, within=connection)\n",
        "self._judgements.add(judgement)\n    with self._database.transaction() as connection:\n",
    ),
    _one(
        "release activated beside a rollout",
        "rollouts",
        RolloutTransitions,
        "require_permission",
        "self._no_other(scope, application, connection)",
        "pass",
    ),
    _one(
        "promotion without the pointer",
        "rollouts",
        RolloutTransitions,
        "_enter",
        "self.releases.activate(scope, rollout.application, candidate, principal, reason, within=connection)",
        'self.releases.set_stage(scope, candidate, "live", principal=principal, reason=reason, within=connection)',
    ),
    _one(
        "acknowledged before the commit",
        "evidence",
        GroupCommit,
        "_commit",
        "outcomes += [(future, *self._apply(connection, effect)) for effect, future in group]",
        "outcomes += [(future, *self._apply(connection, effect)) for effect, future in group]\n"
        "            for future, value, failure in outcomes:\n                _resolve(future, value, failure)",
    ),
    _one("refused effect is kept", "evidence", Database, "savepoint", '"ROLLBACK TO part"', '"SELECT 1"'),
    _one(
        "audit number taken outside the transaction",
        "evidence",
        AuditLog,
        "append",
        "with self.database.writing(within) as connection:\n        self.append_all([one], within=connection)",
        "rows, nodes, head = _extended(self.head(scope), [one])\n"
        "    with self.database.writing(within) as connection:\n"
        "        self._move(scope, head, connection)\n"
        "        driver_sql(connection, *insertion(self.database, scope, rows))",
    ),
    _one("audit head believed from memory", "evidence", AuditLog, "_extend", "within, since=left[1])", "within)"),
    _one(
        "audit group dropped when its commit fails",
        "evidence",
        AuditWriter,
        "_write",
        "self._changed.wait_for(lambda: False, pause)\n            continue",
        "self._changed.wait_for(lambda: False, pause)",
    ),
    _one(
        "offset moved before its events",
        "streams",
        StreamConsumer,
        "_apply",
        "self._overlay.apply(moves, events)",
        "self._overlay.apply(moves, ())\n    self._overlay.apply({}, events)",
    ),
    _one(
        "partition moved from where it is not",
        "streams",
        LmdbOverlay,
        "apply",
        "if any(progress[moved.view][moved.number] != move.before for moved, move in moves.items()):",
        "if False:",
    ),
    _one(
        "offset of another partition",
        "streams",
        StreamConsumer,
        "_poll",
        "reading.progress[follower.prefix][part].offset",
        "reading.progress[follower.prefix][0].offset",
    ),
    _one(
        "late by what one partition saw",
        "streams",
        StreamConsumer,
        "_apply",
        "part, event_time = partition_of(keys), microseconds(item.event.event_time)",
        "part, event_time = partition_of(keys), microseconds(item.event.event_time)\n"
        "            if part not in late:\n                continue",
    ),
    _one(
        "event of an entity in the partition of another",
        "streams",
        StreamConsumer,
        "_apply",
        "partition_of(keys)",
        "partition_of(keys[:0])",
    ),
    _one(
        "partition that no worker is assigned",
        "streams",
        stream_partitions,
        "assigned",
        "every[place * len(every) // count",
        "every[-(-place * len(every) // count)",
    ),
    _one(
        "partition never given back",
        "streams",
        StreamPartitions,
        "balance",
        "given = self._held - own",
        "own |= self._held\n    given = self._held - own",
    ),
    _one("event id forgotten", "streams", EventLog, "_unknown", "if index not in known", "if index"),
    _one(
        "lease taken upon what was read before",
        "streams",
        ProcessLeases,
        "acquire_all",
        "if name not in renewed and not self._taken(known.get(name), holder, gone)",
        "if name not in renewed",
    ),
    _one(
        "lease taken before it is over",
        "streams",
        ProcessLeases,
        "_taken",
        "self._database.clock.now()",
        "self._database.clock.now() + timedelta(seconds=3)",
    ),
    _one(
        "lease changes hands in one epoch",
        "streams",
        ProcessLeases,
        "acquire_all",
        "found.epoch + 1 if",
        "found.epoch if",
    ),
    _one(
        "lease of another renewed",
        "streams",
        ProcessLeases,
        "acquire_all",
        "if found.holder == holder]",
        "]",
    ),
    _one("lease of another given back", "streams", ProcessLeases, "release_all", " & (_table.c.holder == holder)", ""),
    _one(
        "duties without the lease",
        "streams",
        Duties,
        "_hold",
        "if await self._holder.renew(self._name) is False:",
        "if await self._renewed() and False:",
    ),
    *CONDUCTOR_MUTANTS,
)
