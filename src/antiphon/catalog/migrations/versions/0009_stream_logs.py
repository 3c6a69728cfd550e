"""Which log holds a stream's events, when it is not the catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("streams", sa.Column("log", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("streams", "log")
