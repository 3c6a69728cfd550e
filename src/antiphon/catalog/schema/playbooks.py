"""The tables of playbooks: their runs, and the permissions to act alone."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, table

playbook_runs = table(
    "playbook_runs",
    key("id"),
    columns(TEXT, "playbook", "incident", "state"),
    columns(sa.Boolean, "active"),
    columns(Instant, "updated_at"),
    dated("document"),
    index("ix_playbook_runs_active", "active", "created_at"),
    index("ix_playbook_runs_created", "created_at"),
    index("ix_playbook_runs_incident", "incident"),
)

playbook_permissions = table(
    "playbook_permissions",
    key("playbook"),
    dated("document"),
)
