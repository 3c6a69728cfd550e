"""Class of work, attempts and time of a workflow's runs: declared once, where the workflow is registered."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from antiphon.definitions.workflows import RollbackPolicy

CONTROL = "control"
"""The class of workflows that name none: what keeps a project going, and is short."""


class WorkflowPolicy(msgspec.Struct, frozen=True):
    """The bounds under which runs of a workflow are worked on, and what is done when one fails.

    Attributes:
        work: the class of work whose slots they take.
        attempts: at most so many, unless an order says otherwise.
        first_wait: before the second attempt; doubled for every further one, and at most ``longest_wait``.
        timeout: of an attempt; then it is canceled and has failed. ``None``: no bound.
        rollback: when recorded steps that can be undone are. Unless ``never``, failures that a workflow goes on past
            are recorded too.
    """

    work: str = CONTROL
    attempts: int = 5
    first_wait: timedelta = timedelta(seconds=1)
    longest_wait: timedelta = timedelta(minutes=5)
    timeout: timedelta | None = None
    rollback: RollbackPolicy = "never"

    def wait_after(self, attempt: int) -> timedelta:
        """The wait after an attempt that failed, by its number from 1."""
        # Beyond 2**20 times the first one the longest is reached, and numbers stay small.
        doubled: timedelta = self.first_wait * 2 ** min(attempt - 1, 20)
        return min(doubled, self.longest_wait)


DEFAULT_POLICY = WorkflowPolicy()
