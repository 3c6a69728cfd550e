"""Tables of identity: principals, keys and their quota levels, dashboard sessions, the newest instant that was seen.

A principal belongs to a tenant, not to one environment: the environment of these rows is ``*``.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

principals = table(
    "principals",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("clearance", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("disabled_at", sa.BigInteger),
    sa.Column("made_by", sa.Text),
    sa.Column("promoted_by", sa.Text),
)

api_keys = table(
    "api_keys",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("allowance", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("replaced_by", sa.Text),
    sa.Column("last_used_day", sa.Integer),
    sa.Column("made_by", sa.Text),
    sa.Column("approved_by", sa.Text),
    sa.Column("waits", sa.Integer, nullable=False, server_default="0"),
)

quota_levels = table(
    "quota_levels",
    sa.Column("bucket", sa.Text, primary_key=True),
    sa.Column("meter", sa.Text, primary_key=True),
    sa.Column("used", sa.Float, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("emptied_at", sa.BigInteger, nullable=False),
)

sessions = table(
    "sessions",
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_sessions_hash", "hash", unique=True),
)

clock_marks = table(
    "clock_marks",
    sa.Column("newest_at", sa.BigInteger, nullable=False),
)
