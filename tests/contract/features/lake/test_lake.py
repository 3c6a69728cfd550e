"""The lake: what every one must do, in plaintext and encrypted."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.servers import S3Process
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.batch.files import FileLimits, FileStore
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import Files
from antiphon.catalog.database import Database
from antiphon.core.clock import ClockAgreement
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.encryption.sealing import AesGcmCodec

HERE, OTHER = Scope("one", "dev"), Scope("two", "dev")
SUFFIX = ".parquet"
_prefixes = itertools.count()

Lake = Any
"""One of the lakes under test."""


@pytest.fixture(params=["local plain", "local sealed", "s3 plain", "s3 sealed"])
def kind(request: pytest.FixtureRequest) -> list[str]:
    """Where it lies, and whether files are encrypted."""
    return str(request.param).split()


@pytest.fixture
def codec(kind: list[str]) -> Codec:
    return AesGcmCodec(Keys()) if kind[1] == "sealed" else PlainCodec()


@pytest.fixture(scope="module")
def started() -> Iterator[list[S3Process]]:
    """Holds the server once a test has needed it."""
    held: list[S3Process] = []
    yield held
    for process in held:
        process.remove()


@pytest.fixture
def lake(kind: list[str], codec: Codec, tmp_path: Path, started: list[S3Process]) -> Iterator[Lake]:
    if kind[0] == "local":
        yield LocalLake(tmp_path / "lake", codec)
        return
    if not started:
        started.append(S3Process())
        started[0].start()
        started[0].make_bucket()
    server = started[0]
    made = S3Lake(
        S3Place(server.bucket, f"p{next(_prefixes)}", server.endpoint),
        scratch=tmp_path / "scratch",
        access_key=server.access_key,
        secret_key=server.secret_key,
        codec=codec,
    )
    yield made
    made.close()


def put(lake: Lake, content: bytes, scope: Scope = HERE) -> str:
    with lake.writing(scope, SUFFIX) as draft:
        draft.write(content[:100])
        draft.write(content[100:])
    assert draft.sha256 == hashlib.sha256(content).hexdigest()
    assert draft.path == f"{scope.tenant}/{scope.environment}/{draft.sha256[:2]}/{draft.sha256}{SUFFIX}"
    assert draft.size >= len(content)
    return str(draft.path)


def content(lake: Lake, path: str) -> bytes:
    with lake.open(path) as stream:
        return bytes(stream.read())


@pytest.mark.parametrize("size", [0, 1, 100_000, 12_000_000])
def test_what_was_written_is_read(lake: Lake, size: int) -> None:
    written = os.urandom(size)
    path = put(lake, written)
    assert content(lake, path) == written
    lake.verify(path, hashlib.sha256(written).hexdigest())
    with lake.open(path) as stream:
        stream.seek(size // 2)
        assert stream.read(10) == written[size // 2 : size // 2 + 10]
        stream.seek(-min(size, 7), 2)
        assert stream.read() == written[size - min(size, 7) :]


def test_erasing_a_tenant_takes_every_file_of_it_and_none_of_another(lake: Lake) -> None:
    other = Scope("gone", HERE.environment)
    kept = put(lake, b"kept")
    for environment in (HERE.environment, "prod"):
        put(lake, b"gone", Scope(other.tenant, environment))
    assert lake.erase(other.tenant) == 2
    assert lake.scopes() == [HERE]
    assert content(lake, kept) == b"kept"
    assert lake.erase(other.tenant) == 0, "once more changes nothing"


def test_the_same_content_is_one_file(lake: Lake) -> None:
    first, second = put(lake, b"the same"), put(lake, b"the same")
    assert first == second
    assert list(lake.files(HERE)) == [first]
    assert content(lake, first) == b"the same"


def test_parquet_is_written_and_read_in_place(lake: Lake) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"n": list(range(100_000)), "text": [f"value {n}" for n in range(100_000)]})
    with lake.writing(HERE, SUFFIX) as draft:
        pq.write_table(table, draft, row_group_size=10_000)
    with lake.open(draft.path) as stream:
        file = pq.ParquetFile(stream)
        assert file.read_row_group(7).column("n")[0].as_py() == 70_000
        assert file.read().equals(table)


def test_a_block_that_raises_leaves_nothing(lake: Lake) -> None:
    def half() -> None:
        with lake.writing(HERE, SUFFIX) as draft:
            draft.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert list(lake.files(HERE)) == []
    assert list(lake.scratch().parent.glob(f"*{SUFFIX}")) == []


def test_a_file_that_is_not_there_is_corrupt(lake: Lake) -> None:
    absent = f"one/dev/ab/{'ab' * 32}{SUFFIX}"
    for asking in (lake.open, lake.key_of, lambda path: lake.verify(path, "")):
        with pytest.raises(CorruptionError, match="has no file"):
            asking(absent)
    put(lake, b"something else")
    with pytest.raises(CorruptionError, match="has no file"):
        lake.open(absent)


def test_scopes_do_not_meet(lake: Lake) -> None:
    assert lake.scopes() == []
    here, there = put(lake, b"x"), put(lake, b"x", OTHER)
    assert (list(lake.files(HERE)), list(lake.files(OTHER))) == ([here], [there])
    assert lake.scopes() == [HERE, OTHER]
    assert lake.collect(OTHER, (), time.time() + 60) == [there]
    assert content(lake, here) == b"x"
    assert list(lake.files(OTHER)) == []


def test_collecting_spares_what_is_kept_and_what_is_young(lake: Lake) -> None:
    paths = [put(lake, bytes([n]) * 10) for n in range(4)]
    assert lake.collect(HERE, paths, time.time() + 60) == []
    assert lake.collect(HERE, (), time.time() - 60) == []
    assert sorted(lake.files(HERE)) == sorted(paths)
    assert lake.collect(HERE, paths[:2], time.time() + 60) == sorted(paths[2:])
    assert sorted(lake.files(HERE)) == sorted(paths[:2])
    assert lake.collect(HERE, paths[:2], time.time() + 60) == []


def test_one_file_is_removed_and_no_other(lake: Lake) -> None:
    one, other = put(lake, b"one"), put(lake, b"other")
    lake.remove(one)
    lake.remove(one)
    assert list(lake.files(HERE)) == [other]
    with pytest.raises(CorruptionError):
        lake.open(one)


def test_files_of_the_api_lie_in_any_of_them(lake: Lake, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    database.migrate()
    limits = FileLimits(10**7, 10**7, timedelta(days=1))
    audit = AuditLog(database, b"s" * 32)
    clock = database.clock
    store = FileStore(Files(database), Batches(database), lake, database, audit, clock, limits, ClockAgreement(clock))
    content = os.urandom(300_000)
    for _ in range(2):
        upload = store.begin(HERE, "ada")
        for start in range(0, len(content), 100_000):
            upload.write(content[start : start + 100_000])
        file = upload.keep("batch", "in.jsonl")
    upload = store.begin(HERE, "ada")
    upload.write(content)
    upload.abandon()
    assert len(list(lake.files(HERE))) == 2, "two files with one content are two"
    with store.open(file) as stream:
        stream.seek(150_000)
        assert stream.read(100) == content[150_000:150_100]
    store.delete(HERE, file.id, "ada")
    assert len(list(lake.files(HERE))) == 1
    with pytest.raises(CorruptionError, match=file.id):
        store.open(file)
    database.close()


def test_what_a_killed_writer_left_in_scratch_is_collected(lake: Lake) -> None:
    folder = lake.scratch()
    (folder / "spill").write_bytes(b"x")
    (folder.parent / f"123-dead{SUFFIX}").write_bytes(b"x")
    lake.collect(HERE, (), time.time() - 60)
    assert folder.exists()
    lake.collect(HERE, (), time.time() + 60)
    assert list(folder.parent.iterdir()) == []


def test_sealing_anew_changes_no_content(lake: Lake, codec: Codec) -> None:
    written = os.urandom(200_000)
    path = put(lake, written)
    assert lake.key_of(path) == codec.current_key(HERE)
    with lake.open(path) as held:
        if isinstance(codec, AesGcmCodec):
            codec._keys.current = "k2"
        lake.reseal(path)
        assert lake.key_of(path) == codec.current_key(HERE)
        assert content(lake, path) == written
        assert held.read() == written, "who has the old one open goes on"
    assert list(lake.files(HERE)) == [path]


def test_two_that_write_the_same_at_once_agree(lake: Lake) -> None:
    written = os.urandom(500_000)
    barrier = threading.Barrier(3)
    paths: list[str] = []

    def write() -> None:
        barrier.wait(timeout=20)
        paths.append(put(lake, written))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert content(lake, paths[0]) == written


def test_it_tells_whether_a_file_is_there(lake: Lake) -> None:
    with lake.writing(HERE, SUFFIX) as draft:
        draft.write(b"content")
    assert lake.has(draft.path)
    lake.remove(draft.path)
    assert not lake.has(draft.path)
