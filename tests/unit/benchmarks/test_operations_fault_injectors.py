"""Injectors that need no running project: what they make of tables, definitions and users, and that they undo it."""

from __future__ import annotations

import ast
import asyncio
import csv
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from benchmarks.operations.faults.drafts import DRAFTS
from benchmarks.operations.faults.injectors import injector, sources
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


async def test_a_table_is_as_before_when_its_injector_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    fault = asyncio.create_task(sources.SOURCES["source_emptied"](made, users, chance(), 60.0))
    await ordered.wait()
    assert table.read_bytes() != before
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
