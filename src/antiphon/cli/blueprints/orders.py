"""The blueprint's data set: orders of six small shops over the last four weeks. Invented, the same each time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

from antiphon.cli.blueprints.tables import write_table

SHOPS = {"bakery": 9, "books": 21, "florist": 14, "grocer": 18, "pharmacy": 7, "tea": 11}
"""Shop to its usual minutes from order to hand-over."""

DAYS = 28
PER_DAY = 40


def write_orders(folder: Path, until: datetime) -> int:
    """Write the orders up to ``until`` (to the hour) into ``orders.csv``, and the shops into ``shops.csv``; returns the
    number of orders.

    An order is known when it is handed over: ``ordered`` is its event time, ``handed_over`` is when it counts.
    """
    chance = random.Random(20)
    last = until.replace(minute=0, second=0, microsecond=0)
    rows = []
    for shop, usual in SHOPS.items():
        for day in range(DAYS):
            # Each shop has its slow days, so that a fresh figure says more than the long average.
            slow = 1.0 + 0.9 * (chance.random() < 0.25)
            for _ in range(PER_DAY):
                ordered = last - timedelta(days=day, seconds=chance.randrange(86_400))
                minutes = max(2.0, chance.gauss(usual * slow, usual / 4))
                handed_over = ordered + timedelta(minutes=minutes)
                if handed_over < until:
                    rows.append((shop, ordered, handed_over, minutes))
    rows.sort(key=lambda row: (row[2], row[0]))
    columns = ("order_id", "shop", "ordered", "handed_over", "minutes", "promised")
    orders = [
        (f"o{number:05}", shop, ordered, handed_over, f"{minutes:.1f}", f"{SHOPS[shop] * 1.3:.1f}")
        for number, (shop, ordered, handed_over, minutes) in enumerate(rows, 1)
    ]
    write_table(folder / "orders.csv", columns, orders)
    write_table(folder / "shops.csv", ("shop",), [(shop,) for shop in SHOPS])
    return len(rows)
