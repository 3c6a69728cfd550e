"""Who did."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

audit_entries = table(
    "audit_entries",
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

audit_heads = table(
    "audit_heads",
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
