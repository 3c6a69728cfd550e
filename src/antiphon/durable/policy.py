"""Class of work, attempts and time of a workflow's runs: declared once, where the workflow is registered."""

from __future__ import annotations

import msgspec

CONTROL = "control"
"""The class of workflows that name none: what keeps a project going, and is short."""


class WorkflowPolicy(msgspec.Struct, frozen=True):
    """The bounds under which runs of a workflow are worked on.

    Attributes:
        work: the class of work whose slots they take.
    """

    work: str = CONTROL


DEFAULT_POLICY = WorkflowPolicy()
