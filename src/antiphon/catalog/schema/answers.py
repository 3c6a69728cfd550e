"""Tables of answers: receipts, their blobs, stored answers, batch jobs."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

blobs = table(
    "blobs",
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("erased_at", sa.BigInteger),
)

receipts = table(
    "receipts",
    sa.Column("prediction", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False, server_default="live"),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("saved_tokens", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_receipts_created", "tenant", "environment", "created_at"),
    sa.Index("ix_receipts_application", "tenant", "environment", "application", "created_at"),
    sa.Index("ix_receipts_subject", "tenant", "environment", "subject", "created_at"),
)

answers = table(
    "answers",
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("question_hash", sa.Text, primary_key=True),
    sa.Column("prediction", sa.Text, primary_key=True),
    sa.Column("as_of", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("prompt_key", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Index("ix_answers_prompt", "tenant", "environment", "prompt_key", "as_of"),
)

jobs = table(
    "jobs",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("application", sa.Text, nullable=False),
    sa.Column("release", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_jobs_created", "tenant", "environment", "created_at"),
)

job_rows = table(
    "job_rows",
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("failed", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "environment", "job"], ["jobs.tenant", "jobs.environment", "jobs.id"]),
    # Rows lie in the key's own tree, with their payloads: counting them there would read them all.
    sa.Index("ix_job_rows_counts", "tenant", "environment", "job", "failed"),
)
