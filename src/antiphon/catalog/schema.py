"""Every table of the catalog. Instants are whole microseconds UTC; documents are JSON; payloads are envelopes.

All rows carry tenant and environment, and every key begins with them. Text ids are chosen by the writer, so that
rows can be copied between databases without renumbering.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.core.scope import Scope

REVISION = "0002"
"""The Alembic revision these tables are at."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _scope() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("tenant", sa.Text, primary_key=True), sa.Column("environment", sa.Text, primary_key=True)


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    # Rows live in the primary key's tree: one tree to write and to read instead of a table and an index.
    return sa.Table(name, metadata, *_scope(), *columns, sqlite_with_rowid=False)


def owned(table: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    """The condition that a row belongs to ``scope``: part of every statement."""
    return sa.and_(table.c.tenant == scope.tenant, table.c.environment == scope.environment)


blobs = _table(
    "blobs",
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("erased_at", sa.BigInteger),
)

definition_versions = _table(
    "definition_versions",
    sa.Column("view", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

applied_projects = _table(
    "applied_projects",
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

snapshots = _table(
    "snapshots",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("definition_version", sa.Text, nullable=False),
    sa.Column("as_of", sa.BigInteger, nullable=False),
    sa.Column("logical_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_snapshots_view", "tenant", "environment", "view", "definition_version", "as_of"),
)

publications = _table(
    "publications",
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("base", sa.Integer, nullable=False),
    sa.Column("snapshots", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

releases = _table(
    "releases",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("bundle", sa.LargeBinary, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("rationale", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "environment", "application", "number"),
    sa.UniqueConstraint("tenant", "environment", "application", "content_hash"),
)

release_stages = _table(
    "release_stages",
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "release"], ["releases.tenant", "releases.environment", "releases.id"]
    ),
)

release_pointers = _table(
    "release_pointers",
    sa.Column("application", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "release"], ["releases.tenant", "releases.environment", "releases.id"]
    ),
)

receipts = _table(
    "receipts",
    sa.Column("prediction", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False, server_default="live"),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_receipts_created", "tenant", "environment", "created_at"),
    sa.Index("ix_receipts_application", "tenant", "environment", "application", "created_at"),
    sa.Index("ix_receipts_subject", "tenant", "environment", "subject", "created_at"),
)

datasets = _table(
    "datasets",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("logical_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_datasets_application", "tenant", "environment", "application", "created_at"),
)

model_versions = _table(
    "model_versions",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("weights_sha256", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "environment", "application", "number"),
)

model_aliases = _table(
    "model_aliases",
    sa.Column("application", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "model"],
        ["model_versions.tenant", "model_versions.environment", "model_versions.id"],
    ),
)

evaluations = _table(
    "evaluations",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_evaluations_release", "tenant", "environment", "release", "created_at"),
)

outcomes = _table(
    "outcomes",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("prediction", sa.Text),
    sa.Column("release", sa.Text),
    sa.Column("role", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("positive", sa.Boolean(create_constraint=False)),
    sa.Column("probability", sa.Double),
    sa.Column("as_of", sa.BigInteger),
    sa.Column("available_at", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_outcomes_created", "tenant", "environment", "application", "created_at"),
    sa.Index("ix_outcomes_prediction", "tenant", "environment", "prediction"),
)

rollouts = _table(
    "rollouts",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("candidate", sa.Text, nullable=False),
    sa.Column("control", sa.Text, nullable=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("held", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("entered_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "candidate"], ["releases.tenant", "releases.environment", "releases.id"]
    ),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "control"], ["releases.tenant", "releases.environment", "releases.id"]
    ),
    sa.Index("ix_rollouts_application", "tenant", "environment", "application", "created_at"),
    # At most one rollout of an application is under way, whatever two writers believe.
    sa.Index(
        "uq_rollouts_active",
        "tenant",
        "environment",
        "application",
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
)

rollout_moves = _table(
    "rollout_moves",
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("held", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant", "environment", "rollout"], ["rollouts.tenant", "rollouts.environment", "rollouts.id"]
    ),
)

exposures = _table(
    "exposures",
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("probability", sa.Double, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("invalid", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("generated", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("first_byte", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("publication", sa.Integer),
    sa.Column("prediction", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

shadow_pairs = _table(
    "shadow_pairs",
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("prediction", sa.Text, primary_key=True),
    sa.Column("shadow", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("same_text", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("live_probability", sa.Double),
    sa.Column("shadow_probability", sa.Double),
    sa.Column("live_seconds", sa.Double, nullable=False),
    sa.Column("shadow_seconds", sa.Double, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

judgements = _table(
    "judgements",
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

streams = _table(
    "streams",
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("end_offset", sa.BigInteger, nullable=False),
)

events = _table(
    "events",
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("event_time", sa.BigInteger, nullable=False),
    sa.Column("available_at", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "environment", "stream", "event_id"),
)

answers = _table(
    "answers",
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("question_hash", sa.Text, primary_key=True),
    sa.Column("prediction", sa.Text, primary_key=True),
    sa.Column("as_of", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("prompt_key", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Index("ix_answers_prompt", "tenant", "environment", "prompt_key", "as_of"),
)

jobs = _table(
    "jobs",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_jobs_created", "tenant", "environment", "created_at"),
)

job_rows = _table(
    "job_rows",
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("failed", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "environment", "job"], ["jobs.tenant", "jobs.environment", "jobs.id"]),
)

runs = _table(
    "runs",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("workflow", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("arguments", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("cancel_requested", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("result", sa.LargeBinary),
    sa.Column("error", sa.Text),
    sa.Column("trace", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.UniqueConstraint("tenant", "environment", "key"),
    sa.Index("ix_runs_created", "tenant", "environment", "created_at"),
    sa.Index("ix_runs_claimable", "status", "not_before", "created_at"),
)

steps = _table(
    "steps",
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("occurrence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("result", sa.LargeBinary, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "environment", "run"], ["runs.tenant", "runs.environment", "runs.id"]),
)

api_keys = _table(
    "api_keys",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
)

audit_entries = _table(
    "audit_entries",
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

audit_heads = _table(
    "audit_heads",
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
