from __future__ import annotations

import asyncio
import functools
import itertools
import multiprocessing
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.catalogs import KINDS, catalog_url
from tests.unit.catalog.examples import DEV, NOON, manifest, open_database

from antiphon.catalog import postgres_server, schema
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    UnavailableError,
)

spawned = multiprocessing.get_context("spawn")


@pytest.fixture(params=KINDS, autouse=True)
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for both databases."""
    monkeypatch.setenv("ANTIPHON_TEST_CATALOG", request.param)


def url(folder: Path) -> str:
    return catalog_url(folder)


# ------------------------------------------------------------------ opening


def test_every_table_carries_its_scope() -> None:
    for table in schema.metadata.tables.values():
        assert [column.name for column in table.primary_key.columns][:2] == ["tenant", "environment"], table.name


@pytest.mark.parametrize(
    "wrong", ["nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://host", "mysql://host/name"]
)
def test_a_url_that_cannot_be_a_catalog_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInputError):
        Database.open(wrong)


def test_what_is_wrong_with_the_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        Database.open(f"sqlite:///{tmp_path}/absent/catalog.db")
    (tmp_path / "catalog.db").write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptionError, match="damaged"):
        Database.open(f"sqlite:///{tmp_path}/catalog.db")
    unmigrated = Database.open(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(SetupError, match="schema"):
        Publications(unmigrated).current(DEV)
    unmigrated.close()


# ------------------------------------------------------------------ transactions


def test_a_second_transaction_in_the_same_thread_is_refused_at_once(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    with database.transaction(), pytest.raises(AntiphonError, match="already open"), database.transaction():
        pass
    Blobs(database).put(DEV, b"and the lock is free again")
    database.close()


def test_a_reader_sees_one_state_while_a_writer_commits(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    log = EventLog(database)
    with database.read() as connection:
        before = log.end(DEV, "s", within=connection)
        log.append(DEV, "s", [Event("e", NOON, NOON, {})])
        assert log.end(DEV, "s", within=connection) == before == 0
    assert log.end(DEV, "s") == 1
    database.close()


def _publish(folder: str, name: str, attempts: int, go: object) -> None:
    database = Database.open(catalog_url(Path(folder)))
    publications = Publications(database)
    go.wait()  # type: ignore[attr-defined]
    won = 0
    while won < attempts:
        current = publications.current(DEV)
        number = current.number if current is not None else 0
        count = int(current.snapshots[f"{name}@v"][1:]) if current and f"{name}@v" in current.snapshots else 0
        try:
            publications.publish(DEV, {f"{name}@v": f"s{count + 1}"}, expected=number, reason="r", principal=name)
            won += 1
        except ConflictError:
            continue


def test_processes_that_race_to_publish_lose_no_publication(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    snapshots = Snapshots(database)
    for number in range(1, 21):
        snapshots.add(manifest(f"s{number}"))
    go = spawned.Event()
    processes = [spawned.Process(target=_publish, args=(str(tmp_path), name, 20, go)) for name in ("a", "b")]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    published = list(reversed(Publications(database).list(DEV, 100)))
    assert [p.number for p in published] == list(range(1, 41))
    assert published[-1].snapshots == {"a@v": "s20", "b@v": "s20"}
    for before, after in itertools.pairwise(published):
        # Each changes its own view only: nothing of the other's was overwritten.
        changed = {view for view, snapshot in after.snapshots.items() if before.snapshots.get(view) != snapshot}
        assert changed == {f"{after.principal}@v"}
    database.close()


def test_threads_that_append_share_the_offsets_without_holes(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    log = EventLog(database)

    def append(writer: int) -> None:
        for number in range(25):
            # Every event is sent by two writers, as after a redelivery.
            log.append(DEV, "s", [Event(f"{writer // 2}-{number}", NOON, NOON, {"writer": writer})])

    threads = [threading.Thread(target=append, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    read = log.read(DEV, "s", 0, 1000)
    assert [stored.offset for stored in read] == list(range(1, 51))
    assert len({stored.event.event_id for stored in read}) == 50
    database.close()


def test_a_writer_that_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.catalog.database.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("antiphon.catalog.sqlite_file.BUSY_SECONDS", 0.05)
    monkeypatch.setitem(postgres_server._OPTIONS, "lock_timeout", "50ms")
    first, second = open_database(tmp_path), Database.open(url(tmp_path))
    with first.transaction(), pytest.raises(UnavailableError, match="write lock"):
        Blobs(second).put(DEV, b"x")
    Blobs(second).put(DEV, b"x")
    first.close()
    second.close()


# ------------------------------------------------------------------ group commit


async def test_an_effect_is_on_disk_when_its_submission_returns(tmp_path: Path) -> None:
    database, other = open_database(tmp_path), Database.open(url(tmp_path))
    commit, blobs = GroupCommit(database), Blobs(database)
    digest = await commit.submit(lambda c: blobs.put(DEV, b"text", within=c))
    assert Blobs(other).get(DEV, digest) == b"text"
    commit.close()
    database.close()
    other.close()


async def test_one_failing_effect_fails_alone(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    commit, blobs = GroupCommit(database), Blobs(database)

    def put_and_fail(connection: sa.Connection) -> str:
        blobs.put(DEV, b"undone", within=connection)
        raise ZeroDivisionError

    with database.transaction():  # the writer has to wait, so that all of these are one group
        submitted = [
            asyncio.create_task(
                commit.submit(put_and_fail if n == 3 else lambda c, n=n: blobs.put(DEV, b"%d" % n, within=c))
            )
            for n in range(6)
        ]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*submitted, return_exceptions=True)
    assert [isinstance(outcome, ZeroDivisionError) for outcome in outcomes] == [n == 3 for n in range(6)]
    for outcome in outcomes:
        if isinstance(outcome, str):
            blobs.get(DEV, outcome)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 5
    commit.close()
    database.close()


async def test_what_a_commit_gathers_is_handed_over_once_without_what_was_undone(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    commit, blobs = GroupCommit(database), Blobs(database)
    handed: list[list[int]] = []

    def sink(items: Sequence[int], connection: sa.Connection) -> None:
        handed.append([*items])
        blobs.put(DEV, b"gathered %d" % len(handed), within=connection)

    def effect(number: int, connection: sa.Connection) -> None:
        database.gather(sink, number)
        if number == 3:
            raise ZeroDivisionError

    with database.transaction():  # the writer has to wait, so that all of these are one group
        submitted = [asyncio.create_task(commit.submit(functools.partial(effect, n))) for n in range(6)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*submitted, return_exceptions=True)
    assert [outcome is None for outcome in outcomes] == [n != 3 for n in range(6)]
    numbers = [number for items in handed for number in items]
    assert numbers == [0, 1, 2, 4, 5]
    assert len(handed) <= 2  # the first may have gone by itself
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == len(handed)
    with pytest.raises(AntiphonError, match="No write transaction"):
        database.gather(sink, 7)
    commit.close()
    database.close()


async def test_what_cannot_be_kept_with_a_commit_undoes_its_own_effect_alone(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    commit, blobs = GroupCommit(database), Blobs(database)

    def sink(items: Sequence[int], connection: sa.Connection) -> None:
        if 3 in items:
            raise CorruptionError("It is damaged.", where="here")

    def effect(number: int, connection: sa.Connection) -> None:
        blobs.put(DEV, b"%d" % number, within=connection)
        database.gather(sink, number)

    with database.transaction():
        submitted = [asyncio.create_task(commit.submit(functools.partial(effect, n))) for n in range(6)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*submitted, return_exceptions=True)
    assert [isinstance(outcome, CorruptionError) for outcome in outcomes] == [n == 3 for n in range(6)]
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 5
    commit.close()
    database.close()


async def test_a_failed_commit_is_told_to_everybody_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.catalog.database.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("antiphon.catalog.sqlite_file.BUSY_SECONDS", 0.05)
    monkeypatch.setitem(postgres_server._OPTIONS, "lock_timeout", "50ms")
    database, other = open_database(tmp_path), Database.open(url(tmp_path))
    commit, blobs = GroupCommit(database), Blobs(database)
    with other.transaction():
        outcomes = await asyncio.gather(
            *(commit.submit(lambda c, n=n: blobs.put(DEV, b"%d" % n, within=c)) for n in range(3)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 3
    await commit.submit(lambda c: blobs.put(DEV, b"after", within=c))
    commit.close()
    database.close()
    other.close()


async def test_a_callers_leaving_does_not_undo_its_effect(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    commit, blobs = GroupCommit(database), Blobs(database)
    with database.transaction():
        left = asyncio.create_task(commit.submit(lambda c: blobs.put(DEV, b"kept", within=c)))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    commit.close()
    digest = blobs.put(DEV, b"reference")
    assert digest
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 2
    database.close()


async def test_closing_commits_what_waits_and_refuses_more(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    commit, log = GroupCommit(database), EventLog(database)
    futures = [
        commit.enqueue(lambda c, n=n: log.append(DEV, "s", [Event(f"e{n}", NOON, NOON, {})], within=c))
        for n in range(600)
    ]
    commit.close()
    commit.close()
    assert [future.result(0) for future in futures] == list(range(1, 601))
    with pytest.raises(UnavailableError, match="closed"):
        commit.enqueue(lambda c: None)
    database.close()
