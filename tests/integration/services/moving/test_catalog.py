"""A catalog moves from its file to PostgreSQL and back: the same rows, and nobody goes on with what was left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.catalogs import catalog_url, drop
from tests.unit.catalog.examples import DEV, NOON, answer, manifest, open_database, receipt

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.serving.answers import Answers
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    ProjectMovedError,
    SetupError,
)
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.services.moving.catalog import CatalogMove, MovedTable, Tell, digests, end_move
from antiphon.services.moving.marks import read_marks, require_present, set_marks

SECRET = bytes(range(32))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "file").mkdir()
    database = open_database(tmp_path / "file")
    receipts, log = Receipts(database), AuditLog(database, SECRET)
    with database.transaction() as connection:
        for number in range(2_500):
            receipts.add(receipt(f"pred_{number:05}"), [b"text %d" % (number % 7)], within=connection)
    for number in range(0, 2_500, 100):
        log.append(DEV, "ann", "release.activate", f"rel_{number}", {"number": number})
    Answers(database).put(answer("pred_00001"))
    EventLog(database).append(DEV, "orders", [Event(f"e{n}", NOON, NOON, {"n": n, "é": 0.1}) for n in range(50)])
    Snapshots(database).add(manifest("s1"))
    Publications(database).publish(DEV, {"congestion@v": "s1"}, expected=0, reason="r", principal="me")
    Runs(database).submit(DEV, "refresh", {"views": ["today"]}, key="noon")
    yield database
    database.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "server").mkdir()
    database = Database.open(catalog_url(tmp_path / "server", "postgresql"))
    yield database
    drop(database)


def move(source: Database, target: Database, tell: Tell = lambda *_: None) -> tuple[MovedTable, ...]:
    under_way = CatalogMove(source, target)
    under_way.copy(tell)
    return under_way.switch()


def hashes(moved: tuple[MovedTable, ...]) -> dict[str, tuple[int, str]]:
    return {one.table: (one.rows, one.sha256) for one in moved}


def test_there_and_back_every_row_is_the_same(source: Database, target: Database) -> None:
    steps: list[tuple[str, int, int]] = []
    there = move(source, target, lambda *step: steps.append(step))
    assert hashes(there)["receipts"][0] == 2_500
    assert msgspec.json.decode(msgspec.json.encode(there), type=tuple[MovedTable, ...]) == there
    assert ("receipts", 2_500, 2_500) in steps
    require_present(target)
    with pytest.raises(SetupError, match="was moved to") as left:
        require_present(source)
    assert target.backend.place in str(left.value)
    assert len(Receipts(target).list(DEV, limit=500)) == 500
    assert verify(AuditLog(target, SECRET), DEV).sound
    EventLog(target).append(DEV, "orders", [Event("later", NOON, NOON, {})])
    back = move(target, source)
    assert EventLog(source).end(DEV, "orders") == 51
    assert verify(AuditLog(source, SECRET), DEV).sound
    require_present(source)
    changed = {name for name, found in hashes(back).items() if hashes(there)[name] != found}
    assert changed == {"events", "streams"}
    with pytest.raises(SetupError):
        require_present(target)
    again = move(source, target)
    assert hashes(again) == hashes(back)


def test_a_move_that_was_cut_off_goes_on(source: Database, target: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(table: str, done: int, total: int) -> None:
        if table == "receipts" and done >= 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(source, target, cut)
    require_present(source)
    with pytest.raises(SetupError, match="has not ended"):
        require_present(target)
    resumed = CatalogMove(source, target)
    resumed.copy()
    written = resumed.written
    assert {one.table: one.rows for one in resumed.switch()}["receipts"] == 2_500
    assert 1_500 <= written < 2_500 + 1_000, "what was there is not written again"
    require_present(target)


def test_the_project_may_go_on_between_a_move_that_was_cut_off_and_the_next(source: Database, target: Database) -> None:
    def cut(table: str, done: int, total: int) -> None:
        if table == "steps" or (table == "receipts" and done == total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(source, target, cut)
    Blobs(source).erase(DEV, Blobs(source).put(DEV, b"text 3"))  # A row that was copied changes.
    moved = move(source, target)
    assert hashes(moved)["receipts"][0] == 2_500
    with pytest.raises(NotFoundError, match="erased"):
        Blobs(target).get(DEV, hashlib.sha256(b"text 3").hexdigest())


def test_a_move_that_was_killed_before_its_last_row_is_ended_by_the_next(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Database.transaction

    def dies_at_the_end(database: Database) -> object:
        if database is target and read_marks(source):
            raise KeyboardInterrupt
        return whole(database)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "transaction", dies_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            move(source, target)
    for left in (source, target):  # The source is left, and one mark is still on the target.
        with pytest.raises(SetupError):
            require_present(left)
    for _ in range(2):
        end_move(source.backend.place, target)
        require_present(target)
    assert hashes(digests(target))["receipts"][0] == 2_500
    with pytest.raises(SetupError, match="was moved to"):
        move(source, Database.open(f"sqlite:///{source.path.parent}/third.db"))


def test_a_move_that_is_not_decided_changes_nothing_that_counts(source: Database, target: Database) -> None:
    log = AuditLog(source, SECRET)
    recorded = log.head(DEV).tree.size

    def refuses(connection: Connection) -> None:
        raise ConflictError("The freeze is over.")

    def change(connection: Connection, leaving: Connection) -> None:
        set_marks(connection, {"lake of it": "s3://lake"})
        log.append_all([log.act(DEV, "ops", "project.move", "pumps")], leaving, alike=connection)

    under_way = CatalogMove(source, target)
    under_way.copy()
    with pytest.raises(ConflictError):
        under_way.switch(change, decide=refuses)
    require_present(source)
    with pytest.raises(SetupError, match="has not ended"):
        require_present(target)
    assert hashes(move(source, target))["receipts"][0] == 2_500
    assert verify(AuditLog(target, SECRET), DEV).sound
    assert AuditLog(target, SECRET).head(DEV).tree.size == recorded, "what was not decided is on no record"


def test_a_process_that_had_a_catalog_open_writes_nothing_after_it_was_left(source: Database, target: Database) -> None:
    def opened(database: Database) -> Database:
        process = Database.open(database.backend.url)
        process.fence()
        Runs(process).submit(DEV, "refresh", {})
        return process

    def refuses(process: Database) -> None:
        with pytest.raises(ProjectMovedError):
            Runs(process).submit(DEV, "refresh", {})

    first = opened(source)
    move(source, target)
    refuses(first)
    second = opened(target)
    move(target, source)
    for process in (first, second):  # Also one that was away for the way back, too.
        refuses(process)
    for process in (first, second, opened(source)):
        process.close()


def test_a_difference_is_found_and_the_source_stays(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CatalogMove._copy

    def loses_one(move: CatalogMove, reading: Connection, table: sa.Table, tell: Tell) -> object:
        surplus = whole(move, reading, table, tell)
        if table is schema.receipts:
            target.write(sa.delete(schema.receipts).where(schema.receipts.c.prediction == "pred_00042"))
        return surplus

    with monkeypatch.context() as patched:
        patched.setattr(CatalogMove, "_copy", loses_one)
        with pytest.raises(CorruptionError, match="receipts differs: 2500 rows were read and 2499"):
            move(source, target)
    require_present(source)
    with pytest.raises(SetupError, match="has not ended"):
        require_present(target)


def test_what_must_not_be_moved_is_refused(source: Database, target: Database) -> None:
    with pytest.raises(InvalidInputError, match="there already"):
        move(source, source)
    leases = ProcessLeases(source, "dev")
    leases.acquire("worker/a", "one", 60)
    with pytest.raises(ConflictError, match="worker/a"):
        move(source, target)
    leases.release("worker/a", "one")
    target.migrate()
    Runs(target).submit(DEV, "refresh", {})
    with pytest.raises(ConflictError, match="holds a catalog already"):
        move(source, target)
    require_present(source)
