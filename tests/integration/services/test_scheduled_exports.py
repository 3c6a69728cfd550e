"""Exports as scheduled work: whole files of what there is, each once, also through kills, freezes and full disks."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.csv
import pyarrow.parquet
import pytest
from tests.catalogs import KINDS
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.harness.refresh import run_refresh
from tests.integration.services.test_assets import server
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys
from tests.integration.services.test_schedules import conducting, schedules
from tests.servers import S3Process

from antiphon.catalog.learning.datasets import Dataset, DatasetSpec
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidDefinitionsError, NotFoundError
from antiphon.definitions.exports import ExportWork
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.exports.files import RowWriter
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import plan
from antiphon.services.batches import batch_context, table_jobs
from antiphon.services.conducting.assets import ProjectAssets
from antiphon.services.export.rows import ExportedSources, ExportVersion
from antiphon.services.export.scheduled import ScheduledExports
from antiphon.services.governance.identity import at_terminal
from antiphon.services.governance.policy_versions import PolicyService
from antiphon.services.lineage.runs import RunLineage
from antiphon.services.workflows import EXPORT, POLICIES, TABLE_JOB
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest

ANN = Principal("ann", "default", "admin", "person", "restricted")
START = datetime(2026, 11, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VIEW = """
from antiphon import Entity, Export, Precompute, Source, col, cron, every, feature_view, last, published, stale
shop = Entity("shop", keys=["shop"])
sold = Source.table("sold", path="sold.csv", event_time="at")

@feature_view(entity=shop, source=sold, refresh="1h")
class sales:
    pieces = last(col.pieces, window="365d")
"""


@pytest.fixture
async def project(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatedProject]:
    write_sales(tmp_path, 5)
    (tmp_path / "questions.jsonl").write_text('{"question": "Where?", "n": 1}\n{"question": "When?", "n": 2}\n')
    catalog = "" if getattr(request, "param", "sqlite") == "sqlite" else server(tmp_path / "server", monkeypatch)
    made = GatedProject(tmp_path, obeys, settings=catalog)
    made.store.database.clock = ManualClock(START)
    yield made
    await made.close()


def write_sales(folder: Path, count: int, pieces: int = 3) -> None:
    lines = [f"shop{number:05},2026-11-0{1 + number % 4}T08:00:00Z,{pieces}\n" for number in range(count)]
    (folder / "sold.csv").write_text("shop,at,pieces\n" + "".join(lines))


def declare(project: GatedProject, *exports: str) -> None:
    text = REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED)
    project.apply("\n".join([text, VIEW, *exports]))


def clock(project: GatedProject) -> ManualClock:
    found = project.store.database.clock
    assert isinstance(found, ManualClock)
    return found


async def ask(project: GatedProject, question: str) -> str:
    """Ask at the project's own time; the prediction's id."""
    live = LiveReleases(project.store.releases, project.store.database.clock)
    wired = serving_services(project.store, project.engine, project.wired.commit, live, project.wired.features)
    request = AnswerRequest(project.scope, ANN, "replies", question=question)
    return (await Answerer(msgspec.structs.replace(wired, clock=clock(project))).answer(request)).prediction


def runs(project: GatedProject) -> list[Run]:
    return project.store.runs.list(project.scope, workflow=EXPORT)


async def work(project: GatedProject, until: Callable[[], bool] | None = None, **options: Any) -> Run:
    """Work as a worker does until the exports have ended, or something else holds; the latest run."""
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(EXPORT, ScheduledExports(project.store, project.wired.features).run, POLICIES[EXPORT])
    jobs = table_jobs(project.store, project.wired.features, project.ask, batch_context(project.store, "worker"))
    registry.add(TABLE_JOB, jobs.run, shared=True)
    executor = Executor(project.store.database, registry, "worker", project.scope, poll=0.05, grace=0.5, **options)
    working = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(30):
            while not (until or (lambda: all_ended(project)))():
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await working
    return runs(project)[0] if runs(project) else project.store.runs.list(project.scope)[0]


def all_ended(project: GatedProject) -> bool:
    return all(run.status in ENDED for run in project.store.runs.list(project.scope))


async def export(project: GatedProject, name: str) -> Run:
    """Begin an export by hand, and work until it has ended."""
    conducting(project)[1].begin(name, ANN, "a look")
    return await work(project)


def files(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


@pytest.mark.parametrize("project", KINDS, indirect=True)
async def test_predictions_are_exported_by_day_with_their_receipts(project: GatedProject) -> None:
    declare(project, 'Export("replies", to="out/{day}.parquet", when=cron("0 5 * * *"))')
    first = await ask(project, "Where is my order?")
    clock(project).advance(DAY)
    second = [await ask(project, f"Is it {number}?") for number in range(3)]
    look, _ = conducting(project)
    look.look()
    assert runs(project) == []
    clock(project).advance(DAY)
    look.look()
    ended = await work(project)
    assert (ended.status, ended.result and ended.result["rows"], ended.schedule) == ("succeeded", 4, "export-replies")
    assert files(project.folder / "out") == ["2026-11-05.parquet", "2026-11-06.parquet"]
    one = pyarrow.parquet.read_table(project.folder / "out/2026-11-05.parquet")
    assert one.column("prediction").to_pylist() == [first]
    row = one.to_pylist()[0]
    assert (row["question"], row["answer"]) == ("Where is my order?", "Thank you, your order is on its way.")
    assert row["created_at"] == START
    assert one.schema.metadata[b"antiphon.asset"] == b"predictions/replies"
    two = pyarrow.parquet.read_table(project.folder / "out/2026-11-06.parquet")
    assert sorted(two.column("prediction").to_pylist()) == sorted(second)
    entries = project.store.audit.query(project.scope, AuditFilter(action="predictions.export"))
    assert [entry.principal for entry in entries] == ["schedule:export-replies"] * 2
    # The next day adds its own file, and writes no other one.
    before = (project.folder / "out/2026-11-06.parquet").stat()
    clock(project).advance(DAY)
    look.look()
    assert (await work(project)).result == {
        "versions": ["2026-11-07"], "files": 1, "rows": 0, "withheld": 0, "removed": 0,
        "bytes": (project.folder / "out/2026-11-07.parquet").stat().st_size,
        "written": [str(project.folder / "out/2026-11-07.parquet")],
    }  # fmt: skip
    assert (project.folder / "out/2026-11-06.parquet").stat() == before


async def test_a_view_is_exported_once_for_each_version_of_its_values(project: GatedProject) -> None:
    declare(project, 'Export(sales, to="out/sales/", when=stale(), keep=2, rows_per_file=2)')
    look, _ = conducting(project)
    look.look()
    assert "no snapshot of it is published" in schedules(project).list()[0].outlook.reason
    folder, names = project.folder / "out/sales", []
    for pieces in (3, 4, 5):
        write_sales(project.folder, 5, pieces)
        await run_refresh(project.store, project.wired.features)
        clock(project).advance(timedelta(minutes=2))
        look.look()
        ended = await work(project)
        assert ended.status == "succeeded", ended.error
        assert ended.result is not None
        names += ended.result["versions"]
        look.look()
        assert ProjectAssets(project.store, project.scope).show("export/export-sales").asset.stage == "current"
    assert len(runs(project)) == 3
    assert sorted({name.partition("/")[0] for name in files(folder)}) == sorted(names[1:])
    parts = [f"{names[2]}/{name}" for name in ("_SUCCESS", *(f"part-0000{number}.parquet" for number in range(3)))]
    assert [name for name in files(folder) if name.startswith(names[2])] == parts
    said = json.loads((folder / parts[0]).read_text())
    assert (said["rows"], [one["rows"] for one in said["files"]]) == (5, [2, 2, 1])
    table = pyarrow.parquet.read_table(folder / names[2])
    assert sorted(table.column("shop").to_pylist()) == [f"shop0000{number}" for number in range(5)]
    assert set(table.column("pieces").to_pylist()) == {5.0}
    references = RunLineage(project.store).references(runs(project)[0])
    assert [one.id for one in references.inputs] == [names[2]]
    assert [one.id for one in references.outputs] == [f"export-sales@{names[2]}"]
    (*_, complete) = RunLineage(project.store).events(project.scope, runs(project)[0].id)
    assert [one.name for one in complete.outputs][:2] == ["export/export-sales", f"file/out/sales/{parts[0]}"]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
async def test_a_file_is_replaced_by_the_next_version_and_read_by_other_tools(
    project: GatedProject, format: str
) -> None:
    declare(project, f'Export(sales, to="sales.{format}", when=published(sales))')
    await run_refresh(project.store, project.wired.features)
    await export(project, "export-sales")
    write_sales(project.folder, 3, 7)
    await run_refresh(project.store, project.wired.features)
    ended = await export(project, "export-sales")
    assert ended.status == "succeeded", ended.error
    text = (project.folder / f"sales.{format}").read_text()
    if format == "csv":
        assert sorted(pyarrow.csv.read_csv(project.folder / "sales.csv").column("pieces").to_pylist()) == [7, 7, 7]
    else:
        assert [json.loads(line)["pieces"] for line in text.splitlines()] == [7.0] * 3


async def test_stored_answers_of_a_precompute_are_exported(project: GatedProject) -> None:
    declare(
        project,
        'briefing = Precompute("replies", entities="questions.jsonl", when=stale())',
        'Export(briefing, to="out/{version}.jsonl", when=stale())',
    )
    look, _ = conducting(project)
    for _ in range(6):
        clock(project).advance(timedelta(minutes=2))
        look.look()
        await work(project)
    (run,) = runs(project)
    assert run.status == "succeeded", run.error
    (name,) = files(project.folder / "out")
    lines = [json.loads(line) for line in (project.folder / "out" / name).read_text().splitlines()]
    assert [(line["question"], line["n"], line["job"]) for line in lines] == [
        ("Where?", 1, name.removesuffix(".jsonl")), ("When?", 2, name.removesuffix(".jsonl")),
    ]  # fmt: skip
    assert all(project.store.receipts.get(project.scope, line["answer_prediction"]) for line in lines)


async def test_the_training_set_that_was_built_last_is_read_from_any_row(project: GatedProject, tmp_path: Path) -> None:
    declare(project)
    sources = ExportedSources(project.store, project.wired.features)
    work = ExportWork("dataset/replies/training", str(tmp_path / "out.csv"), "csv")
    with pytest.raises(NotFoundError, match="antiphon datasets build replies"):
        sources.versions(work)
    table = pyarrow.table({"example": ["a", "b", "c"], "moment": [START] * 3, "label": ["low", "low", "urgent"]})
    file = tmp_path / "built.parquet"
    pyarrow.parquet.write_table(table, file)
    kept = project.wired.features.lake.put(project.scope, ".parquet", file)
    spec = DatasetSpec("replies", "training", None, None, START, START - DAY, START, 0.0, ("history",), 10, 1, {}, ())
    dataset = Dataset("ds_1", project.scope, spec, (), 3, {}, {}, (), kept.path, kept.sha256, "hash", START)
    project.store.datasets.add(dataset)
    (version,) = sources.versions(work)
    assert version == ExportVersion("ds_1", "2026-11-05", 3)
    for start, labels in ((None, ["low", "low", "urgent"]), (2, ["urgent"]), (3, [])):
        source = sources.open(work, version, ANN, start)
        assert source.properties["antiphon.logical_hash"] == "hash"
        assert [one for batch in source.batches for one in batch.rows.column("label").to_pylist()] == labels


async def test_a_file_that_no_export_wrote_is_never_replaced(project: GatedProject) -> None:
    declare(project, 'Export(sales, to="out/{version}.csv")')
    await run_refresh(project.store, project.wired.features)
    snapshot = next(iter(project.store.publications.snapshots(project.scope).values()))
    (project.folder / "out").mkdir()
    strange = project.folder / f"out/{snapshot}.csv"
    strange.write_text("labels\n")
    ended = await export(project, "export-sales")
    assert (ended.status, strange.read_text()) == ("failed", "labels\n")
    assert "was not written by an export of this project" in (ended.error or "")
    strange.unlink()
    assert (await export(project, "export-sales")).status == "succeeded"
    strange.write_text("changed since\n")
    assert (await export(project, "export-sales")).status == "failed"
    assert strange.read_text() == "changed since\n"


async def test_old_files_go_only_where_they_are_as_they_were_written(project: GatedProject) -> None:
    declare(project, 'Export("replies", to="out/{day}.csv", keep=2)')
    for _ in range(4):
        await ask(project, "Where?")
        clock(project).advance(DAY)
    await export(project, "export-replies")
    assert files(project.folder / "out") == ["2026-11-07.csv", "2026-11-08.csv"]
    (project.folder / "out/2026-11-07.csv").write_text("mine now\n")
    clock(project).advance(2 * DAY)
    await export(project, "export-replies")
    assert files(project.folder / "out") == ["2026-11-07.csv", "2026-11-09.csv", "2026-11-10.csv"]


async def test_a_freeze_in_the_midst_of_a_file_is_heeded_and_whole_files_stay(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sales(project.folder, 300)
    declare(project, 'Export(sales, to="out/", rows_per_file=100)')
    await run_refresh(project.store, project.wired.features)
    reached, go_on, put = threading.Event(), threading.Event(), RowWriter.write
    opened: list[int] = []

    def slow(self: RowWriter, batch: Any) -> None:
        opened.append(1)
        if len(opened) == 2 and not reached.is_set():
            reached.set()
            go_on.wait(10)
        put(self, batch)

    monkeypatch.setattr(RowWriter, "write", slow)
    conducting(project)[1].begin("export-sales", ANN, "a look")
    clock(project).advance(timedelta(seconds=1))

    def frozen() -> bool:
        if reached.is_set() and not schedules(project).holds():
            schedules(project).freeze("ann", "the launch", clock(project).now() + timedelta(hours=1))
        return bool(schedules(project).holds()) and runs(project)[0].status == "queued"

    given_back = await work(project, frozen)
    go_on.set()
    assert given_back.status == "queued"
    whole = [name for name in files(project.folder / "out") if name.endswith(".parquet")]
    assert [name.rpartition("/")[2] for name in whole] == ["part-00000.parquet"]
    before = (project.folder / "out" / whole[0]).stat()
    clock(project).advance(timedelta(hours=2))
    ended = await work(project)
    assert (ended.status, ended.result and ended.result["rows"]) == ("succeeded", 300)
    assert (project.folder / "out" / whole[0]).stat() == before
    names = [name.rpartition("/")[2] for name in files(project.folder / "out")]
    assert names == ["_SUCCESS", *(f"part-0000{number}.parquet" for number in range(3))]


async def test_a_full_disk_leaves_no_torn_file_and_the_run_goes_on_when_there_is_room(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sales(project.folder, 300)
    declare(project, 'Export(sales, to="out/", rows_per_file=100)')
    await run_refresh(project.store, project.wired.features)
    finish, full = RowWriter._finish, [True]
    tried: list[int] = []

    def no_room(self: RowWriter) -> None:
        tried.append(self.rows)
        if len(tried) > 1 and full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finish(self)

    monkeypatch.setattr(RowWriter, "_finish", no_room)
    conducting(project)[1].begin("export-sales", ANN, "a look")
    waits = await work(project, lambda: runs(project)[0].attempts == 1 and runs(project)[0].error is not None)
    assert (waits.status, "No space left" in (waits.error or "")) == ("queued", True)
    assert [name.rpartition("/")[2] for name in files(project.folder / "out")] == ["part-00000.parquet"]
    full[0] = False
    clock(project).advance(timedelta(hours=1))
    ended = await work(project)
    assert (ended.status, ended.result and ended.result["rows"]) == ("succeeded", 300)


NOT_ONE = """
@id("not-one") forbid (principal, action == Action::"export", resource)
when { resource.hasTag("shop") && resource.getTag("shop") == "shop00001" };
"""
NO_EXPORTS = """
@id("no-exports") forbid (principal in Role::"conductor", action == Action::"export", resource);
"""


async def test_policy_keeps_back_rows_and_refuses_exports(project: GatedProject) -> None:
    declare(project, 'Export(sales, to="sales.csv", when=every("1h"))')
    await run_refresh(project.store, project.wired.features)
    enforce(project, NOT_ONE)
    ended = await export(project, "export-sales")
    assert ended.result is not None, ended.error
    assert (ended.result["rows"], ended.result["withheld"]) == (4, 1)
    assert "shop00001" not in (project.folder / "sales.csv").read_text()
    enforce(project, NO_EXPORTS)
    look, _ = conducting(project)
    clock(project).advance(timedelta(hours=2))
    look.look()
    (line,) = schedules(project).list()
    assert line.outlook.stage == "refused"
    assert "may not export view/sales" in line.outlook.reason
    assert "policy does not let schedule:export-sales" in plan(project.store).refused[0]


def enforce(project: GatedProject, rule: str) -> None:
    """Put the default policies and another one in force."""
    policies, by = PolicyService(project.store), at_terminal(project.store)
    document = policies.declared()
    document = msgspec.structs.replace(document, cedar=document.cedar + rule, cases=())
    made = policies.propose(project.scope, document, by=by, reason="a test")
    policies.approve(project.scope, made.number, by=by, reason="a test")
    project.store.decider.forget()


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Process]:
    with S3Process() as process:
        process.make_bucket()
        yield process


async def test_objects_are_written_whole_replaced_and_removed(
    tmp_path: Path, bucket: S3Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sales(tmp_path, 5)
    monkeypatch.setenv("LAKE_ACCESS", bucket.access_key)
    monkeypatch.setenv("LAKE_SECRET", bucket.secret_key)
    lake = bucket.url.replace("/features?", "/own?")
    settings = f'lake = "{lake}"\nlake_access_key_variable = "LAKE_ACCESS"\nlake_secret_key_variable = "LAKE_SECRET"\n'
    made = GatedProject(tmp_path, obeys, settings=settings)
    made.store.database.clock = ManualClock(START)
    options = lake.partition("?")[2]
    try:
        declare(made, f'Export(sales, to="s3://lake/warehouse/?{options}", keep=1, rows_per_file=2)')
        for pieces in (3, 4):
            write_sales(tmp_path, 5, pieces)
            await run_refresh(made.store, made.wired.features)
            ended = await export(made, "export-sales")
            assert ended.status == "succeeded", ended.error
            clock(made).advance(timedelta(minutes=1))
        assert ended.result is not None
        (version,) = ended.result["versions"]
        assert len(bucket.contents("warehouse")) == 4  # Three parts and _SUCCESS; those of the version before went.
        again = await export(made, "export-sales")
        assert again.status == "succeeded", again.error
        assert len(bucket.contents(f"warehouse/{version}")) == 4
        with pytest.raises(InvalidDefinitionsError, match="keeps its own objects there"):
            declare(made, f'Export(sales, to="s3://lake/own/?{options}")')
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ('Export(sales, to="sold.csv")', "The project reads this table"),
        ('Export(sales, to=".antiphon/out/")', "keeps its own files there"),
        ('Export(sales, to="questions.jsonl")', "was not written by an export of this project"),
        ('Export(sales, to="questions.jsonl/x.csv")', "questions.jsonl is no folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_by_plan(project: GatedProject, declared: str, told: str) -> None:
    with pytest.raises(InvalidDefinitionsError, match=told):
        declare(project, declared)


async def test_a_refresh_that_found_nothing_new_makes_no_export_stale(project: GatedProject) -> None:
    declare(project, 'Export(sales, to="sales.csv", when=stale())')
    await run_refresh(project.store, project.wired.features)
    conducting(project)[0].look()
    await work(project)
    assert len(runs(project)) == 1
    clock(project).advance(timedelta(hours=1))
    await run_refresh(project.store, project.wired.features)
    conducting(project)[0].look()
    (part,) = ProjectAssets(project.store, project.scope).show("export/export-sales").parts
    assert (part.stage, len(runs(project))) == ("current", 1)
    write_sales(project.folder, 6)
    clock(project).advance(timedelta(hours=1))
    await run_refresh(project.store, project.wired.features)
    (part,) = ProjectAssets(project.store, project.scope).show("export/export-sales").parts
    assert (part.stage, part.reason) == ("stale", "view/sales changed")
