"""Files that were uploaded or made by a batch, as OpenAI's API knows them (their content lies beside the catalog); what
batch jobs are, take and get."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.schema.base import table

files = table(
    "files",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("filename", sa.LargeBinary, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Index("ix_files_size", "tenant", "environment", "size"),
    sa.Index("ix_files_expiring", "expires_at"),
)

batches = table(
    "batches",
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("input_file", sa.Text, nullable=False),
    sa.Column("window", sa.Text, nullable=False),
    sa.Column("metadata", sa.LargeBinary),
    sa.Column("errors", sa.LargeBinary),
    sa.Column("ending", sa.Text),
    sa.Column("output_file", sa.Text),
    sa.Column("error_file", sa.Text),
    sa.Column("output_kept", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("in_progress_at", sa.BigInteger),
    sa.Column("finalizing_at", sa.BigInteger),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("failed_at", sa.BigInteger),
    sa.Column("expired_at", sa.BigInteger),
    sa.Column("cancelling_at", sa.BigInteger),
    sa.Column("cancelled_at", sa.BigInteger),
    sa.ForeignKeyConstraint(["tenant", "environment", "id"], ["jobs.tenant", "jobs.environment", "jobs.id"]),
    sa.Index("ix_batches_input", "tenant", "environment", "input_file"),
)

_MEASURED = ("rows", "prompt_bytes", "output_limit", "prompt_tokens", "cached_tokens", "output_tokens")

batch_work = table(
    "batch_work",
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("prompt_bytes", sa.BigInteger, nullable=False),
    sa.Column("distinct_bytes", sa.BigInteger, nullable=False),
    sa.Column("output_limit", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.BigInteger),
    *(sa.Column(f"done_{name}", sa.BigInteger, nullable=False) for name in _MEASURED),
    sa.Column("done_engine_seconds", sa.Float, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "environment", "job"], ["jobs.tenant", "jobs.environment", "jobs.id"]),
    sa.Index("ix_batch_work_updated", "environment", "updated_at"),
)

batch_supply = table(
    "batch_supply",
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("began_at", sa.BigInteger, primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("engine_seconds", sa.Float, nullable=False),
)
