"""Files and batches of OpenAI's API, and counting a job's rows without reading them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_MOMENTS = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_files")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_files_size", "files", ["tenant", "environment", "size"])
    op.create_index("ix_files_expiring", "files", ["expires_at"])
    op.create_table(
        "batches",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=True),
        sa.Column("errors", sa.LargeBinary(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.Column("output_file", sa.Text(), nullable=True),
        sa.Column("error_file", sa.Text(), nullable=True),
        sa.Column("output_kept", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        *(sa.Column(moment, sa.BigInteger(), nullable=True) for moment in _MOMENTS),
        sa.ForeignKeyConstraint(
            ["tenant", "environment", "id"],
            ["jobs.tenant", "jobs.environment", "jobs.id"],
            name=op.f("fk_batches_tenant"),
        ),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_batches")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_batches_input", "batches", ["tenant", "environment", "input_file"])
    op.create_index("ix_job_rows_counts", "job_rows", ["tenant", "environment", "job", "failed"])


def downgrade() -> None:
    op.drop_index("ix_job_rows_counts", "job_rows")
    op.drop_table("batches")
    op.drop_table("files")
