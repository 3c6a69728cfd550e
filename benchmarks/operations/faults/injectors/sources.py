"""Injectors on the table of the tickets: what exports, copies and spreadsheets make of it."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from benchmarks.operations.faults.injectors.injector import Injector, refreshed, set_aside
from benchmarks.operations.faults.project import FaultyProject, antiphon
from benchmarks.operations.faults.users import Users

Rows = list[list[str]]


def exported(content: Callable[[Rows, random.Random], bytes]) -> Injector:
    """The table is another file for a while; somebody wants its view to be refreshed."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        async with set_aside(project.root / "tickets.csv") as before:
            with before.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            (project.root / "tickets.csv").write_bytes(content(rows, chance))
            await refreshed(project, seconds)

    return act


def _csv(rows: Rows, delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def heading_alone(rows: Rows, chance: random.Random) -> bytes:
    """The export ran before the table was filled."""
    return _csv(rows[:1]).encode()


def in_utf16(rows: Rows, chance: random.Random) -> bytes:
    """A spreadsheet saved it as "Unicode text"."""
    return _csv(rows, "\t").encode("utf-16")


def page_of_an_error(rows: Rows, chance: random.Random) -> bytes:
    """The download was answered by a proxy in front of the system it is from."""
    return (
        b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n<body>\n"
        b"<h1>Bad Gateway</h1>\n<p>The upstream server did not answer in time.</p>\n</body></html>\n"
    )


def local_dates(rows: Rows, chance: random.Random) -> bytes:
    """Moments are written for people who read them."""
    opened = rows[0].index("opened")
    for row in rows[1:]:
        row[opened] = datetime.fromisoformat(row[opened]).strftime("%d. %B at %H.%M h")
    return _csv(rows).encode()


def one_customer(rows: Rows, chance: random.Random) -> bytes:
    """A filter was left on when it was exported."""
    customer = rows[0].index("customer")
    return _csv([rows[0], *(row for row in rows[1:] if row[customer] == rows[1][customer])]).encode()


def without_heading(rows: Rows, chance: random.Random) -> bytes:
    """Files were put together, and the first of them, which has the heading, was left out."""
    return _csv(rows[1:]).encode()


def shifted(rows: Rows, chance: random.Random) -> bytes:
    """Each value stands below the next heading: a column went from the end to the begin, and its heading did not."""
    return _csv([rows[0], *(row[-1:] + row[:-1] for row in rows[1:])]).encode()


def masked(rows: Rows, chance: random.Random) -> bytes:
    """A program that protects persons' data was let loose on the keys too."""
    customer = rows[0].index("customer")
    return _csv([rows[0], *([*row[:customer], "***", *row[customer + 1 :]] for row in rows[1:])]).encode()


def compressed(rows: Rows, chance: random.Random) -> bytes:
    """The export is compressed since today, and is named as before."""
    return gzip.compress(_csv(rows).encode())


async def tickets_come_in(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A good day's new rows are at the end of the table, and its view is refreshed."""
    table = project.root / "tickets.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    opened, resolved, now = rows[0].index("opened"), rows[0].index("resolved"), datetime.now(UTC)
    new = [list(row) for row in chance.sample(rows[1:], 25)]
    for number, row in enumerate(new):
        row[0] = f"n{number:05}"
        row[opened] = (now - timedelta(minutes=60 + number)).isoformat()
        row[resolved] = (now - timedelta(minutes=2)).isoformat()
    written = table.with_suffix(".new")
    written.write_text(_csv([*rows, *new]), encoding="utf-8")
    written.replace(table)
    await refreshed(project, seconds)


async def orders_come_in(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A shop sends its orders of the last hours as events, all at once."""
    now = datetime.now(UTC)
    rows = [["order_id", "shop", "ordered", "handed_over", "minutes", "promised"]]
    for number in range(120):
        minutes = chance.uniform(10.0, 20.0)
        ordered = now - timedelta(minutes=30 + 2 * number)
        handed_over = ordered + timedelta(minutes=minutes)
        rows.append(
            [f"n{number:05}", "florist", ordered.isoformat(), handed_over.isoformat(), f"{minutes:.1f}", "18.2"]
        )
    sent = project.root / "new-orders.csv"
    sent.write_text(_csv(rows), encoding="utf-8")
    await asyncio.to_thread(antiphon, project.root, "events", "push", "orders", str(sent), "--json")
    await asyncio.sleep(seconds)


SOURCES: dict[str, Injector] = {
    "source_emptied": exported(heading_alone),
    "source_in_utf16": exported(in_utf16),
    "source_is_an_error_page": exported(page_of_an_error),
    "local_dates": exported(local_dates),
    "one_customer_left": exported(one_customer),
    "heading_lost": exported(without_heading),
    "columns_shifted": exported(shifted),
    "customers_masked": exported(masked),
    "export_compressed": exported(compressed),
    "tickets_come_in": tickets_come_in,
    "orders_come_in": orders_come_in,
}
