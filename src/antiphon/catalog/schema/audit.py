"""Tables of the audit log: one append-only Merkle tree a scope, without payloads.

``audit_entries`` holds what the leaves commit to. What may name a person (principal, originating user, subject,
detail) stands beside the salt of its commitment, so that it can be erased: then ``erased`` keeps the commitment.
In an encrypted project ``originator`` holds a keyed hash that a user is found by, and ``originator_sealed`` the name;
in plaintext ``originator`` is the name and the other is empty.
``audit_nodes`` holds the roots of complete subtrees at every fourth level, ``audit_heads`` what appending needs.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

audit_entries = table(
    "audit_entries",
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.Text),
    sa.Column("principal_salt", sa.LargeBinary),
    sa.Column("originator", sa.Text),
    sa.Column("originator_salt", sa.LargeBinary),
    sa.Column("subject", sa.Text),
    sa.Column("subject_salt", sa.LargeBinary),
    sa.Column("detail", sa.Text),
    sa.Column("detail_salt", sa.LargeBinary),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("erased", sa.LargeBinary),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("originator_sealed", sa.LargeBinary),
    sa.Index("ix_audit_entries_at", "tenant", "environment", "at"),
    sa.Index("ix_audit_entries_principal", "tenant", "environment", "principal"),
    sa.Index("ix_audit_entries_subject", "tenant", "environment", "subject"),
)

audit_nodes = table(
    "audit_nodes",
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

audit_heads = table(
    "audit_heads",
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("peaks", sa.LargeBinary, nullable=False),
    sa.Column("checkpoint", sa.Text, nullable=False),
    sa.Column("seal", sa.LargeBinary, nullable=False),
)
