"""The originating user of an audit record and the key of a run are sealed in an encrypted project."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


COLUMNS = (("audit_entries", "originator_sealed"), ("runs", "key_sealed"))


def upgrade() -> None:
    # Rows that are there keep the name in clear until they are sealed anew (`encryption rewrap --reencrypt`): a
    # migration has no keys.
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    for table, column in COLUMNS:
        held: sa.ColumnClause[Any] = sa.column(column)
        sealed: sa.Select[Any] = sa.select(held).select_from(sa.table(table)).where(held.is_not(None)).limit(1)
        if op.get_bind().execute(sealed).first() is not None:
            raise RuntimeError(f"{table}.{column} holds sealed names: take the project out of encryption first.")
    for table, column in COLUMNS:
        op.drop_column(table, column)
