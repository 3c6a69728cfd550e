"""Features: definitions, snapshots, publications, source events and their consumers."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

definition_versions = table(
    "definition_versions",
    sa.Column("view", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

applied_projects = table(
    "applied_projects",
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

snapshots = table(
    "snapshots",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("definition_version", sa.Text, nullable=False),
    sa.Column("as_of", sa.BigInteger, nullable=False),
    sa.Column("logical_hash", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("pruned_at", sa.BigInteger, nullable=True),
    sa.Index("ix_snapshots_view", "tenant", "environment", "view", "definition_version", "as_of"),
)

publications = table(
    "publications",
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("base", sa.Integer, nullable=False),
    sa.Column("snapshots", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

streams = table(
    "streams",
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("end_offset", sa.BigInteger, nullable=False),
    sa.Column("log", sa.Text),
)

events = table(
    "events",
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("event_time", sa.BigInteger, nullable=False),
    sa.Column("available_at", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "environment", "stream", "event_id"),
)

verdicts = table(
    "verdicts",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("definition_version", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("snapshot", sa.Text, nullable=True),
    sa.Column("kept_aside", sa.Text, nullable=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("rows_expired_at", sa.BigInteger, nullable=True),
    sa.Index("ix_verdicts_view", "tenant", "environment", "view", "definition_version", "created_at"),
)

staged_snapshots = table(
    "staged_snapshots",
    sa.Column("snapshot", sa.Text, primary_key=True),
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("definition_version", sa.Text, nullable=False),
    sa.Column("publish_at", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
)

feature_holds = table(
    "feature_holds",
    sa.Column("view", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

skew_reports = table(
    "skew_reports",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("view", sa.Text, primary_key=True),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("publication", sa.Integer, nullable=True),
    sa.Column("compared", sa.Integer, nullable=False),
    sa.Column("different", sa.Integer, nullable=False),
    sa.Column("not_comparable", sa.Integer, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("measured_at", sa.BigInteger, nullable=False),
    sa.Index("ix_skew_reports_view", "tenant", "environment", "view", "measured_at"),
)
