"""Files and batches of requests, and the sizes that forecasts are made from, on every database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.batch.batch_work import BatchWork, EngineSupply, RowUsage, Sizes
from antiphon.catalog.batch.batches import Batch, Batches, LineError
from antiphon.catalog.batch.files import Files, StoredFile, new_file_id
from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, NotFoundError, TooLargeError
from antiphon.core.scope import Scope

HOUR = timedelta(hours=1)


def file(files: Files, size: int = 10, **fields: object) -> StoredFile:
    name = new_file_id()
    given = {"purpose": "batch", "filename": "näch.jsonl", "sha256": "aa", "path": f"dev/{name}", "principal": "me"}
    return files.add(DEV, file=name, size=size, **(given | fields))  # type: ignore[arg-type]


def batch(batches: Batches, input_file: str) -> Batch:
    return batches.create(
        DEV, endpoint="/v1/completions", input_file=input_file, principal="me", settings={"priority": 0}, window="24h",
        expires_at=NOON + 24 * HOUR, output_kept=timedelta(days=1), metadata={"night": "ä"},
    )  # fmt: skip


def test_files_are_listed_counted_and_forgotten(database: Database) -> None:
    files = Files(database)
    first, second = file(files), file(files, 20, purpose="batch_output")
    assert files.get(DEV, first.id) == first
    assert (first.filename, first.created_at) == ("näch.jsonl", NOON)
    listed = files.list(DEV, after=None, limit=9, order="asc", purpose=None)
    assert listed == [first, second]
    assert files.list(DEV, after=first.id, limit=9, order="asc", purpose=None) == [second]
    assert files.list(DEV, after=None, limit=9, order="desc", purpose="batch") == [first]
    assert (files.used(DEV), files.used(OTHER)) == (30, 0)
    assert files.paths(DEV) == {first.path, second.path}
    with pytest.raises(NotFoundError):
        files.get(OTHER, first.id)
    assert files.forget(DEV, first.id)
    assert not files.forget(DEV, first.id)
    assert files.used(DEV) == 20


def test_files_expire_and_keep_to_their_quota(database: Database, clock: ManualClock) -> None:
    files = Files(database)
    short = file(files, 60, expires_at=NOON + HOUR, quota=100)
    with pytest.raises(TooLargeError, match="come to 110"):
        file(files, 50, quota=100)
    assert files.expired() == []
    clock.advance(HOUR)
    assert [one.id for one in files.expired()] == [short.id]
    with pytest.raises(NotFoundError):
        files.get(DEV, short.id)


def test_a_batch_goes_from_status_to_status_and_only_its_holder_moves_it(database: Database) -> None:
    files, batches = Files(database), Batches(database)
    made = batch(batches, file(files).id)
    assert batches.get(DEV, made.id) == made
    assert (made.status, made.metadata) == ("validating", {"night": "ä"})
    old, epoch = batches.take_over(DEV, made.id), batches.take_over(DEV, made.id)
    with pytest.raises(ConflictError):
        batches.begin(DEV, made.id, old, model="m", total=2)
    begun = batches.begin(DEV, made.id, epoch, model="m", total=2)
    assert (begun.status, batches.status(DEV, made.id)) == ("in_progress", "in_progress")
    assert batches.cancel(DEV, made.id).status == "cancelling"
    assert batches.counts(DEV) == {"cancelling": 1}
    assert batches.list(OTHER) == []
    with pytest.raises(NotFoundError):
        batches.get(OTHER, made.id)


def test_a_batch_that_fails_says_of_which_line(database: Database) -> None:
    files, batches = Files(database), Batches(database)
    first, second = (batch(batches, file(files).id) for _ in range(2))
    failed = batches.fail(DEV, first.id, batches.take_over(DEV, first.id), [LineError("empty_file", "Nothing in it.")])
    assert (failed.status, failed.ended, failed.errors) == (
        "failed",
        True,
        (LineError("empty_file", "Nothing in it."),),
    )
    assert [one.id for one in batches.list(DEV)] == [second.id, first.id]
    assert [one.id for one in batches.list(DEV, after=second.id)] == [first.id]


def test_what_batch_work_took_and_got_is_added_up(database: Database, clock: ManualClock) -> None:
    work, batches = BatchWork(database), Batches(database)
    job = batch(batches, file(Files(database)).id).id
    work.declare(DEV, job, "m", Sizes(10, 1_000, 800, 320), NOON + HOUR)
    usage = RowUsage(2, 200, 64, 50, 20, 12, 0.5)
    work.used(DEV, job, usage)
    work.used(DEV, job, usage)
    work.used(DEV, "job_unknown", usage)
    work.declare(DEV, job, "m", Sizes(12), None)  # Once more, with what was measured kept.
    assert work.usage(DEV, [job, "job_unknown"]) == {job: usage + usage}
    began = NOON.timestamp()
    for seconds in (1.0, 2.0):
        work.supply(DEV, "worker", EngineSupply(began, seconds, seconds / 2))
    found = work.look(DEV)
    assert [(one.id, one.sizes, one.usage, one.rows_done, one.deadline) for one in found.open] == [
        (job, Sizes(12), usage + usage, 0, None)
    ]
    assert found.usages == (("m", usage + usage),)
    assert found.supplied == (EngineSupply(began, 3.0, 1.5),)
    # Tenants of an environment share its engine, and each project has its own measurements of it.
    assert (work.look(OTHER).open, work.look(OTHER).supplied) == (found.open, ())
    assert work.look(Scope(DEV.tenant, "prod")).open == ()
    clock.advance(timedelta(days=9))
    work.supply(DEV, "worker", EngineSupply(clock.now().timestamp(), 1.0, 1.0))
    assert [one.seconds for one in work.look(DEV).supplied] == [1.0]
