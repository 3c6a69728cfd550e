"""The audit log as a Merkle tree, and its checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _scope() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("tenant", sa.Text(), nullable=False), sa.Column("environment", sa.Text(), nullable=False)


def upgrade() -> None:
    op.drop_table("audit_heads")
    op.drop_table("audit_entries")
    op.create_table(
        "audit_entries",
        *_scope(),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.Text()),
        sa.Column("principal_salt", sa.LargeBinary()),
        sa.Column("originator", sa.Text()),
        sa.Column("originator_salt", sa.LargeBinary()),
        sa.Column("subject", sa.Text()),
        sa.Column("subject_salt", sa.LargeBinary()),
        sa.Column("detail", sa.Text()),
        sa.Column("detail_salt", sa.LargeBinary()),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("erased", sa.LargeBinary()),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "sequence", name=op.f("pk_audit_entries")),
        sqlite_with_rowid=False,
    )
    for column in ("at", "principal", "subject"):
        op.create_index(f"ix_audit_entries_{column}", "audit_entries", ["tenant", "environment", column])
    op.create_table(
        "audit_nodes",
        *_scope(),
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "level", "position", name=op.f("pk_audit_nodes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_heads",
        *_scope(),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("peaks", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("seal", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", name=op.f("pk_audit_heads")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for name in ("audit_heads", "audit_nodes", "audit_entries"):
        op.drop_table(name)
    op.create_table(
        "audit_entries",
        *_scope(),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "sequence", name=op.f("pk_audit_entries")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_heads",
        *_scope(),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", name=op.f("pk_audit_heads")),
        sqlite_with_rowid=False,
    )
