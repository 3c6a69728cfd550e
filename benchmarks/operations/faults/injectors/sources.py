"""Injectors on the table of the tickets: what exports, copies and spreadsheets make of it."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

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


def unquoted(rows: Rows, chance: random.Random) -> bytes:
    """The export was written anew and quotes nothing; since then customers' texts may have commas and lines."""
    question = rows[0].index("question")
    for row in rows[1:]:
        row[question] += ", thanks\nAnna, Sales"
    return "".join(",".join(row) + "\n" for row in rows).encode()


def of_last_month(rows: Rows, chance: random.Random) -> bytes:
    """A job for backups put last month's export in the place of today's."""
    opened = rows[0].index("opened")
    newest = max(datetime.fromisoformat(row[opened]) for row in rows[1:])
    old = [row for row in rows[1:] if datetime.fromisoformat(row[opened]) < newest - timedelta(days=30)]
    return _csv([rows[0], *old]).encode()


def with_channel(rows: Rows, chance: random.Random) -> bytes:
    """The helpdesk's new version exports one column more, at the end, which nothing here reads."""
    return _csv([[*rows[0], "channel"], *([*row, chance.choice(("mail", "chat"))] for row in rows[1:])]).encode()


async def written_in_parts(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A cluster exports it since today: there is a folder of that name, with a part of each of its machines."""
    place = project.root / "tickets.csv"
    async with set_aside(place) as before:
        lines = before.read_text(encoding="utf-8").splitlines(keepends=True)
        place.mkdir()
        try:
            for number in range(4):
                part = lines[:1] + lines[1 + number :: 4]
                (place / f"part-{number:05}.csv").write_text("".join(part), encoding="utf-8")
            (place / "_SUCCESS").touch()
            await refreshed(project, seconds)
        finally:
            shutil.rmtree(place)


async def source_hangs(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The export is a pipe since today, and its writer hangs: who opens it gets neither rows nor an error."""
    place = project.root / "tickets.csv"
    async with set_aside(place):
        os.mkfifo(place)
        try:
            await refreshed(project, seconds)
        finally:
            # Those who wait read its end.
            with suppress(OSError):
                os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))
            place.unlink()


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
    sent = _new_orders(project, chance, "florist", 120)
    await asyncio.to_thread(antiphon, project.root, "events", "push", "orders", str(sent), "--json")
    await asyncio.sleep(seconds)


async def orders_sent_again(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A shop's program is not sure that its few new orders arrived, and sends the same ones again and again."""
    sent, end = _new_orders(project, chance, "books", 15), time.monotonic() + seconds
    order = ("events", "push", "orders", str(sent), "--json")
    for _ in range(8):
        if time.monotonic() < end:
            await asyncio.to_thread(antiphon, project.root, *order)
    await asyncio.sleep(max(0.0, end - time.monotonic()))


def _new_orders(project: FaultyProject, chance: random.Random, shop: str, count: int) -> Path:
    """A file of orders of a shop's last hours."""
    now = datetime.now(UTC)
    rows = [["order_id", "shop", "ordered", "handed_over", "minutes", "promised"]]
    for number in range(count):
        minutes = chance.uniform(10.0, 20.0)
        ordered = now - timedelta(minutes=30 + 2 * number)
        handed_over = ordered + timedelta(minutes=minutes)
        rows.append([f"n{number:05}", shop, ordered.isoformat(), handed_over.isoformat(), f"{minutes:.1f}", "18.2"])
    sent = project.root / "new-orders.csv"
    sent.write_text(_csv(rows), encoding="utf-8")
    return sent


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
    "texts_unquoted": exported(unquoted),
    "old_export_restored": exported(of_last_month),
    "written_in_parts": written_in_parts,
    "source_hangs": source_hangs,
    "column_added": exported(with_channel),
    "tickets_come_in": tickets_come_in,
    "orders_come_in": orders_come_in,
    "orders_sent_again": orders_sent_again,
}
