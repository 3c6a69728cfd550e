"""Tables of notifications: those that parts of the platform handed over, and what became of each in each channel.

``sequence`` counts the notifications of a scope without a gap in the order of commits, for the catalog has one writer
at a time: a channel has considered every one up to a number.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, dated, index, key, optional, table, unique

notifications = table(
    "notifications",
    key("sequence", kind=sa.BigInteger),
    columns(TEXT, "id", "state", "kind"),
    # Whether it lasts until one of the same id says that it is resolved.
    columns(sa.Boolean, "lasting"),
    dated("document"),
    unique("id", "state"),
    index("ix_notifications_created", "created_at"),
    index("ix_notifications_lasting", "lasting", "kind"),
)

notification_channels = table(
    "notification_channels",
    key("channel"),
    # The last notification that was held against its filters.
    columns(sa.BigInteger, "considered"),
    columns(Instant, "begun_at"),
)

notification_deliveries = table(
    "notification_deliveries",
    key("channel"),
    key("sequence", kind=sa.BigInteger),
    columns(TEXT, "notification", "state", "status"),
    optional(TEXT, "run", "answer"),
    columns(Instant, "created_at"),
    optional(Instant, "ended_at"),
    index("ix_notification_deliveries_status", "channel", "status", "sequence"),
    index("ix_notification_deliveries_notification", "channel", "notification"),
)
