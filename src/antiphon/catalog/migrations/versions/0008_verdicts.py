"""Verdicts of the gates, and snapshots that wait for the end of an embargo."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _scope() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("tenant", sa.Text(), nullable=False), sa.Column("environment", sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "verdicts",
        *_scope(),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("definition_version", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=True),
        sa.Column("kept_aside", sa.Text(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_verdicts")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_verdicts_view", "verdicts", ["tenant", "environment", "view", "definition_version", "created_at"]
    )
    op.create_table(
        "staged_snapshots",
        *_scope(),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.Column("definition_version", sa.Text(), nullable=False),
        sa.Column("publish_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "snapshot", name=op.f("pk_staged_snapshots")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("staged_snapshots")
    op.drop_index("ix_verdicts_view", table_name="verdicts")
    op.drop_table("verdicts")
