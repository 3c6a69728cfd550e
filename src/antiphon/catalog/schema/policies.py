"""Tables of policies: versions, their moves into force, and requests that a change is tried on.

A version's row is never changed; what became of it are its moves, of which the last ``in_force`` of a scope is what
decides there.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

policy_versions = table(
    "policy_versions",
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("rationale", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

policy_moves = table(
    "policy_moves",
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

policy_requests = table(
    "policy_requests",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("ix_policy_requests_at", "tenant", "environment", "at"),
)
