"""What an API key may use, and what it has used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("allowance", sa.Text(), nullable=True))
    op.create_table(
        "quota_levels",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("emptied_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", "bucket", "meter", name=op.f("pk_quota_levels")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("quota_levels")
    op.drop_column("api_keys", "allowance")
