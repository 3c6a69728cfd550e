"""Runs that failed for good: the evidence that stays of their attempts, and the ways on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, NOON
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.durable.attempts import RunAttempts
from antiphon.durable.claims import ServedRuns
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.run import Run, RunResult, StepUnderWay
from antiphon.durable.runs import Runs
from antiphon.governance.encryption.sealing import AesGcmCodec

LEASE = timedelta(seconds=10)
ALL = ServedRuns("dev")
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["plaintext", "encrypted"], autouse=True)
def _mode(request: pytest.FixtureRequest, database: Database) -> None:
    """The contract holds in both modes."""
    if request.param == "encrypted":
        database.codec = AesGcmCodec(Keys())


def claimed(runs: Runs, worker: str = "w1") -> Run:
    run = runs.claim(worker, ALL, LEASE)
    assert run is not None
    return run


def failed(
    database: Database, clock: ManualClock, *under_way: StepUnderWay, records: tuple[str, ...] = ("read", "build")
) -> Run:
    """A run that recorded these steps, a minute each, and failed for good."""
    runs = Runs(database)
    runs.submit(DEV, "refresh", {"views": ["a"]}, key="noon", max_attempts=1)
    held = claimed(runs)
    for name in records:
        began = clock.now()
        clock.advance(MINUTE)
        assert runs.heartbeat(held, timedelta(hours=1)) is None
        runs.record(held, name, 0, {"of": name}, began)
    clock.advance(MINUTE)
    runs.fail(held, "The disk is full.", under_way=under_way)
    return runs.get(DEV, held.id)


def test_attempts_that_failed_or_were_lost_stay(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    identity = runs.submit(DEV, "refresh", {}, max_attempts=3)
    first = claimed(runs, "w1")
    clock.advance(MINUTE / 10)
    runs.fail(first, "The source is away.", clock.now(), [StepUnderWay("read", 0), StepUnderWay("list", 2)])
    second = claimed(runs, "w2")
    runs.heartbeat(second, LEASE, under_way=[StepUnderWay("publish", 0, True)])
    clock.advance(LEASE + MINUTE)
    third = claimed(runs, "w3")
    assert runs.get(DEV, identity).under_way == ()
    runs.end(third, RunResult({"rows": 3}, "failed", "No row is left."))
    shown = [
        (one.epoch, one.attempt, one.outcome, one.worker, one.started_at, one.ended_at, one.under_way, one.error)
        for one in RunAttempts(database).list(DEV, identity)
    ]
    began = NOON + MINUTE / 10
    publish = (StepUnderWay("publish", 0, True),)
    assert shown == [
        (1, 1, "failed", "w1", NOON, began, (StepUnderWay("read"), StepUnderWay("list", 2)), "The source is away."),
        (2, 2, "lost", "w2", began, began + LEASE, publish, None),
        (3, 3, "failed", "w3", began + LEASE + MINUTE, began + LEASE + MINUTE, (), "No row is left."),
    ]


def test_what_went_well_or_was_given_back_is_no_failed_attempt(database: Database) -> None:
    runs = Runs(database)
    identity = runs.submit(DEV, "refresh", {})
    runs.give_back(claimed(runs))
    runs.end(claimed(runs), {})
    assert RunAttempts(database).list(DEV, identity) == []


def test_errors_of_attempts_are_not_readable_in_an_encrypted_project(database: Database, clock: ManualClock) -> None:
    database.codec = AesGcmCodec(Keys())
    failed(database, clock)
    with database.read() as connection:
        assert "disk" not in str(connection.execute(sa.select(schema.run_attempts.c.error)).all())


def test_a_retried_run_goes_on_from_its_records_with_attempts_anew(database: Database, clock: ManualClock) -> None:
    run, runs = failed(database, clock), Runs(database)
    clock.advance(MINUTE)
    with database.transaction() as connection:
        queued = DeadLetters(database).retry(DEV, run.id, within=connection)
    assert (queued.status, queued.attempts, queued.error, queued.ended_at, queued.key) == (
        "queued",
        0,
        None,
        None,
        "noon",
    )
    again = claimed(runs)
    assert (again.id, again.attempts, again.started_at) == (run.id, 1, clock.now())
    steps = runs.steps(again.scope, again.id)
    assert [(one.name, one.result) for one in steps] == [("read", {"of": "read"}), ("build", {"of": "build"})]
    runs.fail(again, "It is still full.")
    assert [one.error for one in RunAttempts(database).list(DEV, run.id)] == ["The disk is full.", "It is still full."]


def test_only_a_run_that_failed_is_retried(database: Database) -> None:
    runs = Runs(database)
    letters, identity = DeadLetters(database), runs.submit(DEV, "refresh", {})
    for _ in range(2):
        with database.transaction() as connection, pytest.raises(ConflictError, match="has not failed"):
            letters.retry(DEV, identity, within=connection)
        if runs.get(DEV, identity).status == "queued":
            runs.end(claimed(runs), {})
    with database.transaction() as connection, pytest.raises(NotFoundError):
        letters.retry(DEV, "run_none", within=connection)


@pytest.mark.parametrize(("step", "kept"), [("read", []), ("build", ["read"]), ("publish", ["read", "build"])])
def test_a_fork_has_the_records_before_a_step_and_leaves_the_old_run(
    database: Database, clock: ManualClock, step: str, kept: list[str]
) -> None:
    run, runs = failed(database, clock, StepUnderWay("publish", 0, True)), Runs(database)
    before = runs.steps(run.scope, run.id)
    with database.transaction() as connection:
        fork = DeadLetters(database).fork(DEV, run.id, step, within=connection)
    assert (fork.status, fork.workflow, fork.arguments, fork.max_attempts) == ("queued", "refresh", {"views": ["a"]}, 1)
    assert [one.name for one in runs.steps(DEV, fork.id)] == kept
    old = runs.get(DEV, run.id)
    assert (fork.forked_from, old.forked_to, fork.key) == (run.id, fork.id, None)
    assert (old.status, old.error, runs.steps(run.scope, run.id)) == ("failed", "The disk is full.", before)
    assert claimed(runs).id == fork.id


def test_what_ran_beside_a_step_is_done_again_in_a_fork(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    identity = runs.submit(DEV, "refresh", {})
    held, began = claimed(runs), clock.now()
    clock.advance(timedelta(seconds=1))
    runs.record(held, "beside", 0, 1, began)
    clock.advance(timedelta(seconds=1))
    runs.record(held, "step", 0, 2, began)
    runs.end(held, {})
    with database.transaction() as connection:
        fork = DeadLetters(database).fork(DEV, identity, "step", within=connection)
    assert runs.steps(DEV, fork.id) == []


def test_a_fork_begins_at_a_step_of_a_run_that_has_ended(database: Database, clock: ManualClock) -> None:
    run, runs = failed(database, clock), Runs(database)
    other = runs.submit(DEV, "refresh", {})
    with database.transaction() as connection:
        with pytest.raises(NotFoundError, match="came to no step 'rea'") as refused:
            DeadLetters(database).fork(DEV, run.id, "rea", within=connection)
        assert "read, build" in str(refused.value.next_step)
        with pytest.raises(ConflictError, match="has not ended"):
            DeadLetters(database).fork(DEV, other, "read", within=connection)


def test_a_skipped_step_has_the_result_that_was_given(database: Database, clock: ManualClock) -> None:
    run, runs = failed(database, clock, StepUnderWay("publish", 1)), Runs(database)
    with database.transaction() as connection:
        queued = DeadLetters(database).skip(DEV, run.id, "publish", {"n": 7}, "ada", within=connection)
    assert (queued.status, queued.under_way) == ("queued", ())
    *_, skipped = runs.steps(run.scope, run.id)
    assert (skipped.name, skipped.occurrence, skipped.result, skipped.recorded_by) == ("publish", 1, {"n": 7}, "ada")
    again = claimed(runs)
    steps = runs.steps(again.scope, again.id)
    assert [one.result for one in steps if (one.name, one.occurrence) == ("publish", 1)] == [{"n": 7}]


@pytest.mark.parametrize(
    ("under_way", "step", "result", "error", "why"),
    [
        (StepUnderWay("publish", 0, True), "publish", 1, ConflictError, "is transactional"),
        (StepUnderWay("publish"), "read", 1, ConflictError, "did not fail at a step 'read'"),
        (None, "publish", 1, ConflictError, "did not fail at a step"),
        (StepUnderWay("read"), "read", 1, ConflictError, "has a result already"),
        (StepUnderWay("publish"), "publish", object(), InvalidInputError, "no JSON"),
    ],
)
def test_a_step_is_skipped_only_where_its_record_says_nothing_of_its_effect(
    database: Database,
    clock: ManualClock,
    under_way: StepUnderWay | None,
    step: str,
    result: Any,
    error: type[Exception],
    why: str,
) -> None:
    run = failed(database, clock, *([under_way] if under_way else []))
    with pytest.raises(error, match=why), database.transaction() as connection:
        DeadLetters(database).skip(DEV, run.id, step, result, "ada", within=connection)
    assert Runs(database).get(DEV, run.id).status == "failed"
    assert [one.name for one in Runs(database).steps(DEV, run.id)] == ["read", "build"]


def test_a_run_whose_claim_left_no_moment_is_claimed_like_any_other(database: Database, clock: ManualClock) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "refresh", {})
    values = {"status": "running", "worker": "ghost", "lease_until": NOON, "epoch": 1, "attempts": 1}
    with database.transaction() as connection:
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(**values))
    clock.advance(MINUTE)
    assert claimed(runs).id == run
    (lost,) = RunAttempts(database).list(DEV, run)
    assert (lost.outcome, lost.worker) == ("lost", "ghost")
