"""Following a folder: each file is read once it is no longer written, again after it changed, and each row is one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from antiphon import FileDrop, Source
from antiphon.catalog.features.events import Event
from antiphon.core.clock import ManualClock
from antiphon.core.errors import SetupError
from antiphon.features.following.file_drop import FileDropReader

AT = datetime(2026, 11, 30, 10, tzinfo=UTC)


class Reading:
    """What one reader has given so far, on a clock that is set by hand."""

    def __init__(self, folder: Path, pattern: str) -> None:
        follow = FileDrop(path=pattern, settle="2s")
        self.spec = Source.stream("visits", event_time="at", event_id="id", follow=follow).spec(folder)
        self.clock = ManualClock(AT)
        self.position: str | None = None
        self.refused, self.refusal, self.waiting = 0, "", 0
        self.caught_up_at: datetime | None = None
        self.again()

    def again(self) -> None:
        self.reader = FileDropReader(self.spec, self.clock)

    def on(self, limit: int = 100, pages: int = 1_000) -> list[str]:
        found: list[Event] = []
        for _ in range(pages):
            page = self.reader.read(self.position, limit)
            self.position, self.caught_up_at = page.position, page.caught_up_at
            self.refused, self.refusal = self.refused + page.refused, page.refusal or self.refusal
            self.waiting = page.waiting or 0
            found += page.events
            if not page.more:
                break
        return [event.event_id for event in found]

    def later(self, seconds: float, **options: Any) -> list[str]:
        self.on()
        self.clock.advance(timedelta(seconds=seconds))
        return self.on(**options)


Begin = Callable[..., Reading]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    with ExitStack() as stack:

        def made(pattern: str = "inbox/*.jsonl") -> Reading:
            (tmp_path / "inbox").mkdir(exist_ok=True)
            reading = Reading(tmp_path, pattern)
            stack.callback(lambda: reading.reader.close())
            return reading

        yield made


def lines(*ids: object) -> str:
    return "".join(json.dumps({"id": each, "at": AT.isoformat(), "shop": "tea", "n": 1.5}) + "\n" for each in ids)


def test_a_file_is_read_once_it_is_no_longer_written(tmp_path: Path, begin: Begin) -> None:
    reading, file = begin(), tmp_path / "inbox" / "a.jsonl"
    assert (reading.on(), reading.caught_up_at) == ([], AT)
    file.write_text(lines(1))
    assert (reading.later(1), reading.waiting) == ([], 1)
    assert reading.caught_up_at == AT, "a second ago nothing was there"
    file.write_text(lines(1, 2))
    assert reading.later(1) == []
    assert reading.later(2) == ["1", "2"]
    assert (reading.caught_up_at, reading.waiting) == (reading.clock.now(), 0)
    assert reading.later(60) == []


def test_a_file_that_changed_after_it_was_read_is_read_again(tmp_path: Path, begin: Begin) -> None:
    reading, file = begin(), tmp_path / "inbox" / "a.jsonl"
    file.write_text(lines(1, 2))
    assert reading.later(3) == ["1", "2"]
    with file.open("a") as appended:
        appended.write(lines(3))
    assert reading.later(3) == ["1", "2", "3"]
    before = file.stat()
    file.unlink()
    file.write_text(lines(4, 5, 6))  # As long, and as old by a clock that was set back.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns - 1))
    assert reading.later(3) == ["4", "5", "6"]
    file.unlink()
    assert reading.later(3) == []
    assert json.loads(reading.position or "")["read"] == {}


def test_half_a_line_is_waited_for(tmp_path: Path, begin: Begin) -> None:
    reading, file = begin("inbox/*.csv"), tmp_path / "inbox" / "a.csv"
    file.write_text(f"id,at,amount\n1,{AT.isoformat()},1\n2,{AT.isoformat()},12")
    assert reading.later(5) == []
    file.write_text(f"id,at,amount\n1,{AT.isoformat()},1\n2,{AT.isoformat()},125\n")
    assert reading.later(3) == ["1", "2"]
    whole = tmp_path / "inbox" / "b.csv"
    whole.write_text(f"id,at\n3,{AT.isoformat()}")
    assert reading.later(21) == ["3"], "a file may end so"


def test_pages_go_on_where_they_were_and_a_crash_reads_the_file_again(tmp_path: Path, begin: Begin) -> None:
    reading = begin("inbox/*.parquet")
    table = pyarrow.table({"id": list(range(250)), "at": [AT] * 250, "n": [float("nan")] * 250})
    pyarrow.parquet.write_table(table, tmp_path / "inbox" / "a.parquet")
    first = reading.later(3, limit=100, pages=1)
    assert len(first) == 100
    reading.again()
    rest = reading.on(limit=100)
    assert sorted(set(first) | set(rest), key=int) == [str(number) for number in range(250)]
    position = reading.position
    assert reading.later(3) == []
    assert reading.position == position


def test_a_page_that_was_not_kept_is_given_again(tmp_path: Path, begin: Begin) -> None:
    reading = begin()
    (tmp_path / "inbox" / "a.jsonl").write_text(lines(*range(30)))
    reading.later(3, limit=10, pages=1)
    kept = reading.position
    reading.on(limit=10, pages=1)
    reading.position = kept  # The log was away.
    assert {"10", "11", "12"} <= set(reading.on(limit=10))


def test_a_file_that_cannot_be_read_is_said_and_holds_up_no_other(tmp_path: Path, begin: Begin) -> None:
    reading = begin()
    (tmp_path / "inbox" / "a.jsonl").write_text('{"id": 1, "at": \n]]]\n')
    (tmp_path / "inbox" / "b.jsonl").write_text(lines(1, None, 2))
    assert reading.later(3) == ["1", "2"]
    assert reading.refused == 2
    assert reading.waiting == 0
    (tmp_path / "inbox" / "a.jsonl").write_text(lines(7))
    assert reading.later(3) == ["7"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, begin: Begin) -> None:
    with pytest.raises(SetupError, match="There is no folder"):
        begin("outbox/*.jsonl").on()
