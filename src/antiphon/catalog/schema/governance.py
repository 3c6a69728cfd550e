"""Tables of governance: identity, policies, the audit log, encryption. Instants are whole microseconds since 1970 UTC.

A principal belongs to a tenant, not to one environment: the environment of the rows of identity is ``*``. A tenant
without a row of its own is active. A grant stands in the scope of its owner.

A policy version's row is never changed; what became of it are its moves, of which the last ``in_force`` of a scope is
what decides there.

The audit log is one append-only Merkle tree a scope, without payloads. ``audit_entries`` holds what the leaves commit
to. What may name a person (principal, originating user, subject, detail) stands beside the salt of its commitment, so
that it can be erased: then ``erased`` keeps the commitment. In an encrypted project ``originator`` holds a keyed hash
that a user is found by, and ``originator_sealed`` the name; in plaintext ``originator`` is the name and the other is
empty. ``audit_nodes`` holds the roots of complete subtrees at every fourth level, ``audit_heads`` what appending needs.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, index, key, one_where, optional, table

tenants = table(
    "tenants",
    columns(TEXT, "state", "reason", "changed_by"),
    columns(sa.BigInteger, "changed_at"),
    sa.Column("share", sa.Double, nullable=False, server_default="1"),
    optional(TEXT, "quota"),
)

grants = table(
    "grants",
    key("kind", "name", "grantee"),
    columns(TEXT, "clearance", "reason", "made_by"),
    columns(Instant, "since"),
    optional(Instant, "until"),
    sa.Index("ix_grants_grantee", "grantee", "environment"),
)

principals = table(
    "principals",
    key("id"),
    columns(TEXT, "role", "kind", "clearance"),
    columns(sa.BigInteger, "created_at"),
    optional(sa.BigInteger, "disabled_at"),
    optional(TEXT, "made_by", "promoted_by"),
)

api_keys = table(
    "api_keys",
    key("id"),
    columns(TEXT, "name"),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    columns(TEXT, "hint"),
    optional(TEXT, "limits", "allowance"),
    columns(sa.BigInteger, "created_at"),
    optional(sa.BigInteger, "expires_at", "revoked_at"),
    optional(TEXT, "replaced_by"),
    optional(sa.BigInteger, "last_used_day"),
    optional(TEXT, "made_by", "approved_by"),
    sa.Column("waits", sa.BigInteger, nullable=False, server_default="0"),
)

quota_levels = table(
    "quota_levels",
    key("bucket", "meter"),
    columns(sa.Double, "used"),
    columns(sa.BigInteger, "at", "emptied_at"),
)

sessions = table(
    "sessions",
    key("hash", kind=sa.LargeBinary),
    columns(TEXT, "key"),
    columns(sa.BigInteger, "created_at", "seen_at", "expires_at"),
    optional(sa.BigInteger, "ended_at"),
    sa.Index("ix_sessions_hash", "hash", unique=True),
)

clock_marks = table("clock_marks", columns(sa.BigInteger, "newest_at"))

policy_versions = table(
    "policy_versions",
    key("number", kind=sa.BigInteger),
    columns(TEXT, "digest"),
    columns(sa.LargeBinary, "document"),
    columns(TEXT, "author", "rationale"),
    columns(sa.BigInteger, "created_at"),
)

policy_moves = table(
    "policy_moves",
    key("sequence", kind=sa.BigInteger),
    columns(sa.BigInteger, "number"),
    columns(TEXT, "state", "principal", "reason"),
    columns(sa.BigInteger, "at"),
)

policy_requests = table(
    "policy_requests",
    key("id"),
    columns(sa.LargeBinary, "payload"),
    columns(sa.BigInteger, "at"),
    index("ix_policy_requests_at", "at"),
)

audit_entries = table(
    "audit_entries",
    key("sequence", kind=sa.BigInteger),
    columns(sa.BigInteger, "at"),
    optional(TEXT, "principal"),
    optional(sa.LargeBinary, "principal_salt"),
    optional(TEXT, "originator"),
    optional(sa.LargeBinary, "originator_salt"),
    optional(TEXT, "subject"),
    optional(sa.LargeBinary, "subject_salt"),
    optional(TEXT, "detail"),
    optional(sa.LargeBinary, "detail_salt"),
    columns(TEXT, "action", "outcome"),
    optional(sa.LargeBinary, "erased"),
    columns(sa.LargeBinary, "leaf"),
    optional(sa.LargeBinary, "originator_sealed"),
    index("ix_audit_entries_at", "at"),
    index("ix_audit_entries_principal", "principal"),
    index("ix_audit_entries_subject", "subject"),
)

audit_nodes = table(
    "audit_nodes",
    key("level", kind=sa.BigInteger),
    key("position", kind=sa.BigInteger),
    columns(sa.LargeBinary, "hash"),
)

audit_heads = table(
    "audit_heads",
    columns(sa.BigInteger, "size"),
    columns(sa.LargeBinary, "peaks", "checkpoint", "seal"),
)

data_keys = table(
    "data_keys",
    key("id"),
    columns(TEXT, "purpose", "state", "provider", "wrapping_key"),
    columns(sa.LargeBinary, "wrapped"),
    columns(sa.BigInteger, "created_at"),
    optional(sa.BigInteger, "retired_at"),
    # At most one key of a purpose is used for new payloads.
    one_where("state = 'active'", "uq_data_keys_active", "purpose"),
)

encryption_modes = table(
    "encryption_modes", columns(TEXT, "mode"), columns(sa.Boolean, "migrating"), columns(sa.BigInteger, "changed_at")
)

reencryptions = table(
    "reencryptions",
    key("store"),
    columns(TEXT, "target", "cursor"),
    columns(sa.BigInteger, "done"),
    columns(sa.Boolean, "finished"),
    columns(sa.BigInteger, "updated_at"),
)
