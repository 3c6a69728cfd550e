"""Injectors that need no running project: what they make of tables, definitions and users, and that they undo it."""

from __future__ import annotations

import ast
import asyncio
import csv
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from benchmarks.operations.faults.drafts import DRAFTS
from benchmarks.operations.faults.injectors import injector, records, sources
from benchmarks.operations.faults.injectors.callers import everybody_comes
from benchmarks.operations.faults.injectors.stores import cut, scribbled
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import APPLICATIONS, Users

from antiphon.cli import blueprints

ROWS = [
    ["ticket", "opened", "resolved", "customer", "question"],
    *(
        [f"t{n}", f"2026-03-02T08:{n:02}:00+00:00", "2026-03-02T09:00:00+00:00", ("acme", "blue")[n % 2], 'an "é"']
        for n in range(10)
    ),
]


def chance() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize("name", sorted(DRAFTS))
def test_bad_drafts_are_edits_of_the_blueprints_that_can_be_compiled(name: str) -> None:
    draft = DRAFTS[name]
    text = (Path(blueprints.__file__).parent / draft.application / "definitions.py.template").read_text(
        encoding="utf-8"
    )
    assert text.count(draft.sound) == 1
    ast.parse(text.replace(draft.sound, draft.spoiled))


def test_a_table_without_rows_has_its_heading() -> None:
    assert sources.heading_alone(ROWS, chance()).decode().split() == [",".join(ROWS[0])]


def test_a_table_in_utf16_is_no_utf8() -> None:
    content = sources.in_utf16(ROWS, chance())
    assert content.decode("utf-16").splitlines()[0] == "\t".join(ROWS[0])
    with pytest.raises(UnicodeDecodeError):
        content.decode()


def test_local_dates_are_no_moments() -> None:
    rows = [list(row) for row in ROWS]
    written = list(csv.reader(sources.local_dates(rows, chance()).decode().splitlines()))
    assert len(written) == len(ROWS)
    with pytest.raises(ValueError, match="isoformat"):
        datetime.fromisoformat(written[1][1])


def test_one_customer_is_left_with_all_rows_of_theirs() -> None:
    written = list(csv.reader(sources.one_customer(ROWS, chance()).decode().splitlines()))
    assert written == [ROWS[0], *(row for row in ROWS[1:] if row[3] == ROWS[1][3])]


def test_texts_that_are_not_quoted_break_rows() -> None:
    rows = [list(row) for row in ROWS]
    written = list(csv.reader(sources.unquoted(rows, chance()).decode().splitlines()))
    assert written[0] == ROWS[0]
    assert len(written) == 2 * len(ROWS) - 1
    assert {len(row) for row in written[1:]} == {6, 2}


def test_an_old_export_has_the_rows_that_were_there_a_month_ago() -> None:
    rows = [list(row) for row in ROWS]
    rows[1][1], rows[2][1] = "2026-01-15T08:00:00+00:00", "2026-01-20T08:00:00+00:00"
    assert list(csv.reader(sources.of_last_month(rows, chance()).decode().splitlines())) == rows[:3]


def test_a_column_more_leaves_the_others_as_they_are() -> None:
    written = list(csv.reader(sources.with_channel(ROWS, chance()).decode().splitlines()))
    assert [row[:-1] for row in written] == ROWS
    assert written[0][-1] == "channel"


def test_a_spoiled_schema_cannot_be_read_and_is_as_before_when_its_injector_is_cancelled(tmp_path: Path) -> None:
    made = project(tmp_path)
    made.catalog.parent.mkdir()
    with closing(sqlite3.connect(made.catalog)) as connection:
        connection.execute("CREATE TABLE receipts (id TEXT)")
        connection.execute("CREATE TABLE leases (name TEXT, holder TEXT, until INTEGER)")
        connection.execute("INSERT INTO leases VALUES ('worker', 'this one', 1)")
        connection.commit()

    def rows(order: str) -> list[Any]:
        with closing(sqlite3.connect(made.catalog)) as connection:
            return connection.execute(order).fetchall()

    async def cancelled(name: str, seen: Callable[[], bool]) -> None:
        users = Users("http://nowhere", "key", chance(), 1.0)
        fault = asyncio.create_task(records.RECORDS[name](made, users, chance(), 60.0))
        async with asyncio.timeout(20.0):
            while not seen():
                await asyncio.sleep(0.01)
        fault.cancel()
        await asyncio.gather(fault, return_exceptions=True)

    def malformed() -> bool:
        try:
            return not rows("SELECT 1 FROM sqlite_master")
        except sqlite3.DatabaseError as error:
            return "malformed database schema" in str(error)

    before = rows("SELECT * FROM sqlite_master")
    asyncio.run(cancelled("catalog_schema_malformed", malformed))
    assert rows("SELECT * FROM sqlite_master") == before

    asyncio.run(cancelled("lease_of_a_lost_machine", lambda: rows("SELECT holder FROM leases") != [("this one",)]))
    assert rows("SELECT * FROM leases") == []


@pytest.mark.parametrize(("damaged", "size"), [(scribbled, 100_000), (cut, 50_000)])
def test_damage_changes_a_file_in_place(
    damaged: Callable[[Path, random.Random], None], size: int, tmp_path: Path
) -> None:
    file = tmp_path / "snapshot.mdb"
    file.write_bytes(bytes(100_000))
    inode = file.stat().st_ino
    damaged(file, chance())
    assert file.stat().st_ino == inode
    assert len(file.read_bytes()) == size
    assert (file.read_bytes() != bytes(size)) == (damaged is scribbled)


def project(root: Path) -> FaultyProject:
    (root / "antiphon.toml").write_text("port = 8700\n")
    with (root / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS)
    return FaultyProject(root)


@pytest.mark.parametrize("name", ["source_emptied", "written_in_parts", "source_hangs"])
async def test_a_table_is_as_before_when_its_injector_is_cancelled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def order(*_: Any, **__: Any) -> str:
        loop.call_soon_threadsafe(ordered.set)
        return ""

    monkeypatch.setattr(injector, "antiphon", order)
    made, table = project(tmp_path), tmp_path / "tickets.csv"
    before = table.read_bytes()
    users = Users("http://nowhere", "key", chance(), 1.0)
    fault = asyncio.create_task(sources.SOURCES[name](made, users, chance(), 60.0))
    await ordered.wait()
    assert not table.is_file() or table.read_bytes() != before
    fault.cancel()
    await asyncio.gather(fault, return_exceptions=True)
    assert table.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"antiphon.toml", "tickets.csv"}


async def test_users_ask_as_before_when_an_injector_is_cancelled(tmp_path: Path) -> None:
    users = Users("http://nowhere", "key", chance(), 1.0)
    fault = asyncio.create_task(everybody_comes(project(tmp_path), users, chance(), 60.0))
    await asyncio.sleep(0)
    assert min(users.rate.values()) > 1.0
    fault.cancel()
    await asyncio.gather(fault, return_exceptions=True)
    assert users.rate == dict.fromkeys(APPLICATIONS, 1.0)
