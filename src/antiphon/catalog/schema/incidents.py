"""The table of incidents: each whole in its document, beside the columns that it is found by."""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, table

incidents = table(
    "incidents",
    key("id"),
    columns(TEXT, "state", "severity"),
    columns(sa.Boolean, "active"),
    columns(Instant, "opened_at", "updated_at"),
    dated("document"),
    index("ix_incidents_active", "active", "opened_at"),
    index("ix_incidents_opened", "opened_at"),
)
