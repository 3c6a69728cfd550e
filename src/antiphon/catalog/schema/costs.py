"""Tables of cost: what was used in each hour, what it is priced at, and how far meters were read.

The tenant of what is shared by all tenants of an environment (idle engines, prices, readings of engines) is ``*``.
"""

from __future__ import annotations

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.catalog.schema.base import Instant, columns, key, table

# Sums of an hour: each adds to a row, in the transaction of what it measures.
ledger_entries = table(
    "ledger_entries",
    key("hour", kind=Instant),
    key("resource", "application", "release", "path", "role", "principal", "engine", "model", "work"),
    columns(sa.BigInteger, "quantity"),
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
