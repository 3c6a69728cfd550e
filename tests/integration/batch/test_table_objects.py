"""Table jobs whose input and output are objects: whole or not at all, never another one's, never out of reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.harness.small_desk import ASKER, SCOPE, START
from tests.integration.batch.test_table_job import Bench, FakeRun
from tests.servers import S3Process

from antiphon.batch.orders import TableOrder, TableOrders
from antiphon.batch.table_job import TableJobs
from antiphon.batch.table_objects import TableObject, TableObjects, object_of
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, SetupError
from antiphon.core.scope import Scope
from antiphon.definitions.objects import ObjectStore
from antiphon.features.lake.bucket import Bucket, S3Place

ROWS = 6


@pytest.fixture(scope="module")
def process() -> Iterator[S3Process]:
    with S3Process() as started:
        started.make_bucket()
        yield started


class ObjectBench:
    """A desk whose tables lie in a bucket."""

    def __init__(self, process: S3Process, folder: Path) -> None:
        self.process = process
        self.client = process.client()
        self.bench = Bench(folder)
        store = ObjectStore(process.endpoint, None, "TABLES_KEY", "TABLES_SECRET")
        private = (S3Place("lake", "features"),)
        self.objects = TableObjects(store, folder / "scratch", private)
        self.orders: TableOrders = replace(self.bench.orders, objects=self.objects)
        self.jobs: TableJobs = replace(self.bench.jobs, objects=self.objects)
        rows = ({"flight": f"B6 {line}", "origin": "JFK"} for line in range(ROWS))
        self.put("in.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="lake", Key=key, Body=content)

    def get(self, key: str) -> list[dict[str, Any]]:
        content = self.client.get_object(Bucket="lake", Key=key)["Body"].read()
        return [json.loads(line) for line in content.splitlines()]

    def order(self, output: str, source: str = "s3://lake/in.jsonl") -> TableOrder:
        return TableOrder("desk", input=source, output=output, as_of=START)


@pytest.fixture
def desk(process: S3Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectBench]:
    monkeypatch.setenv("TABLES_KEY", process.access_key)
    monkeypatch.setenv("TABLES_SECRET", process.secret_key)
    made = ObjectBench(process, tmp_path)
    yield made
    made.bench.desk.close()


async def test_a_table_comes_from_a_bucket_and_goes_there(desk: ObjectBench, tmp_path: Path) -> None:
    output = "s3://lake/out/first.jsonl"
    job = desk.orders.place(SCOPE, ASKER, desk.order(output))
    assert (job.input, job.output) == ("s3://lake/in.jsonl", output)
    ended = await desk.jobs.run(FakeRun(), {"job": job.id})
    assert (ended["status"], ended["rows"], ended["failed"]) == ("completed", ROWS, 0)
    assert [row["flight"] for row in desk.get("out/first.jsonl")] == [f"B6 {line}" for line in range(ROWS)]
    assert list((tmp_path / "scratch").iterdir()) == [], "copies are gone"
    # The same again may replace it; who changed it may not be replaced.
    again = desk.orders.place(SCOPE, ASKER, desk.order(output))
    assert (await desk.jobs.run(FakeRun(), {"job": again.id}))["status"] == "completed"
    desk.put("out/first.jsonl", b"{}\n")
    with pytest.raises(InvalidInputError, match="was not written by a job of this application"):
        desk.orders.place(SCOPE, ASKER, desk.order(output))


async def test_an_object_that_comes_meanwhile_is_not_replaced(desk: ObjectBench) -> None:
    job = desk.orders.place(SCOPE, ASKER, desk.order("s3://lake/out/second.jsonl"))
    desk.put("out/second.jsonl", b"another one's\n")
    ended = await desk.jobs.run(FakeRun(), {"job": job.id})
    assert ended["status"] == "failed"
    content = desk.client.get_object(Bucket="lake", Key="out/second.jsonl")["Body"].read()
    assert content == b"another one's\n"


class Condition:
    """The client of a store that heeds conditions, as not every one does: it has another object by now."""

    def __init__(self) -> None:
        self.conditions: list[dict[str, str]] = []

    def put_object(self, *, Bucket: str, Key: str, Body: Any, **condition: str) -> None:
        self.conditions.append(condition)
        raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")

    def close(self) -> None:
        pass


def test_an_object_is_put_on_condition_of_what_was_looked_at(
    desk: ObjectBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Condition()
    monkeypatch.setattr(Bucket, "client", client)
    finished = desk.bench.directory / "finished.jsonl"
    finished.write_text("{}\n")
    for tag in (None, '"etag"'):
        with pytest.raises(ConflictError, match="Another process has written"):
            desk.objects.put(finished, object_of("s3://lake/out/third.jsonl"), tag)
    assert client.conditions == [{"IfNoneMatch": "*"}, {"IfMatch": '"etag"'}]


def test_what_cannot_be_is_refused_before_a_row_is_answered(desk: ObjectBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(**changes: Any) -> None:
        desk.orders.place(SCOPE, ASKER, desk.order(**{"output": "s3://lake/out/new.jsonl", **changes}))

    with pytest.raises(NotFoundError, match="no such object"):
        place(source="s3://lake/absent.jsonl")
    with pytest.raises(InvalidInputError, match="own objects"):
        place(output="s3://lake/features/default/dev/aa/new.jsonl")
    with pytest.raises(InvalidInputError, match="own objects"):
        place(source="s3://lake/features/default/dev/aa/new.jsonl")
    with pytest.raises(InvalidInputError, match="one object"):
        place(source="s3://lake/*.jsonl")
    with pytest.raises(InvalidInputError, match="is not a table format"):
        place(output="s3://lake/out/new.txt")
    with pytest.raises(InvalidInputError, match="credentials") as held:
        place(source="s3://me:hunter2@lake/in.jsonl")
    assert "hunter2" not in str(held.value)
    read = replace(desk.orders, sources=lambda: {"view/visits": ["s3://lake/visits/*.jsonl"]})
    with pytest.raises(InvalidInputError, match="The project reads this table"):
        read.place(SCOPE, ASKER, desk.order("s3://lake/visits/new.jsonl"))
    with pytest.raises(InvalidInputError, match="not read here"):
        desk.bench.orders.place(SCOPE, ASKER, desk.order("s3://lake/out/new.jsonl"))
    desk.put("bad.jsonl", b'{"flight": 1\n')
    with pytest.raises(InvalidInputError, match="Line 1 is no JSON") as bad:
        place(source="s3://lake/bad.jsonl")
    assert bad.value.where == "s3://lake/bad.jsonl"
    monkeypatch.delenv("TABLES_SECRET")
    with pytest.raises(SetupError, match="TABLES_SECRET is not set"):
        place()


def test_an_order_over_http_names_objects_below_one_prefix_alone(desk: ObjectBench) -> None:
    shared = TableObject("lake", "tables", desk.process.endpoint)
    confined = replace(desk.orders, confined=True, owner=SCOPE, shared=shared)
    rows = json.dumps({"flight": "B6 1", "origin": "JFK"}).encode()
    for key in ("tables/in.jsonl", "tables/tenants/other/in.jsonl", "tables/.hidden/in.jsonl"):
        desk.put(key, rows)
    job = confined.place(SCOPE, ASKER, desk.order("s3://lake/tables/out.jsonl", "s3://lake/tables/in.jsonl"))
    assert job.input == f"s3://lake/tables/in.jsonl?endpoint={desk.process.endpoint}"
    outside = (
        "s3://lake/in.jsonl", "s3://other/tables/in.jsonl", "s3://lake/tables/tenants/other/in.jsonl",
        "s3://lake/tables/.hidden/in.jsonl", "s3://lake/tables/in.jsonl?endpoint=http://127.0.0.1:9",
    )  # fmt: skip
    for url in outside:
        with pytest.raises(InvalidInputError, match="where no table of an order over HTTP may lie"):
            confined.place(SCOPE, ASKER, desk.order("s3://lake/tables/out.jsonl", url))
    other = Scope("other", SCOPE.environment)
    assert confined._object(other, "s3://lake/tables/tenants/other/in.jsonl").key.endswith("other/in.jsonl")
    with pytest.raises(InvalidInputError, match="where no table of an order over HTTP may lie"):
        confined._object(other, "s3://lake/tables/in.jsonl")
    with pytest.raises(InvalidInputError, match="where no table of an order over HTTP may lie"):
        replace(confined, shared=None).place(SCOPE, ASKER, desk.order("s3://lake/tables/out.jsonl"))
