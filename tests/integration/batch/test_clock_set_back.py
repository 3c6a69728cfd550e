"""Uploaded files and a clock that is set: nothing is removed for good because of a time that was not."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from tests.harness.stored_files import SCOPE, file_store
from tests.unit.catalog.examples import NOON, open_database

from antiphon.batch.files import FileStore
from antiphon.catalog.batch.files import StoredFile
from antiphon.core.clock import ClockAgreement, ManualClock
from antiphon.orchestration.worker import HousekeepingTask


def uploaded(files: FileStore) -> StoredFile:
    upload = files.begin(SCOPE, "somebody")
    upload.write(b'{"line": 1}\n')
    return upload.keep("batch", "lines.jsonl")


async def looked(files: FileStore, agreement: ClockAgreement | None, times: int = 3) -> None:
    """Housekeeping as the worker does it, so many times."""
    stop, done = asyncio.Event(), list[int]()

    def expire() -> int:
        done.append(files.expire())
        return done[-1]

    class CallCount(ClockAgreement):
        def seconds(self) -> float:
            done.append(0)
            assert agreement is not None
            return agreement.seconds()

    gate = None if agreement is None else CallCount(agreement._clock)
    working = asyncio.create_task(
        HousekeepingTask(expire, every=0.001, name="Removed", clock=gate, settled=600.0).run_until(stop)
    )
    async with asyncio.timeout(20):
        while len(done) < times:
            await asyncio.sleep(0.001)
    stop.set()
    await working


def there(files: FileStore, file: StoredFile) -> bool:
    return files.records.list(SCOPE, after=None, limit=10, order="asc", purpose=None) == [file]


async def test_a_clock_that_leaps_and_comes_back_removes_nothing(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    files, agreement = file_store(database, b"s" * 32), ClockAgreement(clock)
    kept = uploaded(files)
    clock.advance(timedelta(hours=1))
    clock.set(NOON + timedelta(days=400))
    await looked(files, agreement)
    clock.advance(timedelta(minutes=5))
    await looked(files, agreement)
    clock.set(NOON + timedelta(hours=2))
    assert there(files, kept)
    with files.open(kept) as content:
        assert content.read() == b'{"line": 1}\n'
    clock.advance(timedelta(days=31))
    await looked(files, agreement)
    assert not there(files, kept)
    database.close()


async def test_a_file_that_came_while_the_clock_was_back_stays_as_long_as_others(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    files, agreement = file_store(database, b"s" * 32), ClockAgreement(clock)
    uploaded(files)
    clock.set(datetime.fromisoformat("2001-01-01T00:00:00+00:00"))
    late = uploaded(files)
    clock.set(NOON + timedelta(hours=1))
    clock.advance(timedelta(hours=2))
    await looked(files, agreement)
    assert files.records.get(SCOPE, late.id) == late
    assert late.expires_at is not None
    assert late.expires_at >= NOON + timedelta(days=30)
    database.close()


def test_a_clock_that_was_once_ahead_does_not_keep_later_files_for_ever(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    files = file_store(database, b"s" * 32)
    clock.set(NOON + timedelta(days=4_000))
    uploaded(files)
    clock.set(NOON)
    at_once = uploaded(files)
    assert at_once.expires_at is not None
    assert at_once.expires_at > NOON + timedelta(days=4_000), "which of both times is right is not known yet"
    clock.advance(timedelta(hours=2))
    later = uploaded(files)
    assert later.expires_at is not None
    assert later.expires_at <= clock.now() + timedelta(days=30)
    database.close()


async def test_without_the_agreement_a_leap_removes_the_file(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    database = open_database(tmp_path, clock)
    files = file_store(database, b"s" * 32)
    kept = uploaded(files)
    clock.set(NOON + timedelta(days=400))
    await looked(files, None)
    clock.set(NOON + timedelta(hours=2))
    assert not there(files, kept)
    database.close()
