"""The originating user of an audit record is sealed in an encrypted project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Records that are there keep the name in clear until they are sealed anew (`encryption rewrap --reencrypt`): a
    # migration has no keys.
    op.add_column("audit_entries", sa.Column("originator_sealed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    sealed = sa.text("SELECT 1 FROM audit_entries WHERE originator_sealed IS NOT NULL LIMIT 1")
    if op.get_bind().execute(sealed).first() is not None:
        raise RuntimeError("Users in audit records are sealed: take the project out of encryption first.")
    op.drop_column("audit_entries", "originator_sealed")
