"""Job rows against a model: a dictionary that keeps the first row of each line, and the epoch that may write."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.core.errors import ConflictError

written = st.lists(st.builds(JobRow, st.integers(0, 12), st.fixed_dictionaries({"v": st.integers()}), st.booleans()))


class Rows(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_database(Path(self.folder.name))
        self.jobs = Jobs(self.database)
        self.job = self.jobs.create(DEV, application="a", release="r", input="i", output="o", principal="p").id
        self.epoch = 0
        self.ended = False
        self.rows: dict[int, JobRow] = {}

    @precondition(lambda self: not self.ended)
    @rule()
    def take_over(self) -> None:
        epoch = self.jobs.take_over(DEV, self.job)
        assert epoch == self.epoch + 1
        self.epoch = epoch

    @rule(rows=written, behind=st.integers(0, 2))
    def write(self, rows: list[JobRow], behind: int) -> None:
        try:
            new = self.jobs.write_rows(DEV, self.job, self.epoch - behind, rows)
        except ConflictError:
            assert behind > 0 or self.ended
            return
        assert not rows or (behind == 0 and not self.ended)
        before = len(self.rows)
        for row in rows:
            self.rows.setdefault(row.line, row)
        assert new == len(self.rows) - before

    @precondition(lambda self: not self.ended)
    @rule(behind=st.integers(0, 1))
    def complete(self, behind: int) -> None:
        try:
            self.jobs.set_status(DEV, self.job, "completed", epoch=self.epoch - behind)
            self.ended = True
        except ConflictError:
            pass
        assert self.ended == (behind == 0)

    @invariant()
    def the_rows_are_the_first_ones_in_order(self) -> None:
        assert list(self.jobs.rows(DEV, self.job)) == [self.rows[line] for line in sorted(self.rows)]
        assert self.jobs.done_lines(DEV, self.job) == set(self.rows)
        job = self.jobs.get(DEV, self.job)
        assert (job.rows_done, job.rows_failed) == (len(self.rows), sum(row.failed for row in self.rows.values()))

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()


Rows.TestCase.settings = settings(max_examples=25, stateful_step_count=12)
TestRows = Rows.TestCase
