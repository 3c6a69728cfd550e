"""What batch jobs are, what their rows took, and what batch work got of the engine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_COUNTS = ("rows", "prompt_bytes", "distinct_bytes", "output_limit")
_MEASURED = ("rows", "prompt_bytes", "output_limit", "prompt_tokens", "cached_tokens", "output_tokens")


def upgrade() -> None:
    op.create_table(
        "batch_work",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        *(sa.Column(f"done_{name}", sa.BigInteger(), nullable=False) for name in _MEASURED),
        sa.Column("done_engine_seconds", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "job"],
            ["jobs.tenant", "jobs.environment", "jobs.id"],
            name=op.f("fk_batch_work_tenant"),
        ),
        sa.PrimaryKeyConstraint("tenant", "environment", "job", name=op.f("pk_batch_work")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_batch_work_updated", "batch_work", ["environment", "updated_at"])
    op.create_table(
        "batch_supply",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("engine_seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "worker", "began_at", name=op.f("pk_batch_supply")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("batch_supply")
    op.drop_index("ix_batch_work_updated", "batch_work")
    op.drop_table("batch_work")
