"""Tables of batch work: jobs and their rows, what they are, take and get, and files and batches of OpenAI's API.

The content of files lies elsewhere.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, optional, refers, table

jobs = table(
    "jobs",
    key("id"),
    columns(TEXT, "application"),
    optional(TEXT, "release"),
    columns(TEXT, "kind", "input", "output", "status"),
    columns(sa.BigInteger, "epoch"),
    optional(sa.BigInteger, "total"),
    columns(TEXT, "principal"),
    columns(sa.LargeBinary, "settings"),
    optional(TEXT, "error"),
    columns(Instant, "created_at", "updated_at"),
    index("ix_jobs_created", "created_at"),
)

job_rows = table(
    "job_rows",
    key("job"),
    key("line", kind=sa.BigInteger),
    columns(sa.BigInteger, "epoch"),
    columns(sa.Boolean, "failed"),
    dated("payload"),
    refers("job", "jobs"),
    # Rows lie in the key's own tree, with their payloads: counting them there would read them all.
    index("ix_job_rows_counts", "job", "failed"),
)

batch_work = table(
    "batch_work",
    key("job"),
    columns(TEXT, "model"),
    columns(sa.BigInteger, "rows", "prompt_bytes", "distinct_bytes", "output_limit"),
    optional(Instant, "deadline"),
    columns(sa.BigInteger, "done_rows", "done_prompt_bytes", "done_output_limit"),
    columns(sa.BigInteger, "done_prompt_tokens", "done_cached_tokens", "done_output_tokens"),
    columns(sa.Double, "done_engine_seconds"),
    columns(Instant, "updated_at"),
    refers("job", "jobs"),
    sa.Index("ix_batch_work_updated", "environment", "updated_at"),
)

batch_supply = table(
    "batch_supply",
    key("worker"),
    key("began_at", kind=sa.BigInteger),
    columns(sa.Double, "seconds", "engine_seconds"),
)

files = table(
    "files",
    key("id"),
    columns(TEXT, "purpose"),
    columns(sa.LargeBinary, "filename"),
    columns(sa.BigInteger, "size"),
    columns(TEXT, "sha256", "path", "principal"),
    columns(Instant, "created_at"),
    optional(Instant, "expires_at"),
    index("ix_files_size", "size"),
    sa.Index("ix_files_expiring", "expires_at"),
)

batches = table(
    "batches",
    key("id"),
    columns(TEXT, "endpoint", "input_file", "window"),
    optional(sa.LargeBinary, "metadata", "errors"),
    optional(TEXT, "ending", "output_file", "error_file"),
    columns(sa.BigInteger, "output_kept"),
    columns(Instant, "expires_at"),
    optional(Instant, "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at"),
    optional(Instant, "cancelling_at", "cancelled_at"),
    refers("id", "jobs"),
    index("ix_batches_input", "input_file"),
)
