"""The project of the feature platform's kill harness: three views of one stream, one of a table that is replaced.

Every value is drawn from a seed, so that whoever checks makes the same rows and events again: amounts are multiples of
0.01, and no two events of a shop happen at one moment. Some events repeat rows of the history under their ids.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

SHOPS = tuple(f"shop-{number}" for number in range(6))
STREAM = "orders"
BATCH = 6
"""Events that are appended, and acknowledged, together."""

HISTORY_ROWS = 240
_SPAN = 26 * 3_600
"""Seconds before the base moment within which everything happened: a window of two hours cuts some off."""

_DEFINITIONS = '''"""What the feature platform's kill harness serves."""

from antiphon import Entity, Source, col, count, expect, feature_view, last
from antiphon import sum as total
from antiphon.definitions.quality import Quality

shop = Entity("shop", keys=["shop"])
orders = Source.stream(
    "orders", history="@ORDERS@", event_time="ordered", available_at="known", event_id="order_id"
)
stock = Source.table("stock", path="@STOCK@", event_time="counted", available_at="known")


@feature_view(entity=shop, source=orders, owner="chaos")
class Counted:
    """How many orders."""

    orders = count(window=None)
    lately = count(window="2h")


@feature_view(entity=shop, source=orders, owner="chaos")
class Summed:
    """What they came to."""

    amount = total(col.amount, window="28d", scale="0.01")
    latest = last(col.amount)


@feature_view(
    entity=shop, source=stock, owner="chaos", quality=Quality(expect.between("pieces", 0, 1000, action="quarantine"))
)
class Stocked:
    """What lies there."""

    pieces = total(col.pieces, window="28d", scale="1")
    counts = count(window="28d")


@feature_view(entity=shop, source=orders, owner="chaos", embargo="1s")
class Held:
    """How many orders, published later."""

    orders = count(window="7d")
'''


def write_project(root: Path, seed: int, base: datetime, redis: str | None = None) -> None:
    """Write definitions, settings and the first version of both sources.

    Args:
        base: the moment by which everything has happened; a whole second.
        redis: URL of the online store; ``None`` is the embedded one.
    """
    root.mkdir(parents=True, exist_ok=True)
    definitions = _DEFINITIONS.replace("@ORDERS@", str(root / "orders.parquet"))
    (root / "definitions.py").write_text(definitions.replace("@STOCK@", str(root / "stock.parquet")), encoding="utf-8")
    online = f'online = "{redis}"\n' if redis is not None else ""
    features = f'[features]\nsnapshots_kept = "1s"\nquarantine_kept = "4s"\n{online}'
    gateway = '\n[gateway]\nrequest_timeout = "1s"\nflex_timeout = "1s"\n'
    (root / "antiphon.toml").write_text(f'[project]\nname = "chaos"\n{gateway}\n{features}', encoding="utf-8")
    write_rows(root / "orders.parquet", history(seed, base), "ordered", ("order_id", "shop", "amount"))
    write_stock(root, seed, base, 0)


def write_stock(root: Path, seed: int, base: datetime, version: int) -> Path:
    """Replace the table by its next version, whole or not at all; a copy of each version is kept."""
    kept = root / f"stock-{version}.parquet"
    write_rows(kept, stock(seed, base, version), "counted", ("shop", "pieces"))
    draft = root / ".stock.parquet"
    draft.write_bytes(kept.read_bytes())
    os.replace(draft, root / "stock.parquet")
    return kept


def history(seed: int, base: datetime) -> list[dict[str, Any]]:
    """The orders before the stream, oldest first."""
    drawn = random.Random(f"history {seed}")
    return [_order(drawn, f"h{number}", base, 2 * number) for number in range(HISTORY_ROWS)]


def batch(seed: int, base: datetime, number: int) -> list[dict[str, Any]]:
    """One batch of events; now and then one is an order of the history again."""
    drawn = random.Random(f"batch {seed} {number}")
    made = [_order(drawn, f"e{number}-{place}", base, 2 * (number * BATCH + place) + 1) for place in range(BATCH)]
    if number % 5 == 0:
        made[0] = history(seed, base)[number % HISTORY_ROWS]
    return made


def stock(seed: int, base: datetime, version: int) -> list[dict[str, Any]]:
    """One version of the table; one row in 40 is kept aside by the view's rule, and of every fifth version so many
    that it is blocked."""
    drawn = random.Random(f"stock {seed} {version}")
    rows = []
    wrong = 0.7 if version % 5 == 4 else 0.025
    for number in range(60 + version % 40):
        at = base - timedelta(seconds=drawn.randrange(_SPAN), microseconds=number)
        pieces = -5 if drawn.random() < wrong else drawn.randrange(1_000)
        rows.append({"shop": drawn.choice(SHOPS), "pieces": pieces, "counted": at, "known": at})
    return rows


def _order(drawn: random.Random, identity: str, base: datetime, unique: int) -> dict[str, Any]:
    at = base - timedelta(seconds=drawn.randrange(_SPAN), microseconds=unique)
    return {
        "order_id": identity,
        "shop": drawn.choice(SHOPS),
        "amount": drawn.randrange(100_000) / 100,
        "ordered": at,
        "known": at + timedelta(seconds=drawn.choice((0, 30, 3_000))),
    }


def write_rows(path: Path, rows: list[dict[str, Any]], at: str, others: tuple[str, ...]) -> None:
    """Write rows as Parquet."""
    import pyarrow
    import pyarrow.parquet

    instant = pyarrow.timestamp("us", tz="UTC")
    columns = {name: pyarrow.array([row[name] for row in rows]) for name in others}
    columns |= {name: pyarrow.array([row[name] for row in rows], instant) for name in (at, "known")}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def moments(base: datetime) -> Iterator[datetime]:
    """The moments that values are read as of: now, and earlier ones that a reading still answers."""
    yield base + timedelta(hours=1)
    yield base - timedelta(hours=1)


def base_of(text: str) -> datetime:
    """The base moment as told to a child."""
    return datetime.fromisoformat(text).astimezone(UTC)
