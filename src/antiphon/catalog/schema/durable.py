"""Tables of durable runs: their steps, what holds them, what orders them, what they make; and what one process does at
a time.

The tenant of a lease is ``*``. In an encrypted project a run's ``key`` holds a keyed hash that it is found by, and
``key_sealed`` the key itself.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, one_where, optional, refers, table, unique

_HELD = sa.text("lease_until IS NOT NULL")
_FRESH = sa.text("rolled_up_at IS NULL")
_VALUED = sa.text("value IS NOT NULL AND ended_at IS NULL")

runs = table(
    "runs",
    key("id"),
    columns(TEXT, "workflow"),
    optional(TEXT, "key"),
    columns(sa.LargeBinary, "arguments"),
    columns(TEXT, "status"),
    columns(sa.BigInteger, "epoch", "attempts", "max_attempts"),
    optional(TEXT, "worker"),
    optional(Instant, "lease_until"),
    columns(Instant, "not_before"),
    columns(sa.Boolean, "cancel_requested"),
    columns(sa.BigInteger, "done"),
    optional(sa.BigInteger, "total"),
    columns(TEXT, "note"),
    optional(sa.LargeBinary, "result"),
    optional(TEXT, "error", "trace"),
    columns(Instant, "created_at", "updated_at"),
    optional(Instant, "started_at", "ended_at"),
    optional(sa.LargeBinary, "key_sealed"),
    # Of a run that a schedule ordered: its name, why it was due, and by when it is to have ended.
    optional(TEXT, "schedule", "cause"),
    optional(Instant, "deadline"),
    # What its schedule says that it is worth, where that is not 1.
    optional(sa.Double, "value"),
    # Who let it go past what holds runs of its workflow.
    optional(TEXT, "exempted_by"),
    # Who paused it; nobody works on it until it is resumed.
    optional(TEXT, "paused_by"),
    # Of its present or last attempt: when it was claimed, and the steps that have begun and not ended, as JSON.
    optional(Instant, "claimed_at"),
    optional(TEXT, "under_way"),
    # The run whose records it began with, and the one that began last with its own.
    optional(TEXT, "forked_from", "forked_to"),
    # How it ends once its steps are undone, and ``done`` when they are.
    optional(TEXT, "rollback"),
    unique("key"),
    index("ix_runs_created", "created_at"),
    index("ix_runs_ended", "ended_at"),
    index("ix_runs_schedule", "schedule", "created_at"),
    # The order of claims, of each workflow by itself: one's runs do not stand before another's.
    sa.Index("ix_runs_claimable", "status", "workflow", "environment", "not_before", "created_at", "id"),
    # Runs that are held, which are few: those whose lease ran out are found among them.
    sa.Index("ix_runs_held", "environment", "lease_until", sqlite_where=_HELD, postgresql_where=_HELD),
    # Of a schedule one has not ended: they are gone through one by one.
    sa.Index("ix_runs_valued", "environment", "not_before", sqlite_where=_VALUED, postgresql_where=_VALUED),
)

steps = table(
    "steps",
    key("run", "name"),
    key("occurrence", kind=sa.BigInteger),
    columns(sa.BigInteger, "epoch"),
    columns(sa.LargeBinary, "result"),
    columns(Instant, "started_at", "ended_at"),
    # Who wrote the result of a step that was skipped.
    optional(TEXT, "recorded_by"),
    # Of a step that can be undone: at which end of its run it is.
    optional(TEXT, "undo"),
    refers("run", "runs"),
)

# Attempts that failed or were lost; ``under_way`` as of runs.
run_attempts = table(
    "run_attempts",
    key("run"),
    key("epoch", kind=sa.BigInteger),
    columns(sa.BigInteger, "attempt"),
    columns(TEXT, "outcome"),
    optional(TEXT, "worker", "under_way", "error"),
    columns(Instant, "started_at", "ended_at"),
    refers("run", "runs"),
)

# How much of each run's lineage the receiver has, and since when none is missing: rows of runs that ended before are
# removed.
lineage_acknowledgments = table(
    "lineage_acknowledgments",
    key("run"),
    columns(sa.BigInteger, "sent"),
    columns(Instant, "at"),
    optional(TEXT, "refused"),
    refers("run", "runs"),
)

lineage_progress = table(
    "lineage_progress",
    columns(TEXT, "receiver"),
    columns(Instant, "begun_at", "complete_until"),
    columns(sa.BigInteger, "failures"),
    optional(Instant, "failed_at"),
    optional(TEXT, "error"),
)

# Checkpoints of runs that train: files of the lake by their hash.
training_checkpoints = table(
    "training_checkpoints",
    key("run"),
    key("step", kind=sa.BigInteger),
    columns(TEXT, "identity", "sha256"),
    columns(sa.BigInteger, "size"),
    columns(Instant, "created_at"),
    refers("run", "runs"),
)

leases = table(
    "leases",
    key("name"),
    columns(TEXT, "holder"),
    columns(sa.BigInteger, "epoch"),
    columns(Instant, "until"),
    optional(TEXT, "detail"),
)

# Times in which no run of a workflow begins, or so many are under way at once (``slots``): a row for each workflow of
# a freeze, a window or a limit.
run_holds = table(
    "run_holds",
    key("id", "workflow"),
    columns(TEXT, "kind", "name", "reason", "principal"),
    columns(Instant, "begins", "until", "created_at"),
    columns(sa.Integer, "slots"),
    index("ix_run_holds_until", "until"),
)

# Schedules as they stand: ``sequence`` counts their runs, conditions count from ``since`` on.
schedules = table(
    "schedules",
    key("name"),
    columns(sa.BigInteger, "sequence"),
    columns(Instant, "since", "full_since"),
    optional(TEXT, "run", "paused_by", "pause_reason", "problem", "due_cause"),
    optional(Instant, "paused_until", "tried_at", "due_at"),
    # A hash of what its conditions observed last, and since when it is the same.
    optional(TEXT, "observed"),
    optional(Instant, "calm_since"),
)

# Each part of an asset that a schedule makes: what its last run was ordered with and how that ended, and what the part
# that there is was made of. ``inputs`` and ``made_inputs`` map keys of assets to versions, as JSON.
asset_parts = table(
    "asset_parts",
    key("asset", "partition"),
    columns(TEXT, "run", "inputs", "definition"),
    columns(Instant, "ordered_at"),
    optional(TEXT, "outcome", "version", "made_by", "made_inputs", "made_definition"),
    optional(Instant, "ended_at", "made_at"),
    index("ix_asset_parts_run", "run"),
)

# Files that exports put in place, by the hash of their content. A row without ``written_at`` is of a file that was
# about to be put there.
exported_files = table(
    "exported_files",
    key("path", "sha256"),
    columns(TEXT, "export", "version", "definition", "run"),
    columns(sa.BigInteger, "rows", "bytes"),
    columns(Instant, "noted_at"),
    optional(Instant, "written_at"),
    index("ix_exported_files_export", "export"),
)

# Objectives of applications as they were assessed last, as JSON, and their alerts.
objective_states = table("objective_states", key("objective"), dated("state"))
objective_alerts = table(
    "objective_alerts",
    key("id"),
    columns(TEXT, "objective", "application", "severity", "reason"),
    columns(Instant, "began_at"),
    optional(Instant, "resolved_at"),
    one_where("resolved_at IS NULL", "uq_objective_alerts_open", "objective", "severity"),
    index("ix_objective_alerts_began_at", "began_at"),
)

# What was counted, timed and seen in periods of ``period`` seconds: of one process while it is fresh, then of all.
measurements = table(
    "measurements",
    key("period", kind=sa.BigInteger),
    key("at", kind=Instant),
    key("process"),
    columns(sa.LargeBinary, "payload"),
    optional(Instant, "rolled_up_at"),
    sa.Index("ix_measurements_fresh", "environment", "tenant", "at", sqlite_where=_FRESH, postgresql_where=_FRESH),
)
