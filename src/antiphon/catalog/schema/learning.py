"""Tables of learning: datasets, model versions, evaluations, outcomes; and of the prompt workbench."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, numbered, optional, refers, table, unique

# --- Learning: datasets, model versions and aliases, evaluations, outcomes.

datasets = table(
    "datasets",
    key("id"),
    columns(TEXT, "application", "kind", "logical_hash"),
    dated("document"),
    index("ix_datasets_application", "application", "created_at"),
)

model_versions = table(
    "model_versions",
    key("id"),
    columns(TEXT, "application"),
    columns(sa.BigInteger, "number"),
    columns(TEXT, "weights_sha256"),
    dated("document"),
    unique("application", "number"),
)

model_aliases = table(
    "model_aliases",
    numbered("application", "alias"),
    columns(TEXT, "model", "principal", "reason"),
    columns(Instant, "at"),
    refers("model", "model_versions"),
)

evaluations = table(
    "evaluations",
    key("id"),
    columns(TEXT, "application", "release", "dataset"),
    dated("document"),
    index("ix_evaluations_release", "release", "created_at"),
)

safety_reports = table(
    "safety_reports",
    key("id"),
    columns(TEXT, "application", "release"),
    dated("document"),
    index("ix_safety_reports_release", "release", "created_at"),
)

# What an evaluation under way was answered; it goes when the evaluation is recorded.
evaluation_answers = table(
    "evaluation_answers",
    key("evaluation", "question"),
    dated("answer"),
)

outcomes = table(
    "outcomes",
    key("id"),
    columns(TEXT, "application"),
    optional(TEXT, "prediction", "release", "role"),
    columns(TEXT, "outcome", "kind", "status"),
    optional(Instant, "as_of"),
    columns(Instant, "available_at"),
    dated("payload"),
    index("ix_outcomes_created", "application", "created_at"),
    index("ix_outcomes_prediction", "prediction"),
)

# --- The prompt workbench: trials of drafts, annotations of predictions, regression sets and their cases and runs.

prompt_trials = table(
    "prompt_trials",
    key("id"),
    columns(TEXT, "application", "release"),
    dated("document"),
    index("ix_prompt_trials_application", "application", "created_at"),
)

prediction_annotations = table(
    "prediction_annotations",
    key("id"),
    columns(TEXT, "prediction", "application", "annotator", "kind"),
    dated("payload"),
    index("ix_prediction_annotations_prediction", "prediction"),
    index("ix_prediction_annotations_application", "application", "created_at"),
)

regression_sets = table(
    "regression_sets",
    key("name"),
    key("version", kind=sa.BigInteger),
    columns(TEXT, "application"),
    dated("document"),
)

regression_cases = table(
    "regression_cases",
    key("id"),
    columns(TEXT, "regression_set"),
    optional(TEXT, "prediction"),
    dated("payload"),
    index("ix_regression_cases_prediction", "prediction"),
)

regression_runs = table(
    "regression_runs",
    key("id"),
    columns(TEXT, "regression_set", "application", "release"),
    columns(sa.BigInteger, "version"),
    dated("document"),
    index("ix_regression_runs_release", "release", "created_at"),
)
