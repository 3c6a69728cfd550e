"""Faults of data, as they happen to a folder of daily Parquet files. Written apart from the gates: this file imports
nothing of Antiphon, knows no rule and no threshold, and says of each fault only what happened and which words a person
would look for in a reason.

A source is a folder with one file a day (``2026-03-01.parquet``) of payments: ``payment_id``, ``shop``, ``paid_at``,
``known_at``, ``amount``, ``fee`` (missing in one of twenty), ``currency``, ``method``, ``city``, ``items``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
SHOPS = 150
CITIES = ("Berlin", "München", "Zürich", "Kraków", "Paris", "Lyon", "Oslo", "Wien")
_INSTANT = pa.timestamp("us", tz="UTC")


def shops(folder: Path) -> Path:
    """The list of shops that there are."""
    file = folder / "shops.csv"
    file.write_text("shop\n" + "".join(f"shop-{number:03d}\n" for number in range(SHOPS)))
    return file


def healthy_day(folder: Path, day: int, seed: int, rows: int) -> Path:
    """Write a day as it ought to be: its weekday, some growth, skewed amounts, and chance."""
    dice = np.random.default_rng([seed, day])
    weekday = (1.0, 1.05, 1.1, 1.0, 1.25, 1.4, 0.8)[day % 7]
    count = int(dice.poisson(rows * weekday * 1.004**day))
    start = FIRST + timedelta(days=day)
    microseconds = np.sort(dice.integers(0, 86_400_000_000, count))
    paid = microseconds + int(start.timestamp() * 1e6)
    known = paid + dice.exponential(4e6, count).astype("int64")
    amount = np.round(dice.lognormal(3.2, 0.8, count), 2)
    fee = np.round(amount * 0.015 + 0.1, 2)
    table = pa.table(
        {
            "payment_id": [f"p{seed}-{day}-{number}" for number in range(count)],
            "shop": [f"shop-{number:03d}" for number in dice.integers(0, SHOPS, count)],
            "paid_at": pa.array(paid, _INSTANT),
            "known_at": pa.array(known, _INSTANT),
            "amount": amount,
            "fee": pa.array(fee, mask=dice.random(count) < 0.05),
            "currency": dice.choice(["EUR", "CHF", "NOK"], count, p=[0.8, 0.15, 0.05]).tolist(),
            "method": dice.choice(["card", "transfer", "wallet"], count, p=[0.6, 0.25, 0.15]).tolist(),
            "city": dice.choice(CITIES, count).tolist(),
            "items": dice.integers(1, 9, count),
        }
    )
    return _written(table, folder / f"{start:%Y-%m-%d}.parquet")


class Fault(NamedTuple):
    """What happens to the newest file of a folder.

    ``words``: a reason that names the fault has one of them in each of the groups. ``readable``: whether a reader
    without any rule could make values of it at all.
    """

    name: str
    inject: Callable[[Path], object]
    words: tuple[tuple[str, ...], ...]
    readable: bool = True


def _written(table: pa.Table, file: Path) -> Path:
    draft = file.with_suffix(".draft")
    pq.write_table(table, draft)
    os.replace(draft, file)
    return file


def _with(file: Path, **columns: object) -> None:
    table = pq.read_table(file)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    _written(table, file)


def _some(file: Path, column: str, values: list[object], share: float = 0.02) -> None:
    """Put values into a few rows."""
    table = pq.read_table(file)
    kept = table.column(column).to_pylist()
    for number in range(0, len(kept), max(1, int(1 / share))):
        kept[number] = values[number % len(values)]
    _with(file, **{column: pa.array(kept, table.schema.field(column).type)})


def _moved(file: Path, by: timedelta) -> None:
    table = pq.read_table(file)
    moved = {
        name: pc.add(table.column(name), pa.scalar(by, pa.duration("us"))).cast(_INSTANT)
        for name in ("paid_at", "known_at")
    }
    _with(file, **moved)


def _wrong_types(file: Path) -> None:
    amounts = pq.read_table(file).column("amount").to_pylist()
    _with(file, amount=pa.array([f"{amount:.2f} EUR" for amount in amounts]))


def _future(file: Path) -> None:
    far = datetime(2262, 1, 1, tzinfo=UTC)
    _some(file, "paid_at", [far])
    _some(file, "known_at", [far])


def _tenfold(file: Path) -> None:
    table = pq.read_table(file)
    copies = [
        table.set_column(0, "payment_id", pa.array([f"{old}/{copy}" for old in table.column("payment_id").to_pylist()]))
        for copy in range(10)
    ]
    _written(pa.concat_tables(copies), file)


def _nothing_in(column: str) -> Callable[[Path], None]:
    def inject(file: Path) -> None:
        table = pq.read_table(file)
        _with(file, **{column: pa.nulls(len(table), table.schema.field(column).type)})

    return inject


def _repeated(file: Path) -> None:
    table = pq.read_table(file)
    _written(pa.concat_tables([table, table.slice(0, 30)]), file)


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def _vanishing(file: Path) -> Callable[[], bool]:
    """The file is deleted when this process opens it the first time from Python, which is after its rows were read.
    Tells whether that happened."""
    gone = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal gone
        if event == "open" and not gone and str(arguments[0]) == str(file):
            gone = True
            file.unlink()

    sys.addaudithook(watch)
    return lambda: gone


def _times(column: str, factor: float) -> Callable[[Path], None]:
    def inject(file: Path) -> None:
        _with(file, **{column: pc.multiply(pq.read_table(file).column(column), factor)})

    return inject


def _renamed_category(file: Path) -> None:
    methods = pq.read_table(file).column("method").to_pylist()
    _with(file, method=pa.array(["credit_card" if method == "card" else method for method in methods]))


def _swapped(file: Path) -> None:
    table = pq.read_table(file)
    _with(file, amount=pc.fill_null(table.column("fee"), 0.5), fee=table.column("amount"))


def _mojibake(file: Path) -> None:
    cities = pq.read_table(file).column("city").to_pylist()
    _with(file, city=pa.array([city.encode().decode("latin-1") for city in cities]))


def _shifted(file: Path) -> None:
    amounts = pq.read_table(file).column("amount")
    _with(file, amount=pc.add(pc.multiply(amounts, 0.6), 18.0))


def _constant(file: Path) -> None:
    _with(file, amount=pa.array([19.99] * len(pq.read_table(file))))


def _added_column(file: Path) -> None:
    table = pq.read_table(file)
    _written(table.append_column("note", pa.array(["new"] * len(table))), file)


def _dropped(file: Path) -> None:
    sorted(file.parent.glob("*.parquet"))[-4].unlink()


FAULTS: tuple[Fault, ...] = (
    Fault("wrong types", _wrong_types, (("amount",), ("text",)), readable=False),
    Fault(
        "missing column", lambda file: _written(pq.read_table(file).drop_columns(["amount"]), file),
        (("amount",), ("no value", "missing"))
    ),
    Fault("future timestamps", _future, (("future",),)),
    Fault("clock skew of six hours", lambda file: _moved(file, timedelta(hours=6)), (("future",),)),
    Fault("tenfold volume", _tenfold, (("rows are new", "times"), ("an hour",))),
    Fault("all-null column", _nothing_in("fee"), (("fee",), ("missing", "no value"))),
    Fault("duplicate keys", _repeated, (("payment_id",), ("same as in another row",))),
    Fault("truncated file", _truncated, (("cannot be computed", "cannot be read"),), readable=False),
    Fault(
        "source vanishing half-way",
        _vanishing,
        (("changed while it was read", "no file", "file of the source cannot be read"),),
        readable=False,
    ),
    Fault("unit change, times 100", _times("amount", 100.0), (("amount",), ("shifted",), ("times",))),
    Fault("category renamed", _renamed_category, (("method",), ("credit_card",))),
    Fault("stale data", lambda file: file.unlink(), (("latest event", "rows are new"), ("old", "only", "Only"))),
    Fault("swapped columns", _swapped, (("amount", "fee"), ("shifted",))),
    Fault("negative values", lambda file: _some(file, "amount", [-12.5]), (("amount",), ("-12.5",))),
    Fault(
        "NaN and infinity", lambda file: _some(file, "amount", [float("nan"), float("inf")]), (("amount",), ("NaN",))
    ),
    Fault("encoding garbage", _mojibake, (("city",), ("MÃ¼nchen", "ZÃ¼rich"))),
    Fault(
        "keys with separators and unicode",
        lambda file: _some(file, "shop", ["shop|001", "shop-001\u202e", "магазин,1", "a\x1fb", "'; --"], 0.01),
        (("shop",), ("not in", "kept aside")),
    ),
    Fault("schema addition", _added_column, (("note",), ("not declared",))),
    Fault("shifted distribution", _shifted, (("amount",), ("shifted",))),
    Fault("dropped partition", _dropped, (("rows",), ("only", "Only"))),
    Fault("empty partition", lambda file: _written(pq.read_table(file).slice(0, 0), file), (("new", "old"),)),
    Fault("constant column", _constant, (("amount",), ("shifted",))),
)  # fmt: skip
