"""Makers of principals and keys, and keys that wait for another person's approval."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("principals", sa.Column("made_by", sa.Text()))
    op.add_column("principals", sa.Column("promoted_by", sa.Text()))
    op.add_column("api_keys", sa.Column("made_by", sa.Text()))
    op.add_column("api_keys", sa.Column("approved_by", sa.Text()))
    op.add_column("api_keys", sa.Column("waits", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    for column in ("waits", "approved_by", "made_by"):
        op.drop_column("api_keys", column)
    op.drop_column("principals", "promoted_by")
    op.drop_column("principals", "made_by")
