"""Releases, their rollouts, and the evidence that judges them."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

releases = table(
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

release_stages = table(
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

release_pointers = table(
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

rollouts = table(
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

rollout_moves = table(
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

exposures = table(
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

shadow_pairs = table(
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

judgements = table(
    "judgements",
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
