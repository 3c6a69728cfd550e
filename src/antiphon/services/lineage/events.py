"""Derives the events of a run. Pure: of the same record and the same assets they are the same, to the byte.

Invariant: an event never changes once it could be sent, so that one that is sent twice is the same one: the first says
nothing but that the run started, the last is of a run that has ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from antiphon.durable.run import ENDED, Run
from antiphon.services.lineage.values import EventType, LineageDataset, LineageEvent, RunReferences

RUN_IDS = uuid.UUID("0d7a2f0e-51d3-5b6e-9a53-6a0f1e6f8c11")
"""Namespace of the UUIDs of runs (version 5, RFC 9562)."""

_TYPES: dict[str, EventType] = {
    "succeeded": "COMPLETE",
    "succeeded_with_failures": "COMPLETE",
    "failed": "FAIL",
    "cancelled": "ABORT",
}


def run_id(scope_namespace: str, run: str) -> str:
    """The UUID of a run: the same wherever and whenever it is asked for."""
    return str(uuid.uuid5(RUN_IDS, f"{scope_namespace}/{run}"))


def job_name(run: Run, subject: str) -> str:
    """``WORKFLOW.SUBJECT``, or the workflow where there is no subject."""
    return f"{run.workflow}.{subject}" if subject else run.workflow


def events_of(
    run: Run,
    references: RunReferences,
    inputs: Sequence[LineageDataset],
    outputs: Sequence[LineageDataset],
    *,
    namespace: str,
    parent_job: str | None = None,
) -> tuple[LineageEvent, ...]:
    """The events of a run so far: none while it waits, one while it works, two once it has ended.

    Args:
        inputs, outputs: the assets that the references name.
        parent_job: name of the job whose run ordered it.
    """
    if run.status == "queued":
        return ()
    parent = None if references.parent is None else run_id(namespace, references.parent)
    begun = LineageEvent(
        "START", run.created_at, run.id, run_id(namespace, run.id), namespace, job_name(run, references.subject),
        parent_id=parent, parent_job=None if parent is None else parent_job,
    )  # fmt: skip
    if run.status not in ENDED or run.ended_at is None:
        return (begun,)
    ended = LineageEvent(
        _TYPES[run.status], run.ended_at, run.id, begun.run_id, namespace, begun.job, tuple(inputs), tuple(outputs),
        parent, begun.parent_job, references.moment,
        f"`antiphon runs show {run.id}` says why." if run.status == "failed" else None,
    )  # fmt: skip
    return (begun, ended)
