"""Tables of learning: datasets, evaluations, model versions and aliases, outcomes."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

datasets = table(
    "datasets",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("logical_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_datasets_application", "tenant", "environment", "application", "created_at"),
)

model_versions = table(
    "model_versions",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("weights_sha256", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "environment", "application", "number"),
)

model_aliases = table(
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

evaluations = table(
    "evaluations",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ix_evaluations_release", "tenant", "environment", "release", "created_at"),
)

outcomes = table(
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
