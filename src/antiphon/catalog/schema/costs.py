"""Tables of cost: what was used in each hour, what it is priced at, how far meters were read, and budgets.

The tenant of what is shared by all tenants of an environment (idle engines, prices, readings of engines) is ``*``.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, index, key, table

# Sums of an hour: each adds to a row, in the transaction of what it measures.
ledger_entries = table(
    "ledger_entries",
    key("hour", kind=Instant),
    key("resource", "application", "release", "path", "role", "principal", "engine", "model", "work"),
    columns(sa.BigInteger, "quantity"),
    index("ix_ledger_entries_work", "work", "hour"),
)

prices = table(
    "prices",
    key("sequence", kind=sa.BigInteger),
    columns(TEXT, "resource", "model", "amount", "currency"),
    columns(Instant, "since", "recorded_at"),
    columns(TEXT, "principal", "reason"),
)

meter_readings = table(
    "meter_readings",
    key("meter"),
    columns(TEXT, "process"),
    columns(sa.BigInteger, "total", "part"),
    columns(Instant, "read_at"),
)

budgets = table(
    "budgets",
    key("name"),
    columns(TEXT, "kind", "subject", "period", "zone", "currency", "at_limit"),
    columns(sa.BigInteger, "limit_micros"),
    columns(sa.Integer, "warn_percent", "batch_percent"),
    columns(TEXT, "principal", "reason"),
    columns(Instant, "changed_at"),
)

# What a process has drawn of a budget and not charged yet: until then nobody else has it.
budget_shares = table(
    "budget_shares",
    key("budget", "holder"),
    columns(sa.BigInteger, "held"),
    columns(Instant, "until"),
)
