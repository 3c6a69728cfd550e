"""Datasets, model versions, evaluations, outcomes, rollouts and their evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("logical_hash", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_datasets")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_datasets_application", "datasets", ["tenant", "environment", "application", "created_at"], unique=False
    )
    op.create_table(
        "evaluations",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_evaluations")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_evaluations_release", "evaluations", ["tenant", "environment", "release", "created_at"], unique=False
    )
    op.create_table(
        "exposures",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("invalid", sa.Boolean(), nullable=False),
        sa.Column("generated", sa.Boolean(), nullable=False),
        sa.Column("first_byte", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("publication", sa.Integer(), nullable=True),
        sa.Column("prediction", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "rollout", "id", name=op.f("pk_exposures")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "judgements",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "rollout", "sequence", name=op.f("pk_judgements")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "model_versions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("weights_sha256", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint(
            "tenant",
            "environment",
            "application",
            "number",
            name=op.f("uq_model_versions_tenant_environment_application_number"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcomes",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("prediction", sa.Text(), nullable=True),
        sa.Column("release", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("positive", sa.Boolean(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("as_of", sa.BigInteger(), nullable=True),
        sa.Column("available_at", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_outcomes")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_outcomes_created", "outcomes", ["tenant", "environment", "application", "created_at"], unique=False
    )
    op.create_index("ix_outcomes_prediction", "outcomes", ["tenant", "environment", "prediction"], unique=False)
    op.create_table(
        "shadow_pairs",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("prediction", sa.Text(), nullable=False),
        sa.Column("shadow", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("same_text", sa.Boolean(), nullable=False),
        sa.Column("live_probability", sa.Double(), nullable=True),
        sa.Column("shadow_probability", sa.Double(), nullable=True),
        sa.Column("live_seconds", sa.Double(), nullable=False),
        sa.Column("shadow_seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "rollout", "prediction", name=op.f("pk_shadow_pairs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "model_aliases",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "model"],
            ["model_versions.tenant", "model_versions.environment", "model_versions.id"],
            name=op.f("fk_model_aliases_tenant_environment_model"),
        ),
        sa.PrimaryKeyConstraint(
            "tenant", "environment", "application", "alias", "sequence", name=op.f("pk_model_aliases")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollouts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("control", sa.Text(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("entered_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "candidate"],
            ["releases.tenant", "releases.environment", "releases.id"],
            name=op.f("fk_rollouts_tenant_environment_candidate"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "control"],
            ["releases.tenant", "releases.environment", "releases.id"],
            name=op.f("fk_rollouts_tenant_environment_control"),
        ),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_rollouts")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_rollouts_application", "rollouts", ["tenant", "environment", "application", "created_at"], unique=False
    )
    op.create_index(
        "uq_rollouts_active",
        "rollouts",
        ["tenant", "environment", "application"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "rollout_moves",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "rollout"],
            ["rollouts.tenant", "rollouts.environment", "rollouts.id"],
            name=op.f("fk_rollout_moves_tenant_environment_rollout"),
        ),
        sa.PrimaryKeyConstraint("tenant", "environment", "rollout", "sequence", name=op.f("pk_rollout_moves")),
        sqlite_with_rowid=False,
    )
    op.add_column("receipts", sa.Column("role", sa.Text(), server_default="live", nullable=False))


def downgrade() -> None:
    op.drop_column("receipts", "role")
    op.drop_table("rollout_moves")
    op.drop_index(
        "uq_rollouts_active",
        table_name="rollouts",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_index("ix_rollouts_application", table_name="rollouts")
    op.drop_table("rollouts")
    op.drop_table("model_aliases")
    op.drop_table("shadow_pairs")
    op.drop_index("ix_outcomes_prediction", table_name="outcomes")
    op.drop_index("ix_outcomes_created", table_name="outcomes")
    op.drop_table("outcomes")
    op.drop_table("model_versions")
    op.drop_table("judgements")
    op.drop_table("exposures")
    op.drop_index("ix_evaluations_release", table_name="evaluations")
    op.drop_table("evaluations")
    op.drop_index("ix_datasets_application", table_name="datasets")
    op.drop_table("datasets")
