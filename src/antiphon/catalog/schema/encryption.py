"""Tables of encryption: wrapped data keys, the mode of a scope, positions of re-encryptions."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

data_keys = table(
    "data_keys",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("wrapping_key", sa.Text, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("retired_at", sa.BigInteger),
    # At most one key of a purpose is used for new payloads, whatever two writers believe.
    sa.Index(
        "uq_data_keys_active",
        "tenant",
        "environment",
        "purpose",
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    ),
)

encryption_modes = table(
    "encryption_modes",
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("migrating", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
)

reencryptions = table(
    "reencryptions",
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("cursor", sa.Text, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("finished", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)
