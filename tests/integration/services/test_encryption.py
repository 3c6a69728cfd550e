"""Encryption of a whole project: into it, out of it, and through every rotation, with what was cut off finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.catalogs import KINDS, catalog_url, drop, postgres, stored_bytes
from tests.chaos.harness.chaos_project import SHOPS, STREAM, write_project

from antiphon.app.wiring import request_batches
from antiphon.batch.request_batches import BatchOrder
from antiphon.catalog import sealed_columns
from antiphon.catalog.batch.batches import Batches, LineError
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.audit.verification import verify
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.protection import protect
from antiphon.governance.identity.principal import Principal
from antiphon.operations.processes import ProcessRecord, started_ticks, write_record
from antiphon.services.apply.apply import apply
from antiphon.services.batches import file_contents, file_store
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.encryption import Encryption, open_encryption
from antiphon.services.governance.encryption_setup import initialize, migrate, require_provider_ready
from antiphon.services.project.store import Store
from antiphon.training import examples
from antiphon.training.folder_seal import folder_seal

PASSPHRASE = {"ANTIPHON_PASSPHRASE": "four random words here"}
WORD = b"PLANTEDWORD"


on_both_catalogs = pytest.mark.parametrize("root", KINDS, indirect=True)


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project, whose catalog is a file unless a test asks for a server."""
    monkeypatch.setattr(keyring, "N", 2**10)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", PASSPHRASE["ANTIPHON_PASSPHRASE"])
    root = write_project(tmp_path / "project", "simulated").root
    if getattr(request, "param", "sqlite") == "sqlite":
        yield root
        return
    url, server = catalog_url(tmp_path, "postgresql"), postgres()
    monkeypatch.setenv("ANTIPHON_CATALOG__URL", server.url.rpartition("/")[0] + "/" + url.rpartition("/")[2])
    monkeypatch.setenv("ANTIPHON_CATALOG__PASSWORD_VARIABLE", "DESK_DATABASE")
    monkeypatch.setenv("DESK_DATABASE", server.password)
    yield root
    drop(Database.open(url))


def set_mode(root: Path, mode: str) -> None:
    settings = root / "antiphon.toml"
    text = settings.read_text().partition("\n[encryption]")[0]
    settings.write_text(f'{text}\n[encryption]\nmode = "{mode}"\nkeyring = "../ring.json"\n')


def opened(root: Path) -> Store:
    store = Store.open(root)
    protect(store.database, store.settings.encryption, store.scope, store.paths.root)
    return store


def fill(root: Path) -> None:
    """Definitions, events, a publication, streamed values, blobs and training examples, with a word in each."""
    store = opened(root)
    apply(store, principal="test")
    platform = FeaturePlatform(store)
    now = datetime.now(UTC) - timedelta(hours=1)
    moment = now.isoformat()
    store.events.append(
        store.scope,
        STREAM,
        [
            Event(f"{WORD.decode()}{shop}", now, now, {
                "order_id": shop, "shop": f"{WORD.decode()}{shop}", "amount": 3, "ordered": moment, "known": moment})
            for shop in SHOPS
        ],
    )  # fmt: skip
    made = []
    for view in platform.views().values():
        wanted = Materialization(store.scope, view, datetime.now(UTC))
        made.append((materialize(wanted, lake=platform.lake, log=store.events, clock=store.database.clock), view))
    platform.publisher.publish(made, reason="test", principal="test")
    platform.consume(100)
    store.blobs.put(store.scope, WORD * 10)
    order_batch(store)
    store.audit.append(store.scope, "test", "answer", "pred_1", originator=WORD.decode())
    store.evaluations.keep_answer(store.scope, "eval_1", "q", WORD.decode())
    folder = store.paths.directory / "training" / "run_1"
    folder.mkdir(parents=True)
    learned = [examples.Example("e", WORD.decode(), (examples.Part(" yes", 1.0),))]
    examples.write(folder / "examples.jsonl", learned, folder_seal(folder, store.database.codec, store.scope))
    platform.close()
    store.close()


def order_batch(store: Store) -> None:
    with closing(file_contents(store)) as contents:
        files = file_store(store, contents)
        upload = files.begin(store.scope, "test")
        upload.write(WORD * 20_000)
        file = upload.keep("batch", f"{WORD.decode()}.jsonl").id
        order = BatchOrder(file, "/v1/completions", "24h", {"night": WORD.decode()})
        batch = request_batches(store, files).create(store.scope, Principal("test", store.scope.tenant, "admin"), order)
    error = LineError("empty_file", WORD.decode())
    batches = Batches(store.database)
    batches.fail(store.scope, batch.id, batches.take_over(store.scope, batch.id), [error])


def batch_as_it_reads(store: Store) -> tuple[object, ...]:
    with closing(file_contents(store)) as contents:
        files = file_store(store, contents)
        (file,) = files.records.list(store.scope, after=None, limit=9, order="asc", purpose=None)
        with files.open(file) as stream:
            content = stream.read()
    (batch,) = Batches(store.database).list(store.scope)
    return file, content, batch


def readable(root: Path) -> tuple[object, ...]:
    """Everything that was filled in, as it is read."""
    store = opened(root)
    platform = FeaturePlatform(store)
    reader = platform.reader(store.scope)
    views = {view.name: view.definition_version for view in platform.views().values()}
    as_of = datetime.now(UTC)
    values = [
        {
            name: value.value
            for name, value in reader.read(views, {"shop": f"{WORD.decode()}{shop}"}, as_of).values.items()
        }
        for shop in SHOPS
    ]
    events = [each.event for each in store.events.read(store.scope, STREAM, 0, 100)]
    folder = store.paths.directory / "training" / "run_1"
    seal = folder_seal(folder, store.database.codec, store.scope)
    sha256 = examples.content_sha256(folder / "examples.jsonl", seal)
    asked = store.audit.query(store.scope, AuditFilter(who=WORD.decode()))
    assert verify(store.audit, store.scope).sound
    releases = [release.content_hash for release in store.releases.list(store.scope)]
    answers = store.evaluations.answers(store.scope, "eval_1")
    found = (values, events, sha256, releases, asked, answers, batch_as_it_reads(store))
    platform.close()
    store.close()
    return found


def shows(root: Path) -> list[str]:
    files = (root / ".antiphon").rglob("*")
    found = [str(file) for file in files if file.is_file() and WORD in file.read_bytes()]
    with closing(Store.unprotected(root)) as store:
        if not isinstance(store.database.backend, SqliteFile) and WORD in stored_bytes(store.database):
            found.append("the catalog's server")
    return found


@pytest.fixture
def encrypted(root: Path) -> Path:
    set_mode(root, "encrypted")
    initialize(root)
    fill(root)
    return root


@on_both_catalogs
def test_into_encryption_and_out_of_it_everything_reads_the_same(root: Path) -> None:
    set_mode(root, "plaintext")
    fill(root)
    before, clear = readable(root), shows(root)
    assert len(clear) >= 2
    set_mode(root, "encrypted")
    keyring.create(root.parent / "ring.json", PASSPHRASE["ANTIPHON_PASSPHRASE"])
    with pytest.raises(SetupError, match="antiphon encryption enable"):
        opened(root)
    told: list[str] = []
    changed, problems = migrate(root, "encrypted", lambda store, _: told.append(store))
    assert (changed > 20, problems) == (True, ())
    assert {"events.payload", "blobs.payload"} <= set(told)
    assert readable(root) == before
    assert shows(root) == []
    with open_encryption(root) as encryption:
        checked = encryption.check()
        assert set(checked.by_key) == {key.id for key in encryption.status().keys if key.purpose == "payload"}
        assert checked.problems == ()
    assert migrate(root, "encrypted") == (0, ())

    set_mode(root, "plaintext")
    with pytest.raises(SetupError, match="antiphon encryption disable"):
        opened(root)
    migrate(root, "plaintext")
    assert readable(root) == before
    assert shows(root) == clear


def test_a_migration_that_is_cut_off_is_finished_and_nothing_starts_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mode(root, "plaintext")
    fill(root)
    before = readable(root)
    set_mode(root, "encrypted")
    keyring.create(root.parent / "ring.json", PASSPHRASE["ANTIPHON_PASSPHRASE"])
    # Cut off after ever more steps, until it comes through.
    for steps in range(1, 200, 9):
        left = [steps]

        def cut(store: str, done: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt(store)

        try:
            migrate(root, "encrypted", cut)
            break
        except KeyboardInterrupt:
            with pytest.raises(SetupError, match="half-way"):
                opened(root)
    else:
        raise AssertionError("It never came through.")
    assert readable(root) == before
    assert shows(root) == []


@on_both_catalogs
def test_every_key_can_be_replaced_and_old_ones_are_needed_no_more(encrypted: Path) -> None:
    before = readable(encrypted)
    with open_encryption(encrypted) as encryption:
        old = {key.id for key in encryption.status().keys if key.purpose == "payload"}
        old_wrapping = encryption.status().wrapping_key
        made = encryption.rotate()
        assert old.isdisjoint(made)
        assert set(encryption.check().by_key) == old
        rewrapped = encryption.rewrap(new_wrapping_key=True, reencrypt=True)
        assert rewrapped.problems == ()
        assert rewrapped.payloads > 20
        status = encryption.status()
        assert {key.wrapping_key for key in status.keys} == {status.wrapping_key}
        assert status.wrapping_key != old_wrapping
        # All that is under an old key is the project's memory of what was done.
        assert set(encryption.check().by_key) == set(made)
        assert encryption.rewrap(reencrypt=True).payloads == 0
    assert readable(encrypted) == before
    assert shows(encrypted) == []
    assert old_wrapping not in (encrypted.parent / "ring.json").read_text()


def test_a_file_that_is_damaged_is_listed_and_the_others_are_not(encrypted: Path) -> None:
    with open_encryption(encrypted) as encryption:
        lake = sorted((encrypted / ".antiphon" / "lake").rglob("*.parquet"))
        content = bytearray(lake[0].read_bytes())
        content[10] ^= 1
        lake[0].write_bytes(content)
        checked = encryption.check()
        assert [problem.store for problem in checked.problems] == ["lake"]
        assert sum(checked.by_key.values()) >= 20
        assert [problem.store.partition(" ")[0] for problem in encryption.rewrap(reencrypt=True).problems] in (
            [],
            ["lake"],
        )


def test_streamed_events_of_the_overlay_are_opened_too(encrypted: Path) -> None:
    with open_encryption(encrypted) as encryption:
        told: dict[str, int] = {}
        whole = encryption.check(lambda store, done: told.update({store: done}))
        assert "overlay default/dev" in told
        (overlay,) = (encrypted / ".antiphon" / "online").rglob("overlay.mdb")
        import lmdb

        with lmdb.open(str(overlay), subdir=False, max_dbs=0) as opened_, opened_.begin(write=True) as writing:
            cursor = writing.cursor()
            assert cursor.set_range(b"e")
            key, value = bytes(cursor.key()), bytes(cursor.value())
            writing.put(key, value[:-1] + bytes([value[-1] ^ 1]))
        checked = encryption.check()
    assert [(each.store, each.subject) for each in checked.problems] == [("overlay", "1 events")]
    assert checked.by_key == whole.by_key


def test_a_running_project_is_not_migrated(root: Path) -> None:
    set_mode(root, "plaintext")
    fill(root)
    set_mode(root, "encrypted")
    keyring.create(root.parent / "ring.json", PASSPHRASE["ANTIPHON_PASSPHRASE"])
    run = root / ".antiphon" / "run"
    run.mkdir(exist_ok=True)
    write_record(run, ProcessRecord("gateway", os.getpid(), started_ticks(os.getpid()) or 0, datetime.now(UTC)))
    with pytest.raises(ConflictError, match="The project runs: gateway"):
        migrate(root, "encrypted")


def test_what_is_asked_of_a_project_in_plaintext_is_said(root: Path) -> None:
    set_mode(root, "plaintext")
    with open_encryption(root) as encryption:
        assert encryption.status().warning is not None
        with pytest.raises(InvalidInputError, match="in plaintext"):
            encryption.rotate()
        with pytest.raises(InvalidInputError, match="in plaintext"):
            encryption.rewrap()
    with pytest.raises(InvalidInputError, match="in plaintext"):
        initialize(root)
    with pytest.raises(InvalidInputError, match="other mode"):
        migrate(root, "encrypted")
    assert "lie readable on the disk" in require_provider_ready(root)


def test_without_its_passphrase_or_keyring_a_project_stays_closed(
    encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConflictError):
        initialize(encrypted)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "some other passphrase")
    with pytest.raises(SetupError, match=r"does not open the keyring's key kek_"):
        opened(encrypted)
    monkeypatch.delenv("ANTIPHON_PASSPHRASE")
    with pytest.raises(SetupError, match="ANTIPHON_PASSPHRASE is not set"):
        opened(encrypted)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", PASSPHRASE["ANTIPHON_PASSPHRASE"])
    ring = encrypted.parent / "ring.json"
    kept = ring.read_bytes()
    ring.unlink()
    with pytest.raises(SetupError, match="cannot be read"):
        opened(encrypted)
    keyring.create(ring, PASSPHRASE["ANTIPHON_PASSPHRASE"])
    with pytest.raises(SetupError, match=r"wrapped by kek_\w+, which is not here"):
        opened(encrypted)
    ring.write_bytes(kept)
    assert len(readable(encrypted)) == 7


def test_the_registry_covers_what_the_project_wrote(encrypted: Path) -> None:
    store = opened(encrypted)
    found = {
        column.name: sum(sealed_columns.check(store.database, column).by_key.values())
        for column in sealed_columns.SEALED_COLUMNS
    }
    store.close()
    known = (
        "audit_entries.originator_sealed",
        "events.payload",
        "snapshots.document",
        "releases.bundle",
        "blobs.payload",
    )
    assert all(found[name] > 0 for name in known)


def test_the_encryption_of_an_opened_store_is_used(encrypted: Path) -> None:
    store = opened(encrypted)
    found = protect(store.database, store.settings.encryption, store.scope, store.paths.root)
    assert Encryption(store, found).status().mode == "encrypted"
    store.close()
