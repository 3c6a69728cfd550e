"""Every durable workflow of the product, by the name that its runs are kept under."""

from collections.abc import Mapping
from datetime import timedelta
from typing import get_args

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.definitions.schedules import WorkClass
from antiphon.durable.policy import CONTROL, WorkflowPolicy
from antiphon.features.monitoring.skew.selection import WORKFLOW as SKEW
from antiphon.features.offline.backfill import WORKFLOW as BACKFILL
from antiphon.features.offline.refresh import WORKFLOW as REFRESH
from antiphon.learning.datasets.partitions import WORKFLOW as DATASET
from antiphon.learning.outcomes.drift_runs import WORKFLOW as DRIFT
from antiphon.learning.retraining.rebuild import WORKFLOW as REBUILD
from antiphon.learning.retraining.workflow import WORKFLOW as TRAIN
from antiphon.learning.workbench.optimizer import WORKFLOW as OPTIMIZE
from antiphon.learning.workbench.regressions import WORKFLOW as REGRESSIONS
from antiphon.learning.workbench.trials import WORKFLOW as TRY

APPLY = "apply"
"""Of ``services/apply/workflow.py``."""

GATES = "gates"
"""Of ``services/learning/gate_runs.py``."""

MOST_CHECKS = 16
"""Releases that a worker holds against their gates at once; most of the time they wait."""

NOTIFY = "notify"
"""Of ``services/notifications``."""

PLAYBOOK = "playbook"
"""Of ``services/playbooks``."""

EVALUATE = "evaluate"
"""Of ``services/learning/evaluation_runs.py``."""

EXPORT = "export"
"""Of ``services/export/scheduled.py``."""

USER_WORKFLOWS: Mapping[WorkClass, str] = {one: f"user-{one}" for one in get_args(WorkClass)}
"""Of ``services/conducting/user_workflows.py``: workflows of the user's own, one for each class of work."""

_DAY = timedelta(days=1)

POLICIES: Mapping[str, WorkflowPolicy] = {
    # A source that answers no more must not hold a slot for ever.
    REFRESH: WorkflowPolicy("refresh", timeout=_DAY / 4),
    # Partitions that are done stay, so each attempt comes further; it may be paused, frozen and slowed for days.
    BACKFILL: WorkflowPolicy("backfill", attempts=20),
    DATASET: WorkflowPolicy("backfill", attempts=20),
    # An attempt counts for every worker that died with it: a training is long, and goes on where it was. It may be
    # stopped for days while users are served.
    TRAIN: WorkflowPolicy("training", attempts=20),
    REBUILD: WorkflowPolicy("training", attempts=20),
    EVALUATE: WorkflowPolicy("evaluation", timeout=_DAY),
    TRY: WorkflowPolicy("evaluation", timeout=_DAY),
    REGRESSIONS: WorkflowPolicy("evaluation", timeout=_DAY),
    OPTIMIZE: WorkflowPolicy("evaluation", timeout=_DAY),
    DRIFT: WorkflowPolicy("evaluation", timeout=_DAY / 4),
    SKEW: WorkflowPolicy("evaluation", timeout=_DAY / 4),
    # Workers may die often while a long job runs: its rows stay, so that each attempt comes further.
    TABLE_JOB: WorkflowPolicy("batch", attempts=1_000),
    OPENAI_BATCH: WorkflowPolicy("batch", attempts=1_000),
    # A disk or a store that is full may stay so for hours; each attempt goes on with the next file.
    EXPORT: WorkflowPolicy("batch", attempts=100),
    # Both may wait long: for an embargo, and for an engine.
    APPLY: WorkflowPolicy(CONTROL),
    GATES: WorkflowPolicy(CONTROL),
    # With doubled pauses up to five minutes they take a day: a receiver that was away gets what it missed.
    NOTIFY: WorkflowPolicy("notifications", attempts=300, timeout=_DAY / 720),
    # What is half done is undone; a step may wait for half an hour for the run that it queued again, and is tried for
    # some minutes.
    PLAYBOOK: WorkflowPolicy("playbooks", first_wait=_DAY / 8640, timeout=_DAY / 12, rollback="always"),
    **{name: WorkflowPolicy(work) for work, name in USER_WORKFLOWS.items()},
}
"""Every workflow, with the class of work whose slots its runs take, how often and how long they are tried."""

WORK: Mapping[WorkClass, tuple[str, ...]] = {
    work: tuple(name for name, policy in POLICIES.items() if policy.work == work) for work in get_args(WorkClass)
}
"""Workflows of each class of work that a freeze or a window holds. Applies, gates, deliveries and playbooks are never
held."""

__all__ = [
    "APPLY",
    "BACKFILL",
    "DATASET",
    "DRIFT",
    "EVALUATE",
    "EXPORT",
    "GATES",
    "NOTIFY",
    "OPENAI_BATCH",
    "OPTIMIZE",
    "PLAYBOOK",
    "REBUILD",
    "REFRESH",
    "REGRESSIONS",
    "SKEW",
    "TABLE_JOB",
    "TRAIN",
    "TRY",
]
