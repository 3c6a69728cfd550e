from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.catalog.examples import DEV, OTHER, open_database

from antiphon.core.errors import CorruptionError, InvalidInputError, OverloadedError, UnavailableError
from antiphon.governance.audit import writer as audit_writer
from antiphon.governance.audit.log import AuditFilter, AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.governance.audit.writer import AuditWriter

SECRET = b"s" * 32


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    database = open_database(tmp_path)
    yield AuditLog(database, SECRET)
    database.close()


def written(log: AuditLog) -> int:
    """What another process sees on the disk."""
    with closing(sqlite3.connect(log.database.path)) as connection:
        return int(connection.execute("SELECT count(*) FROM audit_entries").fetchone()[0])


def test_what_was_flushed_is_on_disk_in_its_order(log: AuditLog) -> None:
    writer = AuditWriter(log, largest_group=7)
    tickets = [writer.enqueue(DEV, "ann", "data.read", f"pred_{number}") for number in range(50)]
    writer.flush(tickets[20])
    assert written(log) >= 21
    writer.flush()
    assert written(log) == 50
    assert [entry.subject for entry in reversed(log.query(DEV, AuditFilter(limit=50)))] == [
        f"pred_{number}" for number in range(50)
    ]
    writer.record(OTHER, "ann", "data.read", "pred_1", originator="zoe")
    assert written(log) == 51
    writer.close()
    writer.close()
    with pytest.raises(UnavailableError, match="closed"):
        writer.enqueue(DEV, "ann", "data.read", "pred_1")
    assert verify(log, DEV).sound


def test_closing_writes_what_was_accepted(log: AuditLog) -> None:
    writer = AuditWriter(log)
    for number in range(500):
        writer.enqueue(DEV, "ann", "data.read", f"pred_{number}")
    writer.close()
    assert written(log) == 500


def test_threads_and_direct_appends_share_one_log(log: AuditLog) -> None:
    writer, other = AuditWriter(log), AuditWriter(log)

    def act(number: int) -> None:
        (writer if number % 2 else other).record(DEV, f"user{number % 5}", "data.read", f"pred_{number}")
        if number % 10 == 0:
            log.append(DEV, "ann", "release.activate", f"rel_{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(200)))
    writer.close()
    other.close()
    found = verify(log, DEV)
    assert (found.sound, found.entries) == (True, 220)


def test_a_full_queue_waits_and_then_refuses_and_loses_nothing(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_writer, "WAIT_SECONDS", 0.05)
    writer = AuditWriter(log, most_waiting=10)
    accepted, held, let_go = 0, threading.Event(), threading.Event()

    def hold() -> None:
        with log.database.transaction():
            held.set()
            let_go.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    for _ in range(10):
        accepted = writer.enqueue(DEV, "ann", "data.read", "pred_1")
    with pytest.raises(OverloadedError, match="wait for the disk"):
        writer.enqueue(DEV, "ann", "data.read", "pred_1")
    with pytest.raises(UnavailableError, match="not written"):
        writer.flush(seconds=0.05)
    let_go.set()
    holder.join(20)
    writer.flush()
    assert written(log) == accepted
    monkeypatch.setattr(audit_writer, "WAIT_SECONDS", 20.0)
    for _ in range(200):  # twenty times what the queue holds: each waits for room
        writer.enqueue(DEV, "ann", "data.read", "pred_1")
    writer.close()
    assert written(log) == accepted + 200


def test_a_group_that_cannot_be_written_is_kept_until_it_can(log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    failures, failed = [True, True], threading.Event()
    real = log.append_all

    def failing(acts: object, *, within: object) -> object:
        made = real(acts, within=within)  # type: ignore[arg-type]
        if failures:
            failures.pop()
            failed.set()
            raise CorruptionError("The disk is away.")
        return made

    log.append_all = failing  # type: ignore[method-assign, assignment]
    writer = AuditWriter(log)
    writer.enqueue(DEV, "ann", "data.read", "pred_1")
    assert failed.wait(20)
    writer.enqueue(DEV, "ann", "data.read", "pred_2")
    writer.close()
    assert [entry.subject for entry in log.query(DEV)] == ["pred_2", "pred_1"]
    assert "Audit records wait for the catalog" in caplog.text


def test_what_could_not_be_written_before_the_end_is_told(log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    log.append(DEV, "ann", "a", "s")
    writer = AuditWriter(AuditLog(log.database, b"x" * 32))  # another server's secret: the head does not hold
    writer.enqueue(DEV, "ann", "data.read", "pred_1")
    writer.close(seconds=20)
    assert "1 audit records could not be written before the end." in caplog.text
    assert written(log) == 1


def test_a_record_that_cannot_be_is_refused_at_once(log: AuditLog) -> None:
    writer = AuditWriter(log)
    with pytest.raises(InvalidInputError):
        writer.enqueue(DEV, "", "data.read", "pred_1")
    writer.flush()
    writer.close()
