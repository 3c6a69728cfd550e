"""Principals by themselves, limits and rotation of keys, dashboard sessions, the newest instant seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "principals",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("clearance", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "environment", "id", name=op.f("pk_principals")),
        sqlite_with_rowid=False,
    )
    # A name had one role among its valid keys; the newest key says which.
    op.execute(
        "INSERT INTO principals (tenant, environment, id, role, kind, clearance, created_at) "
        "SELECT tenant, environment, name, role, kind, 'internal', created_at FROM api_keys AS newest "
        "WHERE NOT EXISTS (SELECT 1 FROM api_keys AS later WHERE later.tenant = newest.tenant "
        "AND later.environment = newest.environment AND later.name = newest.name "
        "AND (later.created_at, later.id) > (newest.created_at, newest.id))"
    )
    op.drop_column("api_keys", "role")
    op.drop_column("api_keys", "kind")
    op.add_column("api_keys", sa.Column("limits", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("replaced_by", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_day", sa.Integer(), nullable=True))
    op.create_table(
        "sessions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "environment", "hash", name=op.f("pk_sessions")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_sessions_hash", "sessions", ["hash"], unique=True)
    op.create_table(
        "clock_marks",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("newest_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "environment", name=op.f("pk_clock_marks")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("clock_marks")
    op.drop_index("ix_sessions_hash", table_name="sessions")
    op.drop_table("sessions")
    op.drop_column("api_keys", "last_used_day")
    op.drop_column("api_keys", "replaced_by")
    op.drop_column("api_keys", "limits")
    op.add_column("api_keys", sa.Column("role", sa.Text(), server_default="viewer", nullable=False))
    op.add_column("api_keys", sa.Column("kind", sa.Text(), server_default="service", nullable=False))
    op.drop_table("principals")
