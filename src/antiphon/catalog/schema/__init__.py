"""Every table of the catalog, by noun. Documents are JSON, payloads are envelopes (``catalog/sealed_columns.py``).

All rows carry tenant and environment, and every key begins with them. Text ids are chosen by the writer, so that
rows can be copied between databases without renumbering.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import (
    Instant,
    columns,
    dated,
    index,
    key,
    numbered,
    one_where,
    optional,
    refers,
    table,
    unique,
)
from antiphon.catalog.schema.base import given as given
from antiphon.catalog.schema.base import metadata as metadata
from antiphon.catalog.schema.base import owned as owned
from antiphon.catalog.schema.batch import batch_supply as batch_supply
from antiphon.catalog.schema.batch import batch_work as batch_work
from antiphon.catalog.schema.batch import batches as batches
from antiphon.catalog.schema.batch import files as files
from antiphon.catalog.schema.batch import job_rows as job_rows
from antiphon.catalog.schema.batch import jobs as jobs
from antiphon.catalog.schema.costs import budget_shares as budget_shares
from antiphon.catalog.schema.costs import budgets as budgets
from antiphon.catalog.schema.costs import ledger_entries as ledger_entries
from antiphon.catalog.schema.costs import meter_readings as meter_readings
from antiphon.catalog.schema.costs import prices as prices
from antiphon.catalog.schema.durable import asset_parts as asset_parts
from antiphon.catalog.schema.durable import exported_files as exported_files
from antiphon.catalog.schema.durable import leases as leases
from antiphon.catalog.schema.durable import lineage_acknowledgments as lineage_acknowledgments
from antiphon.catalog.schema.durable import lineage_progress as lineage_progress
from antiphon.catalog.schema.durable import measurements as measurements
from antiphon.catalog.schema.durable import objective_alerts as objective_alerts
from antiphon.catalog.schema.durable import objective_states as objective_states
from antiphon.catalog.schema.durable import run_attempts as run_attempts
from antiphon.catalog.schema.durable import run_holds as run_holds
from antiphon.catalog.schema.durable import runs as runs
from antiphon.catalog.schema.durable import schedules as schedules
from antiphon.catalog.schema.durable import steps as steps
from antiphon.catalog.schema.durable import training_checkpoints as training_checkpoints
from antiphon.catalog.schema.governance import api_keys as api_keys
from antiphon.catalog.schema.governance import audit_entries as audit_entries
from antiphon.catalog.schema.governance import audit_heads as audit_heads
from antiphon.catalog.schema.governance import audit_nodes as audit_nodes
from antiphon.catalog.schema.governance import clock_marks as clock_marks
from antiphon.catalog.schema.governance import data_keys as data_keys
from antiphon.catalog.schema.governance import encryption_modes as encryption_modes
from antiphon.catalog.schema.governance import grants as grants
from antiphon.catalog.schema.governance import policy_moves as policy_moves
from antiphon.catalog.schema.governance import policy_requests as policy_requests
from antiphon.catalog.schema.governance import policy_versions as policy_versions
from antiphon.catalog.schema.governance import principals as principals
from antiphon.catalog.schema.governance import quota_levels as quota_levels
from antiphon.catalog.schema.governance import reencryptions as reencryptions
from antiphon.catalog.schema.governance import sessions as sessions
from antiphon.catalog.schema.governance import tenants as tenants
from antiphon.catalog.schema.incidents import incidents as incidents
from antiphon.catalog.schema.learning import datasets as datasets
from antiphon.catalog.schema.learning import evaluation_answers as evaluation_answers
from antiphon.catalog.schema.learning import evaluations as evaluations
from antiphon.catalog.schema.learning import model_aliases as model_aliases
from antiphon.catalog.schema.learning import model_versions as model_versions
from antiphon.catalog.schema.learning import outcomes as outcomes
from antiphon.catalog.schema.learning import prediction_annotations as prediction_annotations
from antiphon.catalog.schema.learning import prompt_trials as prompt_trials
from antiphon.catalog.schema.learning import regression_cases as regression_cases
from antiphon.catalog.schema.learning import regression_runs as regression_runs
from antiphon.catalog.schema.learning import regression_sets as regression_sets
from antiphon.catalog.schema.learning import safety_reports as safety_reports
from antiphon.catalog.schema.notifications import notification_channels as notification_channels
from antiphon.catalog.schema.notifications import notification_deliveries as notification_deliveries
from antiphon.catalog.schema.notifications import notifications as notifications
from antiphon.catalog.schema.playbooks import playbook_permissions as playbook_permissions
from antiphon.catalog.schema.playbooks import playbook_runs as playbook_runs

REVISION = "1"
"""The Alembic revision these tables are at."""

# --- Features: definitions, snapshots, publications, source events.

definition_versions = table(
    "definition_versions",
    key("view", "version"),
    dated("document"),
)

applied_projects = table(
    "applied_projects",
    key("number", kind=sa.BigInteger),
    columns(TEXT, "name", "content_hash"),
    columns(sa.LargeBinary, "document"),
    columns(TEXT, "principal"),
    columns(Instant, "created_at"),
)

snapshots = table(
    "snapshots",
    key("id"),
    columns(TEXT, "view", "definition_version"),
    columns(Instant, "as_of"),
    columns(TEXT, "logical_hash"),
    dated("document"),
    optional(Instant, "pruned_at"),
    # Made by a backfill, and not promoted: no publication names it.
    columns(sa.Boolean, "backfilled"),
    index("ix_snapshots_view", "view", "definition_version", "as_of"),
)

publications = table(
    "publications",
    key("number", kind=sa.BigInteger),
    columns(sa.BigInteger, "base"),
    columns(sa.LargeBinary, "snapshots"),
    columns(TEXT, "reason", "principal"),
    columns(Instant, "created_at"),
    optional(Instant, "served_at"),
)

streams = table("streams", key("stream"), columns(sa.BigInteger, "end_offset"), optional(TEXT, "log"))

events = table(
    "events",
    key("stream"),
    key("offset", kind=sa.BigInteger),
    columns(TEXT, "event_id"),
    columns(Instant, "event_time", "available_at"),
    dated("payload"),
    unique("stream", "event_id"),
)

# Streams that another system writes: where reading goes on, and since when it fails.
followed_streams = table(
    "followed_streams",
    key("stream"),
    columns(TEXT, "place"),
    columns(sa.BigInteger, "moves", "refused", "lost"),
    optional(sa.LargeBinary, "position"),
    optional(sa.BigInteger, "waiting"),
    optional(TEXT, "refusal", "error"),
    optional(Instant, "caught_up_at", "failing_since"),
)

verdicts = table(
    "verdicts",
    key("id"),
    columns(TEXT, "view", "definition_version", "outcome"),
    optional(TEXT, "snapshot", "kept_aside"),
    dated("document"),
    optional(Instant, "rows_expired_at"),
    index("ix_verdicts_view", "view", "definition_version", "created_at"),
)

staged_snapshots = table(
    "staged_snapshots",
    key("snapshot"),
    columns(TEXT, "view", "definition_version"),
    columns(Instant, "publish_at"),
    columns(TEXT, "reason", "principal"),
)

# What each partition of a backfill came to: a view as of a moment.
backfill_partitions = table(
    "backfill_partitions",
    key("id"),
    columns(TEXT, "run", "view", "definition_version"),
    columns(Instant, "as_of"),
    columns(TEXT, "outcome"),
    optional(TEXT, "snapshot"),
    dated("document"),
    refers("run", "runs"),
    index("ix_backfill_partitions_run", "run", "as_of"),
    index("ix_backfill_partitions_snapshot", "snapshot"),
)

feature_holds = table(
    "feature_holds", key("view"), columns(TEXT, "reason", "principal"), columns(Instant, "created_at")
)

skew_reports = table(
    "skew_reports",
    key("id", "view"),
    columns(TEXT, "trigger"),
    optional(sa.BigInteger, "publication"),
    columns(sa.BigInteger, "compared", "different", "not_comparable"),
    columns(sa.Boolean, "complete"),
    columns(sa.LargeBinary, "document"),
    columns(Instant, "measured_at"),
    index("ix_skew_reports_view", "view", "measured_at"),
)

# --- Answers: receipts, the texts they name, stored answers.

blobs = table(
    "blobs",
    key("hash"),
    optional(sa.LargeBinary, "payload"),
    columns(sa.BigInteger, "size"),
    columns(Instant, "created_at"),
    optional(Instant, "erased_at"),
)

receipts = table(
    "receipts",
    key("prediction"),
    columns(TEXT, "application", "release", "path", "origin"),
    sa.Column("role", TEXT, nullable=False, server_default="live"),
    columns(TEXT, "model", "verdict", "finish_reason"),
    # A number that all receipts of the same facets have: see ``serving/receipt_search.py``.
    columns(sa.BigInteger, "kind"),
    columns(TEXT, "subject"),
    dated("payload"),
    sa.Column("saved_tokens", sa.BigInteger, nullable=False, server_default="0"),
    index("ix_receipts_created", "created_at", "kind"),
    index("ix_receipts_kind", "kind", "created_at"),
    index("ix_receipts_application", "application", "created_at"),
    index("ix_receipts_subject", "subject", "created_at"),
)

answers = table(
    "answers",
    key("release", "subject", "question_hash", "prediction"),
    columns(Instant, "as_of", "created_at"),
    columns(TEXT, "prompt_key"),
    columns(sa.LargeBinary, "document"),
    index("ix_answers_prompt", "prompt_key", "as_of"),
)

# --- Conversations of applications, and their turns. ``transcript`` is a keyed hash of all that was said up to a turn.

conversations = table(
    "conversations",
    key("id"),
    columns(TEXT, "application", "subject", "speaker", "release"),
    optional(TEXT, "rollout"),
    columns(sa.BigInteger, "turns"),
    columns(Instant, "created_at", "updated_at"),
    index("ix_conversations_updated", "updated_at"),
    index("ix_conversations_subject", "subject"),
)

conversation_turns = table(
    "conversation_turns",
    key("conversation"),
    key("number", kind=sa.BigInteger),
    columns(TEXT, "prediction", "transcript"),
    dated("payload"),
    refers("conversation", "conversations"),
    index("ix_conversation_turns_prediction", "prediction"),
    index("ix_conversation_turns_transcript", "transcript"),
)

# What tools did that act, by a keyed hash of the call; without a payload while it is not known whether it was done.
tool_calls = table(
    "tool_calls",
    key("key"),
    columns(TEXT, "tool"),
    optional(sa.LargeBinary, "payload"),
    columns(Instant, "created_at"),
)

# --- Releases, their rollouts, and the evidence that judges them.

releases = table(
    "releases",
    key("id"),
    columns(TEXT, "application"),
    columns(sa.BigInteger, "number"),
    columns(TEXT, "content_hash"),
    columns(sa.LargeBinary, "bundle"),
    columns(TEXT, "author", "rationale"),
    columns(Instant, "created_at"),
    unique("application", "number"),
    unique("application", "content_hash"),
)

release_stages = table(
    "release_stages",
    numbered("release"),
    columns(TEXT, "stage", "principal", "reason"),
    columns(Instant, "at"),
    refers("release", "releases"),
)

release_pointers = table(
    "release_pointers",
    numbered("application"),
    columns(TEXT, "release", "action", "principal", "reason"),
    columns(Instant, "at"),
    refers("release", "releases"),
)

rollouts = table(
    "rollouts",
    key("id"),
    columns(TEXT, "application", "candidate", "control"),
    columns(sa.LargeBinary, "plan"),
    columns(TEXT, "state"),
    columns(sa.BigInteger, "step"),
    columns(sa.Boolean, "held"),
    columns(TEXT, "reason", "principal"),
    columns(Instant, "created_at", "entered_at"),
    optional(Instant, "ended_at"),
    refers("candidate", "releases"),
    refers("control", "releases"),
    index("ix_rollouts_application", "application", "created_at"),
    one_where("ended_at IS NULL", "uq_rollouts_active", "application"),
)

rollout_moves = table(
    "rollout_moves",
    numbered("rollout"),
    columns(TEXT, "state"),
    columns(sa.BigInteger, "step"),
    columns(sa.Boolean, "held"),
    columns(TEXT, "reason", "principal"),
    columns(Instant, "at"),
    refers("rollout", "rollouts"),
)

exposures = table(
    "exposures",
    key("rollout", "id"),
    columns(TEXT, "unit", "arm"),
    columns(sa.BigInteger, "step"),
    columns(sa.Double, "probability"),
    optional(TEXT, "error"),
    columns(sa.Boolean, "invalid", "generated"),
    columns(sa.Double, "first_byte", "seconds"),
    columns(sa.BigInteger, "tokens"),
    optional(sa.BigInteger, "publication"),
    optional(TEXT, "prediction"),
    columns(Instant, "created_at"),
)

shadow_pairs = table(
    "shadow_pairs",
    key("rollout", "prediction"),
    optional(TEXT, "shadow", "error"),
    columns(sa.Boolean, "same_text"),
    columns(sa.LargeBinary, "live_probabilities", "shadow_probabilities"),
    columns(sa.Double, "live_seconds", "shadow_seconds"),
    columns(Instant, "created_at"),
)

judgements = table(
    "judgements",
    numbered("rollout"),
    dated("document"),
)

# Live releases as they are watched after their promotion, each from one move of the pointer on, and what was decided.
release_watches = table(
    "release_watches",
    numbered("application"),
    columns(TEXT, "release"),
    dated("state"),
)

watch_decisions = table(
    "watch_decisions",
    key("id"),
    columns(TEXT, "application", "release", "measure", "decision"),
    columns(sa.BigInteger, "activation"),
    optional(Instant, "done_at"),
    dated("document"),
    unique("application", "activation", "measure"),
    index("ix_watch_decisions_application", "application", "created_at"),
)

# --- Models behind servers elsewhere, which a tenant's settings name.

remote_models = table(
    "remote_models",
    numbered("engine", "model"),
    columns(TEXT, "version", "evidence", "reason", "seen"),
    columns(Instant, "since", "checked_at"),
    optional(TEXT, "accepted_by"),
)
