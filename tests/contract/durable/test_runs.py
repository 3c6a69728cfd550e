from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog import schema, sealed_columns
from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import ManualClock
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import LeaseLostError, ProgressReport, Run
from antiphon.durable.runs import Runs
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.governance.identity.tenants import Tenants

LEASE = timedelta(seconds=10)


@pytest.fixture(params=["plaintext", "encrypted"], autouse=True)
def _mode(request: pytest.FixtureRequest, database: Database) -> None:
    """The contract holds in both modes."""
    if request.param == "encrypted":
        database.codec = AesGcmCodec(Keys())


CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def claimed(runs: Runs, worker: str = "w1") -> Run:
    run = runs.claim(worker, ServedRuns("dev"), LEASE)
    assert run is not None
    return run


def test_a_key_makes_submitting_idempotent(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(database)
    with monkeypatch.context() as traced:
        traced.setattr("antiphon.durable.runs.traceparent", lambda: CALLER)
        first = runs.submit(DEV, "refresh", {"views": ["a"]}, key="noon")
    assert runs.submit(DEV, "refresh", {"views": ["a"]}, key="noon") == first
    assert runs.submit(OTHER, "refresh", {"views": ["a"]}, key="noon") != first
    assert runs.submit(DEV, "refresh", {"views": ["a"]}) != runs.submit(DEV, "refresh", {"views": ["a"]})
    for workflow, arguments in (("briefing", {"views": ["a"]}), ("refresh", {"views": ["b"]})):
        with pytest.raises(ConflictError, match="was used for another run"):
            runs.submit(DEV, workflow, arguments, key="noon")
    with pytest.raises(InvalidInputError, match="no JSON"):
        runs.submit(DEV, "refresh", {"views": object()})
    run = runs.get(DEV, first)
    assert run.key == "noon"
    assert (run.status, run.arguments, run.trace, run.created_at) == ("queued", {"views": ["a"]}, CALLER, NOON)
    with pytest.raises(NotFoundError):
        runs.get(OTHER, first)


def test_several_runs_are_read_at_once_by_their_ids(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(database)
    made = {runs.submit(DEV, "refresh", {"number": number}) for number in range(5)}
    elsewhere = runs.submit(OTHER, "refresh", {})
    monkeypatch.setattr("antiphon.durable.run_reader.MOST_NAMED", 2)
    found = runs.by_id(DEV, {*made, elsewhere, "run_none"})
    assert found.keys() == made
    assert sorted(run.arguments["number"] for run in found.values()) == list(range(5))
    assert runs.by_id(DEV, ()) == {}


def test_a_key_is_not_readable_in_an_encrypted_project(database: Database) -> None:
    database.codec = AesGcmCodec(Keys())
    runs = Runs(database)
    first, second = runs.submit(DEV, "refresh", {}, key="noon"), runs.submit(DEV, "refresh", {}, key="evening")
    with database.read() as connection:
        stored = connection.execute(sa.select(schema.runs.c.key, schema.runs.c.key_sealed)).all()
    assert "noon" not in str(stored)
    # The hash that stands in the column is no key, and a run with another one's key does not open.
    assert runs.submit(DEV, "refresh", {}, key=stored[0].key) not in (first, second)
    with database.transaction() as connection:
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == first).values(key="another"))
    with pytest.raises(CorruptionError, match="another index"):
        runs.get(DEV, first)
    assert runs.get(DEV, second).key == "evening"


def test_a_key_from_before_encryption_is_found_until_it_is_sealed_and_after(database: Database) -> None:
    keys, runs = Keys(), Runs(database)
    database.codec = PlainCodec()
    first = runs.submit(DEV, "refresh", {}, key="noon")
    database.codec = AesGcmCodec(keys, accept_plain=True)
    assert runs.submit(DEV, "refresh", {}, key="noon") == first
    for column in ("runs.arguments", "runs.key_sealed"):
        wanted = next(each for each in sealed_columns.SEALED_COLUMNS if each.name == column)
        assert sum(batch.changed for batch in sealed_columns.reseal(database, wanted, "encrypted")) == 1
    database.codec = AesGcmCodec(keys)
    assert runs.submit(DEV, "refresh", {}, key="noon") == first
    assert runs.get(DEV, first).key == "noon"


def test_runs_are_claimed_once_oldest_first(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    ids = []
    for name in ("a", "b"):
        ids.append(runs.submit(DEV, name, {}))
        clock.advance(timedelta(seconds=1))
    later = runs.submit(DEV, "c", {}, not_before=clock.now() + timedelta(seconds=5))
    assert runs.claim("w", ServedRuns("dev", ("b",)), LEASE) is not None
    assert claimed(runs).id == ids[0]
    assert runs.claim("w", ServedRuns("dev"), LEASE) is None
    clock.advance(timedelta(seconds=5))
    assert claimed(runs).id == later
    assert [run.status for run in runs.list(DEV)] == ["running"] * 3
    assert [run.workflow for run in runs.list(DEV, 1)] == ["c"]
    assert [run.id for run in runs.list(DEV, workflow="a")] == [ids[0]]


def test_a_fair_claim_is_of_the_tenant_with_fewest_under_way(database: Database, clock: ManualClock) -> None:
    runs, order = Runs(database), []
    for tenant, count in (("large", 4), ("small", 1), ("other", 1)):
        for _ in range(count):
            runs.submit(Scope(tenant, "dev"), "batch", {})
            clock.advance(timedelta(seconds=1))
    runs.submit(Scope("large", "dev"), "refresh", {})
    while (run := runs.claim("w", ServedRuns("dev", ("batch",)), timedelta(hours=1), fair=True)) is not None:
        order.append(run.scope.tenant)
        clock.advance(timedelta(seconds=1))
    assert order == ["large", "small", "other", "large", "large", "large"]


def test_a_worker_claims_runs_of_its_environment_alone(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    of_prod = runs.submit(Scope("default", "prod"), "batch", {})
    assert runs.claim("w", ServedRuns("dev"), LEASE) is None
    assert not runs.queued(ServedRuns("dev", ("batch",)))
    assert runs.queued(ServedRuns("prod", ("batch",)))
    held = runs.claim("w", ServedRuns("prod"), LEASE)
    assert held is not None
    assert held.id == of_prod
    assert runs.reclaim("w", "dev") == 0
    clock.advance(LEASE * 2)
    assert runs.claim("w2", ServedRuns("dev"), LEASE) is None, (
        "nor those that a dead worker of another environment left"
    )
    assert runs.claim("w2", ServedRuns("prod"), LEASE) is not None


def test_a_worker_claims_runs_of_its_tenant_and_shared_ones_of_tenants_without_a_worker(
    database: Database, clock: ManualClock
) -> None:
    runs, leases = Runs(database), ProcessLeases(database, "dev")
    served = ServedRuns("dev", ("refresh", "batch"), "default", ("batch",))
    theirs = ServedRuns("dev", ("refresh", "batch"), "acme", ("batch",))
    acme = Scope("acme", "dev")
    refresh, batch = (runs.submit(acme, workflow, {}) for workflow in ("refresh", "batch"))
    assert leases.acquire("worker/acme/w@host", "process", 10)
    assert leases.acquire("worker/default/acme/w@host", "own process", 60)
    assert runs.claim("w", served, LEASE) is None
    assert not runs.queued(served)
    assert runs.queued(theirs)
    assert runs.next_due(served) is None, "nothing is looked for again and again that is not claimed"
    assert runs.next_due(theirs) == timedelta()
    clock.advance(timedelta(seconds=11))
    assert runs.queued(served), "no worker of the tenant lives"
    taken = runs.claim("w", served, LEASE)
    assert taken is not None
    assert (taken.id, taken.scope) == (batch, acme)
    assert runs.claim("w", served, LEASE) is None
    clock.advance(LEASE * 2)
    assert leases.acquire("worker/acme/w@host", "process", 10)
    assert runs.claim("w", served, LEASE) is None, "nor goes on with one that its tenant's worker can take over"
    assert {run.id for run in iter(lambda: runs.claim("w2", theirs, LEASE), None)} == {refresh, batch}


def test_a_run_of_a_suspended_tenant_is_not_due(database: Database) -> None:
    runs, tenants, acme = Runs(database), Tenants(database), Scope("acme", "dev")
    served = ServedRuns("dev", ("refresh",), "acme")
    with database.transaction() as connection:
        tenants.create("acme", by="ann", within=connection)
    runs.submit(acme, "refresh", {})
    assert runs.next_due(served) == timedelta()
    with database.transaction() as connection:
        tenants.change("acme", "suspended", reason="r", by="ann", within=connection)
    assert runs.next_due(served) is None, "a worker would look for it without a pause"
    assert not runs.queued(served)


def test_a_run_given_back_goes_behind_those_that_wait(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    first, second = runs.submit(DEV, "batch", {}), runs.submit(DEV, "batch", {})
    assert runs.queued(ServedRuns("dev", ("batch",)))
    run = runs.claim("w", ServedRuns("dev", ("batch",)), LEASE, fair=True)
    assert run is not None
    clock.advance(timedelta(seconds=1))
    runs.give_back(run)
    following = runs.claim("w", ServedRuns("dev", ("batch",)), LEASE, fair=True)
    assert following is not None
    assert {run.id, following.id} == {first, second}
    assert runs.queued(ServedRuns("dev", ("batch",)))
    assert not runs.queued(ServedRuns("dev", ("refresh",)))


def test_a_dead_workers_run_is_claimed_when_its_lease_is_over(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    runs.submit(DEV, "a", {})
    dead = claimed(runs)
    clock.advance(LEASE)
    assert runs.claim("w2", ServedRuns("dev"), LEASE) is None
    clock.advance(timedelta(microseconds=1))
    taken = claimed(runs, "w2")
    assert (taken.id, taken.epoch, taken.attempts, taken.worker) == (dead.id, dead.epoch + 1, 2, "w2")


def test_a_heartbeat_keeps_the_lease(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    runs.submit(DEV, "a", {})
    run = claimed(runs)
    for done in range(3):
        clock.advance(LEASE)
        assert not runs.heartbeat(run, LEASE, ProgressReport(done, 3, "rows"))
    assert runs.claim("w2", ServedRuns("dev"), LEASE) is None
    now = runs.get(DEV, run.id)
    assert (now.done, now.total, now.note) == (2, 3, "rows")


def test_a_worker_started_again_takes_its_runs_back_at_once(database: Database) -> None:
    runs = Runs(database)
    runs.submit(DEV, "a", {})
    run = claimed(runs, "w1")
    assert runs.reclaim("w2", "dev") == 0
    assert runs.claim("w1", ServedRuns("dev"), LEASE) is None
    assert runs.reclaim("w1", "dev") == 1
    assert claimed(runs, "w1").id == run.id


def test_who_lost_the_lease_commits_nothing(database: Database, clock: ManualClock) -> None:
    runs, blobs = Runs(database), Blobs(database)
    runs.submit(DEV, "a", {})
    old = claimed(runs)
    clock.advance(LEASE + timedelta(seconds=1))
    new = claimed(runs, "w2")
    called = []
    for act in (
        lambda: runs.record(old, "step", 0, 1, NOON),
        lambda: runs.transact(old, "step", 0, lambda c: called.append(blobs.put(DEV, b"x", within=c)), NOON),
        lambda: runs.heartbeat(old, LEASE),
        lambda: runs.end(old, {}),
        lambda: runs.fail(old, "e"),
        lambda: runs.give_back(old),
        lambda: runs.end_cancelled(old),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert called == []
    assert runs.steps(DEV, old.id) == []
    assert runs.record(new, "step", 0, 1, NOON) == 1
    runs.end(new, {"ok": True})
    with pytest.raises(LeaseLostError):
        runs.record(new, "after", 0, 1, NOON)


def test_an_effect_and_its_step_are_one_transaction(database: Database) -> None:
    runs, blobs = Runs(database), Blobs(database)
    runs.submit(DEV, "a", {})
    run = claimed(runs)
    digest = runs.transact(run, "put", 0, lambda c: blobs.put(DEV, b"kept", within=c), NOON)
    assert [(one.name, one.result) for one in runs.steps(run.scope, run.id)] == [("put", digest)]

    def put_and_return_no_json(connection: object) -> object:
        blobs.put(DEV, b"undone", within=connection)  # type: ignore[arg-type]
        return object()

    with pytest.raises(InvalidInputError, match="result of step 'bad'"):
        runs.transact(run, "bad", 0, put_and_return_no_json, NOON)
    assert [(one.name, one.result) for one in runs.steps(run.scope, run.id)] == [("put", digest)]
    with pytest.raises(NotFoundError, match="no blob"):
        blobs.get(DEV, hashlib.sha256(b"undone").hexdigest())


def test_a_run_that_kills_its_workers_fails(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "a", {}, max_attempts=2)
    for _ in range(2):
        claimed(runs)
        clock.advance(LEASE + timedelta(seconds=1))
    assert runs.claim("w", ServedRuns("dev"), LEASE) is None
    ended = runs.get(DEV, run)
    assert ended.status == "failed"
    assert ended.error is not None
    assert "each of 2 attempts" in ended.error


def test_a_run_that_cannot_be_read_fails_and_the_next_is_claimed(database: Database) -> None:
    runs = Runs(database)
    bad = runs.submit(DEV, "refresh", {})
    with database.transaction() as connection:
        connection.execute(sa.update(schema.runs).values(arguments=b"\x00"))
    good = runs.submit(DEV, "refresh", {})
    assert claimed(runs).id == good
    with database.read() as connection:
        left = connection.execute(sa.select(schema.runs.c.status, schema.runs.c.worker).where(schema.runs.c.id == bad))
        assert tuple(left.one()) == ("failed", None)


def test_a_run_that_ends_as_its_lease_does_is_of_no_worker(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "refresh", {}, max_attempts=1)
    other = runs.submit(DEV, "refresh", {})
    claimed(runs)
    claimed(runs)
    runs.cancel(DEV, other)
    clock.advance(2 * LEASE)
    assert runs.claim("w2", ServedRuns("dev"), LEASE) is None
    ended = [runs.get(DEV, name) for name in (run, other)]
    assert [(one.status, one.worker, one.lease_until) for one in ended] == [
        ("failed", None, None),
        ("cancelled", None, None),
    ]


def test_who_lost_the_run_takes_no_job_over(database: Database, clock: ManualClock) -> None:
    runs, jobs = Runs(database), Jobs(database)
    runs.submit(DEV, "table_job", {"job": "job_1"})
    jobs.create(DEV, application="desk", release=None, input="i", output="", principal="me", job="job_1")
    lost = claimed(runs)
    clock.advance(2 * LEASE)
    holder = claimed(runs, "w2")
    assert runs.fenced(holder, partial(jobs.take_over, DEV, "job_1")) == 1
    with pytest.raises(LeaseLostError):
        runs.fenced(lost, partial(jobs.take_over, DEV, "job_1"))
    assert jobs.write_rows(DEV, "job_1", 1, [JobRow(0, {})]) == 1


def test_giving_back_does_not_count_as_an_attempt(database: Database) -> None:
    runs = Runs(database)
    runs.submit(DEV, "a", {}, max_attempts=1)
    for _ in range(3):
        run = claimed(runs)
        runs.give_back(run)
    assert runs.get(DEV, run.id).attempts == 0


def test_cancelling(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    queued, held, ended = (runs.submit(DEV, name, {}) for name in ("a", "b", "c"))
    assert runs.cancel(DEV, queued).status == "cancelled"
    run = runs.claim("w", ServedRuns("dev", ("b",)), LEASE)
    assert run is not None
    assert runs.cancel(DEV, held).status == "running"
    assert runs.heartbeat(run, LEASE)
    other = runs.claim("w", ServedRuns("dev", ("c",)), LEASE)
    assert other is not None
    runs.end(other, {"n": 1})
    assert runs.cancel(DEV, ended).status == "succeeded"
    # The holder dies before it sees the wish: nobody runs it again.
    clock.advance(LEASE + timedelta(seconds=1))
    assert runs.claim("w", ServedRuns("dev"), LEASE) is None
    assert [runs.get(DEV, r).status for r in (queued, held, ended)] == ["cancelled", "cancelled", "succeeded"]
    with pytest.raises(NotFoundError):
        runs.cancel(OTHER, held)


def test_times_of_the_last_steps_are_read_without_their_results(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    runs.submit(DEV, "w", {})
    run = claimed(runs)
    for number in range(5):
        clock.advance(timedelta(seconds=1))
        runs.record(run, f"step {number}", 0, {"number": number}, clock.now())
    last, total = runs.step_times(DEV, run.id, 2)
    assert ([one.name for one in last], total) == (["step 3", "step 4"], 5)
    assert [(one.started_at, one.ended_at) for one in last] == [
        (one.started_at, one.ended_at) for one in runs.steps(DEV, run.id)[-2:]
    ]
    assert runs.step_times(OTHER, run.id, 2) == ([], 0)
