"""Every durable workflow of the product, by the name that its runs are kept under."""

from collections.abc import Mapping
from typing import get_args

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.definitions.schedules import WorkClass
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

USER_WORKFLOWS: Mapping[WorkClass, str] = {one: f"user-{one}" for one in get_args(WorkClass)}
"""Of ``services/conducting/user_workflows.py``: workflows of the user's own, one for each class of work."""

WORK: Mapping[WorkClass, tuple[str, ...]] = {
    "refresh": (REFRESH, USER_WORKFLOWS["refresh"]),
    "training": (TRAIN, REBUILD, USER_WORKFLOWS["training"]),
    "evaluation": (EVALUATE, TRY, REGRESSIONS, OPTIMIZE, DRIFT, SKEW, USER_WORKFLOWS["evaluation"]),
    "batch": (TABLE_JOB, OPENAI_BATCH, USER_WORKFLOWS["batch"]),
}
"""Workflows of each class of work that a freeze or a window holds. Applies, gates and deliveries are never held."""

__all__ = [
    "APPLY",
    "DRIFT",
    "EVALUATE",
    "GATES",
    "OPENAI_BATCH",
    "OPTIMIZE",
    "REBUILD",
    "REFRESH",
    "REGRESSIONS",
    "SKEW",
    "TABLE_JOB",
    "TRAIN",
    "TRY",
    "WEBHOOK",
]
