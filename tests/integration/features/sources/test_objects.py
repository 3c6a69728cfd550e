"""Objects of a real S3-compatible store as sources: what is fetched, what is taken over, and every way to go wrong."""

from __future__ import annotations

import glob
import gzip
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
from tests.harness.ports import free_port
from tests.integration.features.desk import ORIGIN, flight, write
from tests.integration.features.monitoring.test_skew import measured
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, minutes
from tests.property.features.sources.test_loader_fuzz import SIZE, mutated
from tests.servers import S3Process
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Documents, Quality, Source, col, count, expect, feature_view, last, mean
from antiphon.catalog.features.events import Event
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.codec import Codec
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.objects import ObjectStore
from antiphon.definitions.quality import quality_mistakes
from antiphon.features.documents.folder import raw_documents
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.offline.lineage import trace
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.sources.opened import opened, version_of
from antiphon.features.sources.stored_objects import matching_keys
from antiphon.governance.encryption.sealing import AesGcmCodec

ACCESS, SECRET = "OBJECTS_TEST_ACCESS", "OBJECTS_TEST_SECRET"
HEADER = b"id,origin,dest,scheduled,departed,dep_delay\n"


class Door:
    """Stands before the store: counts what is asked for, does something first, and may close in the middle."""

    def __init__(self, port: int) -> None:
        self.fetched: list[str] = []
        self.first: Callable[[str], None] = lambda key: None
        self.cut: int | None = None
        self.lying = False
        door = self

        class Passing(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                key = unquote(self.path.partition("?")[0])
                listing = "list-type" in self.path
                if self.command == "GET" and not listing:
                    door.fetched.append(key)
                    door.first(key)
                there = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    there.putheader(name, value)
                there.endheaders()
                answer = there.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                if door.lying:
                    length = str(door.cut)
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                shut = door.cut is not None and self.command == "GET" and not listing
                self.wfile.write(content[: door.cut] if shut else content)
                self.close_connection = shut
                there.close()

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def process() -> Iterator[S3Process]:
    with S3Process() as started:
        started.make_bucket()
        yield started


class Prefix:
    """Objects below one prefix of the store, and how a source of them is declared."""

    def __init__(self, process: S3Process, folder: Path, endpoint: str) -> None:
        self.process = process
        self.client = process.client()
        self.folder = folder
        self.name = folder.name
        self.endpoint = endpoint

    def put(self, key: str, rows: list[dict[str, Any]] | bytes) -> None:
        if not isinstance(rows, bytes):
            write(self.folder / "made.parquet", rows)
            rows = (self.folder / "made.parquet").read_bytes()
        self.client.put_object(Bucket=self.process.bucket, Key=f"{self.name}/{key}", Body=rows)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.process.bucket, Key=f"{self.name}/{key}")

    def url(self, key: str) -> str:
        return f"s3://{self.process.bucket}/{self.name}/{key}"

    def source(self, pattern: str = "*.parquet", **changes: Any) -> Source:
        bucket = changes.pop("bucket", self.process.bucket)
        endpoint = changes.pop("endpoint", self.endpoint)
        options: dict[str, Any] = {
            "event_time": "scheduled", "available_at": "departed", "event_id": "id",
            "access_key_variable": ACCESS, "secret_key_variable": SECRET,
        }  # fmt: skip
        path = f"s3://{bucket}/{self.name}/{pattern}?endpoint={endpoint}"
        return Source.table("departures", path=path, **(options | changes))

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def door(process: S3Process) -> Iterator[Door]:
    made = Door(process.port)
    yield made
    made.close()


@pytest.fixture
def prefix(process: S3Process, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefix]:
    monkeypatch.setenv(ACCESS, process.access_key)
    monkeypatch.setenv(SECRET, process.secret_key)
    made = Prefix(process, tmp_path, door.endpoint)
    yield made
    made.close()


def view(source: Source, **options: Any) -> FeatureViewSpec:
    @feature_view(entity=ORIGIN, source=source, **options)
    class Delays:
        flights = count(window="28d")
        delay = mean(col.dep_delay, window="28d", scale="0.01")
        latest = last(col.dest, window="28d")

    return Delays.spec()


def flights(start: int, number: int = 24) -> list[dict[str, Any]]:
    return [
        flight(n, NOON - minutes(20 * n + 45), float(n % 7), "EWR" if n % 2 else "LGA")
        for n in range(start, start + number)
    ]


class Made:
    """A world whose snapshots are made one after the other."""

    def __init__(self, folder: Path, spec: FeatureViewSpec, codec: Codec | None = None) -> None:
        self.world = World(folder, spec, codec=codec)
        self.spec = spec
        self.previous: SnapshotManifest | None = None

    def snapshot(self, as_of: Any = NOON, *, whole: bool = False, **limits: Any) -> SnapshotManifest:
        wanted = Materialization(
            scope=self.world.scope, spec=self.spec, as_of=as_of, previous=self.previous, whole=whole
        )
        return materialize(
            wanted, lake=self.world.lake, log=self.world.log, clock=self.world.clock, limits=ComputeLimits(**limits)
        )


@pytest.fixture
def making(tmp_path: Path) -> Iterator[Callable[..., Made]]:
    opened: list[Made] = []

    def make(spec: FeatureViewSpec, codec: Codec | None = None) -> Made:
        opened.append(Made(tmp_path, spec, codec))
        return opened[-1]

    yield make
    for one in opened:
        one.world.close()


Making = Callable[..., Made]


@pytest.fixture
def sealing() -> Codec:
    return AesGcmCodec(Keys())


def test_only_what_came_is_fetched_and_the_snapshot_is_that_of_all(prefix: Prefix, door: Door, making: Making) -> None:
    prefix.put("part-1.parquet", flights(0))
    prefix.put("part-2.parquet", flights(24))
    prefix.put("other.csv", b"no,source\n1,2\n")
    made = making(view(prefix.source("part-*.parquet")))
    first = made.previous = made.snapshot()
    assert sorted(door.fetched) == [f"/{prefix.process.bucket}/{prefix.name}/part-{n}.parquet" for n in (1, 2)]
    assert [name for name, _ in first.read.files] == [prefix.url("part-1.parquet"), prefix.url("part-2.parquet")]
    assert first.source == f"2 object(s) {prefix.url('part-*.parquet')}"
    prefix.put("part-3.parquet", flights(48))
    door.fetched.clear()
    second = made.snapshot()
    assert door.fetched == [f"/{prefix.process.bucket}/{prefix.name}/part-3.parquet"]
    assert second.read.taken_over == first.id
    assert second.read.rows == 24
    assert second.cost is not None
    whole = made.snapshot(whole=True)
    assert (second.files, second.id, second.rows_in) == (whole.files, whole.id, 72)
    # What is fetched goes with the computation.
    assert not list((made.world.folder / "lake").rglob("objects"))


def test_with_nothing_new_no_more_than_one_object_is_fetched(prefix: Prefix, door: Door, making: Making) -> None:
    for part in range(3):
        prefix.put(f"part-{part}.parquet", flights(24 * part, 24 - part))
    made = making(view(prefix.source()))
    made.previous = made.snapshot()
    door.fetched.clear()
    again = made.snapshot()
    assert door.fetched == [f"/{prefix.process.bucket}/{prefix.name}/part-2.parquet"]
    assert again.read.taken_over == made.previous.id
    assert again.id == made.previous.id


def test_objects_that_changed_or_went_are_never_taken_over(prefix: Prefix, making: Making) -> None:
    """Steps in any order: what is taken over and what is fetched make the files that fetching all makes."""
    chance = Random(7)
    prefix.put("part-0.parquet", flights(0, 5))
    made = making(view(prefix.source()))
    made.previous = made.snapshot()
    taken = 0
    for step in range(1, 7):
        what = chance.choice(["new", "new", "change", "go", "same"])
        key = f"part-{step if what == 'new' else chance.randrange(step)}.parquet"
        if what == "go":
            prefix.delete(key)
        elif what != "same":
            prefix.put(key, flights(chance.randrange(100), chance.randrange(1, 6)))
        prefix.put("part-9.parquet", flights(900, 2))
        as_of = NOON + timedelta(minutes=step)
        now, whole = made.snapshot(as_of), made.snapshot(as_of, whole=True)
        assert (now.files, now.id, now.source_hash) == (whole.files, whole.id, whole.source_hash), (what, now.read)
        taken += now.read.taken_over is not None
        made.previous = now
    assert 0 < taken < 6


def test_objects_with_other_columns_are_read_together(prefix: Prefix, making: Making) -> None:
    """A type or a column that only all of them settle: the others are fetched again."""
    prefix.put("day-1.csv", HEADER + b"f1,1,SFO,2013-04-10 10:00,2013-04-10 10:00,1\n")
    made = making(view(prefix.source("*.csv")))
    made.previous = made.snapshot()
    other_type = HEADER + b"f2,1.50,SFO,2013-04-10 11:00,2013-04-10 11:00,2\n"
    fewer_columns = b"id,origin,scheduled,departed\nf3,1,2013-04-10 11:30,2013-04-10 11:30\n"
    for number, content in enumerate((other_type, fewer_columns)):
        prefix.put(f"day-{number + 2}.csv", content)
        now, whole = made.snapshot(), made.snapshot(whole=True)
        assert now.read.whole == "its columns are of other types"
        assert (now.files, now.rows_in) == (whole.files, number + 2)
        made.previous = now


def test_an_object_rewritten_with_the_same_size_is_read_again(prefix: Prefix, making: Making) -> None:
    prefix.put("day.csv", HEADER + b"f1,EWR,SFO,2013-04-10,2013-04-10,1\n")
    made = making(view(prefix.source("*.csv")))
    made.previous = made.snapshot()
    prefix.put("day.csv", HEADER + b"f1,EWR,SFO,2013-04-10,2013-04-10,7\n")
    again = made.snapshot()
    assert again.read.whole == "1 of its files changed"
    assert again.logical_hash != made.previous.logical_hash


def test_one_that_changes_before_it_is_fetched_is_found_and_nothing_is_published(
    prefix: Prefix, door: Door, making: Making
) -> None:
    prefix.put("part-1.parquet", flights(0))
    world = making(view(prefix.source())).world
    world.publish(NOON)
    before = world.read(NOON, **EWR)

    def change(key: str) -> None:
        door.first = lambda key: None
        prefix.put("part-1.parquet", flights(1))

    def vanish(key: str) -> None:
        door.first = lambda key: None
        prefix.delete("part-1.parquet")

    for first in (change, vanish):
        door.first = first
        with pytest.raises(UnavailableError, match="changed while it was read") as found:
            world.publish(NOON + minutes(1))
        assert prefix.url("part-1.parquet") in str(found.value.next_step)
        assert world.read(NOON, **EWR) == before
    with pytest.raises(SetupError, match=r"no object \*\.parquet"):
        world.publish(NOON + minutes(1))
    assert world.read(NOON, **EWR) == before


@pytest.mark.parametrize(("after", "lying"), [(700, False), (700, True)])
def test_one_that_ends_too_early_is_not_read(
    prefix: Prefix, door: Door, making: Making, after: int, lying: bool
) -> None:
    prefix.put("part-1.parquet", flights(0))
    world = making(view(prefix.source())).world
    world.publish(NOON)
    before = world.read(NOON, **EWR)
    door.cut = after
    door.first = lambda key: setattr(door, "lying", lying)
    with pytest.raises(UnavailableError, match="ended after 700 of" if lying else "does not answer"):
        world.publish(NOON + minutes(1))
    door.first, door.lying = (lambda key: None), False
    assert world.read(NOON, **EWR) == before
    door.cut = None
    world.publish(NOON + minutes(1))


def test_a_store_that_is_away_or_refuses_is_told_and_the_previous_version_is_served(
    prefix: Prefix, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix.put("part-1.parquet", flights(0))
    spec = view(prefix.source())
    made = making(spec)
    made.world.publish(NOON)
    before = made.world.read(NOON, **EWR)

    def refused(match: str, kind: type[AntiphonError], **changes: Any) -> AntiphonError:
        made.world.specs[spec.name] = view(prefix.source(**changes))
        with pytest.raises(kind, match=match) as found:
            made.world.publish(NOON + minutes(1))
        assert found.value.where == "source departures"
        assert prefix.process.secret_key not in f"{found.value} {found.value.next_step}"
        made.world.specs[spec.name] = spec
        assert made.world.read(NOON, **EWR) == before
        return found.value

    refused("does not answer", UnavailableError, endpoint=f"http://127.0.0.1:{free_port()}")
    # Of one object its absence and that of its bucket are told alike.
    refused("no bucket 'nowhere'", SetupError, bucket="nowhere")
    refused("no object absent.csv", SetupError, pattern="absent.csv")
    monkeypatch.setenv(ACCESS, prefix.process.other_access_key)
    monkeypatch.setenv(SECRET, prefix.process.other_secret_key)
    error = refused("refuses access", SetupError)
    assert ACCESS in str(error.next_step)
    monkeypatch.setenv(SECRET, "wrong")
    refused("refuses access", SetupError)
    refused("refuses access", SetupError, pattern="part-1.parquet")
    monkeypatch.delenv(SECRET)
    refused(f"{SECRET} is not set", SetupError)


def test_objects_that_do_not_fit_the_memory_of_an_encrypted_project_are_refused(
    prefix: Prefix, making: Making, sealing: Codec
) -> None:
    prefix.put(
        "part-1.csv", b"id,origin,dest,scheduled,departed,dep_delay\n" + b"f,EWR,SFO,2013-04-10,2013-04-10,1\n" * 9
    )
    made = making(view(prefix.source("*.csv")), sealing)
    clear = made.snapshot()
    prefix.put("part-2.csv", b"x" * (3 * 2**20))
    with pytest.raises(UnavailableError, match="objects take 3 MiB, and 2 MiB of memory may be used"):
        made.snapshot(memory=2)
    prefix.delete("part-2.csv")
    assert made.snapshot().logical_hash == clear.logical_hash


def test_where_nothing_may_reach_a_disk_values_are_the_same(
    prefix: Prefix, making: Making, sealing: Codec, tmp_path: Path, door: Door
) -> None:
    for kind in ("parquet", "csv.gz"):
        (tmp_path / kind).mkdir()
    lines = [",".join(map(str, row.values())) for row in flights(0)]
    prefix.put("a.csv.gz", gzip.compress("\n".join([",".join(flights(0)[0]), *lines]).encode()))
    prefix.put("a.parquet", flights(0))
    sealed = Made(tmp_path / "parquet", view(prefix.source("a.parquet")), sealing)
    written: list[Path] = []
    door.first = lambda key: written.extend(tmp_path.rglob("*.part"))
    zipped = Made(tmp_path / "csv.gz", view(prefix.source("a.csv.gz")), sealing)
    try:
        assert sealed.snapshot().logical_hash == zipped.snapshot().logical_hash
        assert sealed.world.lake.sealed
        assert not written
        plain = making(view(prefix.source("a.parquet")))
        assert plain.snapshot().logical_hash == sealed.snapshot().logical_hash
    finally:
        sealed.world.close()
        zipped.world.close()


def test_batch_and_online_are_compared_by_the_objects_that_a_snapshot_read(prefix: Prefix, making: Making) -> None:
    prefix.put("part-1.parquet", flights(0))
    made = making(view(prefix.source("part-*.parquet")))
    made.world.publisher.publish([(made.snapshot(), made.spec)], reason="test", principal="tester")

    def judged() -> set[str]:
        report = measured(made.world)
        assert (report.compared, report.different) == (2 * 3, 0)
        return {basis for one in report.features for basis in one.judged_by}

    assert judged() == {"source"}
    prefix.put("part-2.parquet", flights(24))
    assert judged() == {"files"}
    prefix.put("part-1.parquet", flights(100))
    assert judged() == {"lake"}
    prefix.delete("part-1.parquet")
    assert judged() == {"lake"}


def test_queries_datasets_and_lineage_read_objects(prefix: Prefix, making: Making, tmp_path: Path) -> None:
    prefix.put("part-1.parquet", flights(0))
    prefix.put("part-2.parquet", flights(24))
    rows = prefix.source(event_id=None)
    query = Source.sql(
        "departures", sql="SELECT *, id AS flight FROM departures WHERE dep_delay >= 0", over=[rows],
        event_time="scheduled", available_at="departed", event_id="flight",
    )  # fmt: skip
    direct, queried = making(view(prefix.source())), making(view(query))
    first = direct.snapshot()
    assert first.rows_out == 2
    assert queried.snapshot().files[2].rows == 2
    asked = tmp_path / "asked.parquet"
    write(asked, [{**flights(0)[0], "scheduled": NOON}])
    frame = pq.read_table(asked).rename_columns({"scheduled": "as_of"})
    table = point_in_time(frame, [direct.spec], scope=Scope())
    queried_table = point_in_time(frame, [queried.spec], scope=Scope())
    assert table.column("delays.flights").to_pylist() == queried_table.column("delays.flights").to_pylist() == [24]
    for spec in (direct.spec, queried.spec):
        told = trace(spec, "flights", EWR, NOON, scope=Scope(), log=None)
        assert told.value == 24
        assert {file.path for file in told.files} == {prefix.url("part-1.parquet"), prefix.url("part-2.parquet")}
    assert {row.file for row in trace(direct.spec, "flights", EWR, NOON, scope=Scope(), log=None).rows} == {
        prefix.url("part-1.parquet"), prefix.url("part-2.parquet"),
    }  # fmt: skip
    before = version_of(direct.spec.source)
    assert before == ("file", first.source_hash)
    prefix.put("part-2.parquet", flights(25))
    assert version_of(direct.spec.source) != before


def test_bytes_that_are_no_source_leave_what_was_published(prefix: Prefix, making: Making) -> None:
    lines = [",".join(map(str, row.values())) for row in flights(0)]
    csv = "\n".join([",".join(flights(0)[0]), *lines]).encode()
    made = making(view(prefix.source("part-*")))
    prefix.put("part-1.csv", csv)
    made.world.publish(NOON)
    outcomes = set()
    for seed in range(SIZE):
        prefix.put("part-1.csv", mutated(csv, Random(seed)))
        before = made.world.read(NOON, **EWR)
        said: AntiphonError | None = None
        try:
            made.world.publish(NOON + timedelta(seconds=seed + 1))
        except AntiphonError as error:
            said = error
        outcomes.add(type(said).__name__)
        if said is not None:
            assert "departures" in f"{said.where}: {said.what}"
            assert made.world.read(NOON, **EWR) == before
    assert outcomes - {"NoneType"}, "no mutation was refused"
    prefix.put("part-1.csv", csv)
    prefix.put("part-2.txt", b"x")
    with pytest.raises(InvalidInputError, match="neither Parquet nor CSV nor JSON"):
        made.world.publish(NOON + minutes(1))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("s3:///a.parquet", "names no bucket"),
        ("s3://B_cket/a.parquet", "names no bucket"),
        ("s3://bucket", r"names no object; write s3://bucket/\*.parquet"),
        ("s3://bucket/daily/", r"write s3://bucket/daily/\*.parquet"),
        ("s3://key:secret@bucket/a.parquet", "holds credentials"),
        ("s3://bucket/a.parquet?secret_key=abc", "holds credentials"),
        ("s3://bucket/a.parquet?endpont=http://h", "'endpont' is no option"),
        ("s3://bucket/a.parquet?endpoint=h:9000", "endpoint must be https://HOST:PORT"),
        ("s3://bucket/a.parquet?endpoint=http://u:p@h", "endpoint must be https://HOST:PORT"),
        ("gs://bucket/a.parquet", "a file or folder of this machine or s3://"),
    ],
)
def test_a_path_that_is_wrong_is_told_where_it_is_declared(path: str, problem: str) -> None:
    (said,) = Source.table("x", path=path, event_time="at").mistakes()
    assert re.search(problem, said)
    assert "abc" not in said
    assert "key:secret" not in said


def test_what_belongs_to_objects_is_refused_elsewhere() -> None:
    (said,) = Source.table("x", path="a.parquet", event_time="at", access_key_variable="A").mistakes()
    assert "belong to a path that begins with s3://" in said
    reference = Source.table("x", path="s3://bucket/a.parquet", event_time="at")
    quality = Quality(expect.exists_in("origin", reference, ["id"]))
    assert any("no file to look in on this machine" in said for said in quality_mistakes(quality, frozenset(), False))


def test_a_source_is_in_the_store_of_the_lake_unless_it_says_otherwise() -> None:
    lake = ObjectStore("http://lake:1", "eu-1", "LAKE_ACCESS", "LAKE_SECRET")

    def store(path: str, **named: str) -> ObjectStore | None:
        source = Source.table("x", path=path, event_time="at", **named)
        source.objects = lake
        assert not list(source.mistakes())
        return source.spec(Path("/project")).store

    assert store("data/a.parquet") is None
    assert store("s3://bucket/a?.parquet") == lake
    assert store("s3://bucket/a.parquet", access_key_variable="A", secret_key_variable="S") == ObjectStore(
        "http://lake:1", "eu-1", "A", "S"
    )
    # What opens one door is not tried at another.
    assert store("s3://bucket/a.parquet?endpoint=http://other:2") == ObjectStore("http://other:2")
    here, there = (
        view(Source.table("x", path=f"s3://bucket/{name}.csv", event_time="at")).definition_version for name in "ab"
    )
    assert here == there


def test_patterns_mean_what_they_mean_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for _ in range(200):
        name = chance.choice(["", "d/"]) + "".join(chance.choice("ab.-]!^[x") for _ in range(chance.randint(1, 4)))
        if not Path(name).is_dir():
            Path(name).touch()
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    for _ in range(2_000):
        pattern = chance.choice(["", "", "d/", "*/", "?/"])
        pattern += "".join(chance.choice("ab.-]!^[*?x") for _ in range(chance.randint(1, 5)))
        if glob.has_magic(pattern) and "**" not in pattern:
            found = sorted(name for name in glob.glob(pattern) if Path(name).is_file())
            matching = matching_keys(pattern)
            assert sorted(name for name in names if matching.fullmatch(name)) == found, pattern


def test_a_stream_has_its_history_in_objects(prefix: Prefix, making: Making) -> None:
    prefix.put("history.parquet", flights(0))
    source = Source.stream(
        "departures", history=f"{prefix.url('history.parquet')}?endpoint={prefix.endpoint}", event_time="scheduled",
        available_at="departed", event_id="id", access_key_variable=ACCESS, secret_key_variable=SECRET,
    )  # fmt: skip
    made = making(view(source))
    late = flight(100, NOON - minutes(30), 1.0, "EWR")
    known = {"event_time": late["scheduled"], "available_at": late["departed"]}
    payload = {name: value.isoformat() if name in ("scheduled", "departed") else value for name, value in late.items()}
    made.world.append("departures", Event("f100", known["event_time"], known["available_at"], payload))
    made.previous = made.snapshot()
    assert made.previous.rows_in == 25
    again, whole = made.snapshot(), made.snapshot(whole=True)
    assert again.read.taken_over == made.previous.id
    assert again.files == whole.files


def test_documents_of_a_folder_in_a_store_are_read(prefix: Prefix) -> None:
    for key, content in (
        ("help/returns.md", b"# Returns\n\nThirty days."),
        ("help/deep/hours.txt", b"Nine to six."),
        ("help/logo.png", b"\x89PNG"),
        ("help/.git/config.txt", b"[core]"),
        ("other/secret.md", b"# Secret"),
    ):
        prefix.put(key, content)
    path = f"{prefix.url('help/')}?endpoint={prefix.endpoint}"
    documents = Documents("handbook", path=path, access_key_variable=ACCESS, secret_key_variable=SECRET)
    source = documents.spec().source
    assert [(one.id, one.error) for one in raw_documents(source)] == [("deep/hours.txt", None), ("returns.md", None)]
    with compute(ComputeLimits()) as connection:
        rows = opened(connection, source)
        assert rows is not None
        found = connection.execute(f"SELECT chunk, text FROM {rows.relation} ORDER BY chunk").fetchall()
    assert found == [("deep/hours.txt#1", "hours\n\nNine to six."), ("returns.md#1", "# Returns\n\nThirty days.")]
