"""Wrapped data keys, the mode of a scope, and how far a re-encryption has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _scope() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("tenant", sa.Text(), nullable=False), sa.Column("environment", sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "data_keys",
        *_scope(),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("wrapping_key", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_data_keys")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "uq_data_keys_active",
        "data_keys",
        ["tenant", "environment", "purpose"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "encryption_modes",
        *_scope(),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("migrating", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", name=op.f("pk_encryption_modes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reencryptions",
        *_scope(),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "store", name=op.f("pk_reencryptions")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("reencryptions")
    op.drop_table("encryption_modes")
    op.drop_index("uq_data_keys_active", table_name="data_keys")
    op.drop_table("data_keys")
