"""Every durable workflow of the product, by the name that its runs are kept under."""

from collections.abc import Mapping
from typing import get_args

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.definitions.schedules import WorkClass
from antiphon.durable.policy import CONTROL, WorkflowPolicy
from antiphon.features.monitoring.skew.selection import WORKFLOW as SKEW
from antiphon.features.offline.refresh import WORKFLOW as REFRESH
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

WEBHOOK = "webhook"
"""Of ``services/webhooks.py``."""

EVALUATE = "evaluate"
"""Of ``services/learning/evaluation_runs.py``."""

POLICIES: Mapping[str, WorkflowPolicy] = {
    REFRESH: WorkflowPolicy("refresh"),
    TRAIN: WorkflowPolicy("training"),
    REBUILD: WorkflowPolicy("training"),
    EVALUATE: WorkflowPolicy("evaluation"),
    TRY: WorkflowPolicy("evaluation"),
    REGRESSIONS: WorkflowPolicy("evaluation"),
    OPTIMIZE: WorkflowPolicy("evaluation"),
    DRIFT: WorkflowPolicy("evaluation"),
    SKEW: WorkflowPolicy("evaluation"),
    TABLE_JOB: WorkflowPolicy("batch"),
    OPENAI_BATCH: WorkflowPolicy("batch"),
    APPLY: WorkflowPolicy(CONTROL),
    GATES: WorkflowPolicy(CONTROL),
    WEBHOOK: WorkflowPolicy(CONTROL),
}
"""Every workflow, with the class of work whose slots its runs take."""

WORK: Mapping[WorkClass, tuple[str, ...]] = {
    work: tuple(name for name, policy in POLICIES.items() if policy.work == work) for work in get_args(WorkClass)
}
"""Workflows of each class of work that a freeze or a window holds. Applies, gates and deliveries are never held."""

__all__ = [
    "APPLY",
    "DRIFT",
    "EVALUATE",
    "GATES",
    "MOST_CHECKS",
    "OPENAI_BATCH",
    "OPTIMIZE",
    "POLICIES",
    "REBUILD",
    "REFRESH",
    "REGRESSIONS",
    "SKEW",
    "TABLE_JOB",
    "TRAIN",
    "TRY",
    "WEBHOOK",
    "WORK",
]
