"""Keys in a real catalog: modes, keys learned from other processes, and keys that are lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, update
from tests.unit.catalog.examples import NOON, receipt

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ManualClock
from antiphon.core.codec import unpack
from antiphon.core.errors import ConflictError, CorruptionError, SetupError
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import EncryptionSettings
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.held_keys import LEASE_SECONDS
from antiphon.governance.encryption.protection import Protection, mode_of, protect, record_mode, recorded_mode

HERE, THERE = Scope("acme", "prod"), Scope("other", "prod")
PASSPHRASE = "four random words here"
SETTINGS = EncryptionSettings(mode="encrypted", keyring="ring.json", secret="S")


class Project:
    """A catalog and its keyring; :meth:`process` opens both as another process does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(NOON)
        self.opened: list[Database] = []
        keyring.create(folder / "ring.json", PASSPHRASE)

    def database(self) -> Database:
        database = Database.open(f"sqlite:///{self.folder}/catalog.db", clock=self.clock)
        database.migrate()
        self.opened.append(database)
        return database

    def process(self, passphrase: str = PASSPHRASE) -> tuple[Database, Protection]:
        database = self.database()
        return database, protect(database, SETTINGS, HERE, self.folder, {"S": passphrase})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(keyring, "N", 2**10)
    made = Project(tmp_path)
    yield made
    for database in made.opened:
        database.close()


def key_of(database: Database, blob: str, scope: Scope = HERE) -> str | None:
    with database.read() as connection:
        table = schema.blobs
        payload = (
            connection.execute(table.select().where(schema.owned(table, scope), table.c.hash == blob)).one().payload
        )
    return unpack(payload).key_id


def test_a_mode_is_needed_outside_of_development() -> None:
    unset = EncryptionSettings()
    assert mode_of(unset, "dev") == "plaintext"
    with pytest.raises(SetupError, match="mode` is not set"):
        mode_of(unset, "prod")
    assert mode_of(SETTINGS, "prod") == "encrypted"


def test_the_mode_is_recorded_at_the_first_start_and_the_other_one_refused(project: Project) -> None:
    database, found = project.process()
    assert found.mode == "encrypted"
    assert found.warning is None
    plain = msgspec.structs.replace(SETTINGS, mode="plaintext")
    with pytest.raises(SetupError, match="started as plaintext") as refused:
        protect(database, plain, HERE, project.folder)
    assert "antiphon encryption disable" in str(refused.value)
    record_mode(database, HERE, "encrypted", migrating=True)
    with pytest.raises(SetupError, match="half-way") as cut:
        project.process()
    assert "antiphon encryption enable" in str(cut.value)


def test_plaintext_is_said_loudly_and_does_not_become_encrypted_by_a_setting(project: Project) -> None:
    database = project.database()
    found = protect(database, msgspec.structs.replace(SETTINGS, mode="plaintext"), HERE, project.folder)
    assert found.warning is not None
    assert "ENCRYPTION IS OFF" in found.warning
    with pytest.raises(SetupError, match="antiphon encryption enable"):
        project.process()


def test_a_start_without_the_key_decides_nothing(project: Project) -> None:
    with pytest.raises(SetupError, match="does not open the keyring"):
        project.process("a wrong passphrase")
    assert recorded_mode(project.opened[0], HERE) is None
    assert project.process()[1].mode == "encrypted"


def test_another_process_reads_a_key_on_first_sight_and_seals_with_it_within_its_lease(project: Project) -> None:
    (writer, wrote), (reader, reads) = project.process(), project.process()
    first = Blobs(writer).put(HERE, b"before")
    assert Blobs(reader).get(HERE, first) == b"before"
    assert wrote.keys is not None
    assert wrote.held is not None
    assert reads.held is not None
    made = wrote.keys.rotate(HERE)
    wrote.held.forget()
    second = Blobs(writer).put(HERE, b"after")
    assert key_of(writer, second) == made.id
    assert Blobs(reader).get(HERE, second) == b"after"
    assert Blobs(reader).get(HERE, first) == b"before"
    assert key_of(reader, Blobs(reader).put(HERE, b"within the lease")) != made.id
    project.clock.advance(timedelta(seconds=LEASE_SECONDS))
    assert key_of(reader, Blobs(reader).put(HERE, b"past the lease")) == made.id
    assert reads.held.lookups <= 2


def test_unknown_keys_are_looked_up_at_a_bounded_rate(project: Project) -> None:
    database, found = project.process()
    blobs, held = Blobs(database), found.held
    assert held is not None
    blob = blobs.put(HERE, b"content")
    with database.transaction() as connection:
        connection.execute(delete(schema.data_keys).where(schema.data_keys.c.purpose == "payload"))
    other, others = project.process()
    for _ in range(100):
        with pytest.raises(
            CorruptionError, match=r"sealed with the data key key_\w+, which this catalog does not have"
        ):
            Blobs(other).get(HERE, blob)
    assert others.held is not None
    assert others.held.lookups == 1
    for number in range(1_000):
        with pytest.raises(CorruptionError):
            others.held.opening_key(HERE, f"key_{number}")
    assert others.held.lookups <= 64
    project.clock.advance(timedelta(seconds=2))
    with pytest.raises(CorruptionError):
        others.held.opening_key(HERE, "key_0")
    assert others.held.lookups <= 65
    # Whoever holds the key goes on.
    assert blobs.get(HERE, blob) == b"content"


def test_a_new_tenants_key_is_made_inside_the_transaction_that_needs_it(project: Project) -> None:
    database, found = project.process()
    with database.transaction() as connection:
        blob = Blobs(database).put(THERE, b"theirs", within=connection)
    assert Blobs(project.process()[0]).get(THERE, blob) == b"theirs"
    assert found.keys is not None
    assert [key.scope for key in found.keys.list() if key.purpose == "payload"] == [HERE, THERE]


async def test_a_key_that_is_rolled_back_seals_nothing_that_stays(project: Project) -> None:
    database, _ = project.process()
    commit, blobs = GroupCommit(database), Blobs(database)

    def fails(connection: object) -> None:
        blobs.put(THERE, b"gone", within=connection)  # type: ignore[arg-type]
        raise ConflictError("undone")

    try:
        with pytest.raises(ConflictError):
            await commit.submit(fails)
        blob = await commit.submit(lambda connection: blobs.put(THERE, b"stays", within=connection))
    finally:
        commit.close()

    def undone() -> None:
        with database.transaction() as connection:
            blobs.put(Scope("third", "prod"), b"gone", within=connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        undone()
    third = blobs.put(Scope("third", "prod"), b"stays")
    other = Blobs(project.process()[0])
    assert (other.get(THERE, blob), other.get(Scope("third", "prod"), third)) == (b"stays", b"stays")


def test_threads_that_need_a_new_tenants_key_at_once_agree_on_one(project: Project) -> None:
    database, found = project.process()
    blobs: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: blobs.append(Blobs(database).put(THERE, b"%d" % n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys is not None
    assert sum(key.scope == THERE for key in found.keys.list()) == 1
    assert sorted(Blobs(project.process()[0]).get(THERE, blob) for blob in blobs) == [b"%d" % n for n in range(8)]


def test_a_data_key_of_another_tenant_does_not_unwrap(project: Project) -> None:
    database, found = project.process()
    Blobs(database).put(THERE, b"theirs")
    assert found.keys is not None
    mine = found.keys.active(HERE)
    assert mine is not None
    with database.transaction() as connection:
        connection.execute(
            update(schema.data_keys)
            .where(schema.data_keys.c.tenant == "other", schema.data_keys.c.purpose == "payload")
            .values(wrapped=mine.wrapped.content)
        )
    other, _ = project.process()
    with pytest.raises(CorruptionError, match="A data key does not open"):
        Blobs(other).put(THERE, b"more")


def test_one_corrupt_payload_does_not_take_the_others_with_it(project: Project) -> None:
    database, _ = project.process()
    receipts = Receipts(database)
    for name in ("p1", "p2", "p3"):
        receipts.add(receipt(name, scope=HERE))
    with database.transaction() as connection:
        connection.execute(
            update(schema.receipts)
            .where(schema.receipts.c.prediction == "p2")
            .values(payload=b"\x94\xa9receipt/1\xa6aesgcm\xa1k\xc4\x00")
        )
    with pytest.raises(CorruptionError):
        receipts.get(HERE, "p2")
    assert {receipts.get(HERE, name).prediction for name in ("p1", "p3")} == {"p1", "p3"}
