"""Durable runs and their steps.

In an encrypted project ``key`` holds a keyed hash that a run is found by, and ``key_sealed`` the key itself.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

runs = table(
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
    sa.Column("key_sealed", sa.LargeBinary),
    sa.UniqueConstraint("tenant", "environment", "key"),
    sa.Index("ix_runs_created", "tenant", "environment", "created_at"),
    sa.Index("ix_runs_claimable", "status", "not_before", "created_at"),
)

steps = table(
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
