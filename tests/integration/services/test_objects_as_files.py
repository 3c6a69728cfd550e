"""Objects of a real S3-compatible store as what workflows read and what a stream follows."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.harness.chaos_project import write_project
from tests.harness.gated_project import GatedProject
from tests.harness.refresh import run_refresh
from tests.integration.features.following.test_file_drop import AT, Reading, lines
from tests.integration.services.test_assets import (
    DAYS,
    DEFINITIONS,
    MODULE,
    START,
    WORKFLOWS,
    make_all,
    parts,
    stages,
)
from tests.integration.services.test_following import DEFINITIONS as VISITS
from tests.integration.services.test_following import NOW, visits_of
from tests.integration.services.test_gate_runs import obeys
from tests.servers import S3Process

from antiphon import FileDrop, Source
from antiphon.core.clock import ManualClock
from antiphon.core.errors import SetupError, UnavailableError
from antiphon.definitions.assets import Asset
from antiphon.definitions.objects import ObjectStore
from antiphon.definitions.partitions import DailyPartitions, KeyedPartitions
from antiphon.features.following import followed_files
from antiphon.services.apply.apply import apply
from antiphon.services.conducting.file_versions import object_versions
from antiphon.services.features.following import follower_statuses
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.lineage.project import ProjectLineage
from antiphon.services.project.store import Store

ACCESS, SECRET = "FILES_TEST_ACCESS", "FILES_TEST_SECRET"
LAKE = """
lake = "s3://{bucket}/{prefix}-lake?endpoint={endpoint}"
lake_access_key_variable = "{access}"
lake_secret_key_variable = "{secret}"
"""


class Folder:
    """Keys below a prefix of a bucket of its own."""

    def __init__(self, process: S3Process, prefix: str) -> None:
        self.client, self.bucket, self.prefix = process.client(), process.bucket, prefix
        self.endpoint = process.endpoint

    def put(self, key: str, text: str | bytes) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}/{key}"


@pytest.fixture(scope="module")
def process() -> Iterator[S3Process]:
    with S3Process() as started:
        started.make_bucket()
        yield started


@pytest.fixture
def folder(process: S3Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setenv(ACCESS, process.access_key)
    monkeypatch.setenv(SECRET, process.secret_key)
    made = Folder(process, tmp_path.name)
    yield made
    made.client.close()


@pytest.fixture
async def project(tmp_path: Path, folder: Folder) -> AsyncIterator[GatedProject]:
    text = WORKFLOWS.format(folder=str(tmp_path))
    text = text.replace('files("events/{day}.txt")', f'files("{folder.url("events/{day}.txt")}")')
    (tmp_path / f"{MODULE}.py").write_text(text)
    (tmp_path / "events").mkdir()
    (tmp_path / "rates.txt").write_text("5")
    lake = LAKE.format(
        bucket=folder.bucket, prefix=folder.prefix, endpoint=folder.endpoint, access=ACCESS, secret=SECRET
    )
    made = GatedProject(tmp_path, obeys, settings=lake, own=f'workflow_modules = ["{MODULE}"]')
    made.store.database.clock = ManualClock(START)
    yield made
    await made.close()
    sys.modules.pop(MODULE, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def write(project: GatedProject, folder: Folder, day: str, text: str) -> None:
    """A day's object, and the file that the workflow reads in its place."""
    folder.put(f"events/{day}.txt", text)
    (project.folder / "events" / f"{day}.txt").write_text(text)


async def test_objects_that_change_make_their_days_and_what_follows_anew(project: GatedProject, folder: Folder) -> None:
    for day in DAYS[:3]:
        write(project, folder, day, "one two")
    project.apply(DEFINITIONS)
    assert (await make_all(project))[:3] == [f"events/{day}.txt" for day in DAYS[:3]]
    assert stages(project, "workflow/clean") == dict.fromkeys(DAYS[:3], "current") | {DAYS[3]: "waits"}
    write(project, folder, DAYS[3], "late")
    write(project, folder, DAYS[1], "one two three")
    assert await make_all(project) == [f"events/{DAYS[1]}.txt", f"events/{DAYS[3]}.txt", "rates.txt"]
    assert await make_all(project) == []
    folder.delete(f"events/{DAYS[0]}.txt")  # Gone since: as it was.
    assert await make_all(project) == []
    run = parts(project, "workflow/clean")[DAYS[1]].run
    assert run is not None
    _, told = ProjectLineage(project.store).events(project.scope, run)
    assert [(one.namespace, one.name) for one in told.inputs] == [
        (f"s3://{folder.bucket}", f"{folder.prefix}/events/{DAYS[1]}.txt")
    ]
    graph = ProjectLineage(project.store).graph(project.scope, run, "upstream")
    assert ("file", f"s3://{folder.bucket}/{folder.prefix}/events/{DAYS[1]}.txt") in {
        (node.kind, node.name) for node in graph.nodes
    }


async def test_a_store_that_is_away_or_refuses_keeps_only_its_readers_waiting_and_says_why(
    project: GatedProject, folder: Folder, process: S3Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS[1:]:
        write(project, folder, day, "one two")
    project.apply(DEFINITIONS)
    await make_all(project)
    files, before = f"file/{folder.url('events/{day}.txt')}", stages(project, "workflow/clean")
    assert before == dict.fromkeys(DAYS[1:], "current") | {DAYS[0]: "waits"}

    async def said(why: str) -> None:
        assert await make_all(project) == []  # What was read stays as it is, and the conductor goes on.
        assert stages(project, "workflow/clean") == before
        for reason in (parts(project, files)[DAYS[0]].reason, parts(project, "workflow/clean")[DAYS[0]].reason):
            assert why in reason

    await said("there is no such file")
    with monkeypatch.context() as other:
        other.setenv(SECRET, "wrong")
        await said("refuse")
    process.stop()
    try:
        await said("does not answer")
    finally:
        process.start()
    write(project, folder, DAYS[0], "late")
    assert await make_all(project) == [f"events/{DAYS[0]}.txt", "rates.txt"]


def test_one_listing_tells_the_versions_of_all_partitions(folder: Folder) -> None:
    for key in ("in/de/1.csv", "in/de/2.csv", "in/fr/1.csv", "in/fr/.hidden.csv", "in/xx/de/1.csv", "in/de.csv"):
        folder.put(key, key)
    keyed = KeyedPartitions(("de", "fr", "it"))
    store = ObjectStore(folder.endpoint, None, ACCESS, SECRET)

    def versions(pattern: str, partitions: Any = None) -> dict[str, str]:
        return dict(object_versions(Asset(f"file/{folder.url(pattern)}", partitions=partitions), store))

    by_key = versions("in/{key}/*.csv", keyed)
    assert by_key.keys() == {"de", "fr"}
    assert versions("in/{key}.csv", keyed).keys() == {"de"}
    assert versions("in/{key}/", keyed).keys() == {"de", "fr", "xx"}  # Of folders all that is below.
    assert versions("in/de/*.csv") == {"": by_key["de"]}
    assert versions("in/fr/1.csv") == {"": by_key["fr"]}
    assert versions("in/nothing.csv") == versions("in/nothing/*.csv") == {}
    folder.put("in/de/2.csv", "other")
    assert versions("in/{key}/*.csv", keyed)["de"] != by_key["de"]
    assert versions("in/{key}/*.csv", keyed)["fr"] == by_key["fr"]
    folder.put("again/2026-11-01/2026-11-01.csv", "1")
    folder.put("again/2026-11-01/2026-11-02.csv", "2")
    assert versions("again/{day}/{day}.csv", DailyPartitions("2026-11-01")).keys() == {"2026-11-01"}


@pytest.fixture
def reading(folder: Folder) -> Iterator[Reading]:
    made = Reading.__new__(Reading)
    path = f"{folder.url('inbox/*.jsonl')}?endpoint={folder.endpoint}"
    follow = FileDrop(path=path, settle="2s", access_key_variable=ACCESS, secret_key_variable=SECRET)
    made.spec = Source.stream("visits", event_time="at", event_id="id", follow=follow).spec(Path("/project"))
    made.clock = ManualClock(AT)
    made.position, made.refused, made.refusal, made.waiting = None, 0, "", 0
    made.again()
    yield made
    made.reader.close()


def test_objects_of_a_store_are_followed_at_once_and_each_row_is_one(reading: Reading, folder: Folder) -> None:
    assert (reading.on(), reading.caught_up_at) == ([], AT)
    folder.put("inbox/b.jsonl", lines(1, 2))
    folder.put("inbox/a.jsonl", lines(3))
    folder.put("inbox/a.txt", "nothing")
    assert reading.on() == ["3", "1", "2"]  # By key, and without a wait: an object is there whole.
    assert reading.on() == []
    reading.again()  # As another process goes on.
    assert reading.on() == []
    folder.put("inbox/b.jsonl", lines(1, 2, 4))
    assert reading.on() == ["1", "2", "4"]  # The log knows the first two.
    folder.delete("inbox/a.jsonl")
    assert reading.on() == []
    assert folder.url("") in str(reading.position)


def test_an_object_is_read_page_by_page_and_by_another_process_from_its_beginning(
    reading: Reading, folder: Folder
) -> None:
    folder.put("inbox/a.jsonl", lines(*range(250)))
    assert reading.on(pages=1) == [str(n) for n in range(100)]
    reading.again()
    assert reading.on() == [str(n) for n in range(250)]


def test_an_object_that_is_none_is_said_and_passed_over_and_a_store_that_is_away_is_asked_again(
    reading: Reading, folder: Folder, process: S3Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("inbox/a.jsonl", '{"id": 1,')
    folder.put("inbox/b.jsonl", lines(2))
    assert reading.on() == ["2"]
    assert (reading.refused, reading.refusal.partition(":")[0]) == (1, "a.jsonl cannot be read")
    folder.put("inbox/c.jsonl", lines(3))
    position = reading.position
    with monkeypatch.context() as refused:
        refused.setenv(SECRET, "wrong")
        with pytest.raises(SetupError):
            reading.on()
    process.stop()
    try:
        with pytest.raises(UnavailableError):
            reading.on()
    finally:
        process.start()
    assert reading.position == position
    assert (reading.on(), reading.refused) == (["3"], 1)


def test_an_object_that_is_too_large_is_refused_and_one_that_changes_while_it_is_fetched_is_read_as_it_is_then(
    reading: Reading, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("inbox/a.jsonl", lines(*range(10)))
    with monkeypatch.context() as small:
        small.setattr(followed_files, "MOST_BYTES", 100)
        assert reading.on() == []
        assert "0 MiB is the most" in reading.refusal
    folder.put("inbox/b.jsonl", lines(11))
    present = type(reading.reader._files).present

    def overtaken(self: Any) -> Any:
        found = present(self)
        folder.put("inbox/b.jsonl", lines(11, 12))
        return found

    with monkeypatch.context() as race:
        race.setattr(type(reading.reader._files), "present", overtaken)
        with pytest.raises(UnavailableError, match="changed while it was read"):
            reading.on()
    assert reading.on() == ["11", "12"]


async def test_a_view_of_a_followed_prefix_is_refreshed_from_its_objects(folder: Folder, tmp_path: Path) -> None:
    root = write_project(tmp_path / "project", "simulated").root
    path = f"{folder.url('inbox/*.jsonl')}?endpoint={folder.endpoint}"
    named = f'FileDrop("{path}", within="10s", access_key_variable="{ACCESS}", secret_key_variable="{SECRET}")'
    text = VISITS.replace('FileDrop("inbox/*.jsonl", settle="200ms", within="10s")', named)
    (root / "definitions.py").write_text(text)
    (root / "shops.csv").write_text(f"shop,at\ntea,{NOW.isoformat()}\n")
    for number in (1, 2, 3):
        row = {"id": number, "at": NOW.isoformat(), "shop": "tea", "spent": number / 4}
        folder.put(f"inbox/{number}.jsonl", json.dumps(row) + "\n")
    with closing(Store.open(root)) as store:
        apply(store, principal="test")
        with closing(FeaturePlatform(store)) as platform:
            await run_refresh(store, platform)
            assert visits_of(store, platform) == 3
            (status,) = follower_statuses(store, platform.views().values()).values()
            assert (status.place, status.problem, status.waiting) == (f"files {path.partition('?')[0]}", None, 0)
