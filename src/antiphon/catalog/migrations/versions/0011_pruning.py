"""When a snapshot's files were pruned, and when the rows that a verdict tells of expired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("pruned_at", sa.BigInteger(), nullable=True))
    op.add_column("verdicts", sa.Column("rows_expired_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("verdicts", "rows_expired_at")
    op.drop_column("snapshots", "pruned_at")
