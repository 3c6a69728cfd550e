from __future__ import annotations

import pytest
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.batch.jobs import BatchJob, JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.core.errors import ConflictError, NotFoundError


def new_job(jobs: Jobs, **fields: str) -> BatchJob:
    return jobs.create(
        DEV, application="desk", release="rel_1", input="in.csv", output="out.csv", principal="me", **fields
    )


def rows(*lines: int, by: str = "first") -> list[JobRow]:
    return [JobRow(line, {"by": by}) for line in lines]


def test_a_job_is_made_once_under_its_id(database: Database) -> None:
    jobs = Jobs(database)
    job = new_job(jobs, job="job_1")
    assert (job.status, job.epoch, job.total, job.rows_done) == ("queued", 0, None, 0)
    assert new_job(jobs, job="job_1") == job
    assert new_job(jobs).id != new_job(jobs).id
    assert len(jobs.list(DEV)) == 3
    with pytest.raises(NotFoundError):
        jobs.get(OTHER, "job_1")


def test_the_first_row_of_a_line_stays(database: Database) -> None:
    jobs = Jobs(database)
    job = new_job(jobs)
    epoch = jobs.take_over(DEV, job.id)
    assert jobs.write_rows(DEV, job.id, epoch, rows(0, 1, 2)) == 3
    assert (
        jobs.write_rows(DEV, job.id, epoch, [*rows(1, 2, by="second"), JobRow(3, {"by": "second"}, failed=True)]) == 1
    )
    assert jobs.write_rows(DEV, job.id, epoch, []) == 0
    assert [row.payload["by"] for row in jobs.rows(DEV, job.id)] == ["first", "first", "first", "second"]
    now = jobs.get(DEV, job.id)
    assert (now.rows_done, now.rows_failed, now.status) == (4, 1, "running")
    assert jobs.done_lines(DEV, job.id) == {0, 1, 2, 3}


def test_rows_come_in_the_order_of_their_lines_page_by_page(database: Database) -> None:
    jobs = Jobs(database)
    job = new_job(jobs)
    epoch = jobs.take_over(DEV, job.id)
    for line in reversed(range(0, 1100, 100)):
        jobs.write_rows(DEV, job.id, epoch, rows(*reversed(range(line, line + 100))))
    assert [row.line for row in jobs.rows(DEV, job.id)] == list(range(1100))
    assert [row.line for row in jobs.page(DEV, job.id, 41, 2)] == [42, 43]


def test_rows_that_failed_are_found_by_themselves_and_jobs_from_behind_one_on(database: Database) -> None:
    jobs = Jobs(database)
    made = [new_job(jobs, job=f"job_{number}") for number in range(4)]
    epoch = jobs.take_over(DEV, "job_0")
    jobs.write_rows(DEV, "job_0", epoch, [JobRow(line, {}, failed=line % 3 == 0) for line in range(10)])
    assert [row.line for row in jobs.page(DEV, "job_0", 0, 2, failed=True)] == [3, 6]
    assert [row.line for row in jobs.page(DEV, "job_0", 0, 3, failed=False)] == [1, 2, 4]
    first = jobs.list(DEV, 2)
    behind = jobs.list(DEV, 2, (first[-1].created_at, first[-1].id))
    assert {one.id for one in (*first, *behind)} == {one.id for one in made}
    assert jobs.list(DEV, 2, (behind[-1].created_at, behind[-1].id)) == []
    assert jobs.list(OTHER, 2, (first[-1].created_at, first[-1].id)) == []


def test_a_worker_that_lost_the_job_writes_nothing(database: Database) -> None:
    jobs = Jobs(database)
    job = new_job(jobs)
    old = jobs.take_over(DEV, job.id)
    new = jobs.take_over(DEV, job.id)
    assert new == old + 1
    with pytest.raises(ConflictError, match="may not write"):
        jobs.write_rows(DEV, job.id, old, rows(0))
    with pytest.raises(ConflictError, match="may not write"):
        jobs.set_status(DEV, job.id, "completed", epoch=old)
    assert jobs.done_lines(DEV, job.id) == set()
    jobs.write_rows(DEV, job.id, new, rows(0))


def test_an_ended_job_stays_as_it_ended(database: Database) -> None:
    jobs = Jobs(database)
    job = new_job(jobs)
    epoch = jobs.take_over(DEV, job.id)
    ended = jobs.set_status(DEV, job.id, "completed", epoch=epoch)
    assert ended.status == "completed"
    assert jobs.set_status(DEV, job.id, "completed").status == "completed"
    for act in (
        lambda: jobs.set_status(DEV, job.id, "cancelled"),
        lambda: jobs.take_over(DEV, job.id),
        lambda: jobs.write_rows(DEV, job.id, epoch, rows(0)),
    ):
        with pytest.raises(ConflictError):
            act()
    assert [job for job in jobs.list(DEV) if job.status == "completed"] == [ended]
