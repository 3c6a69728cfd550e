"""Batches against the real catalog, files and answer(), with engines that fail in the middle."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import ASKER, DESK, SCOPE, SmallDesk
from tests.harness.stored_files import batch_jobs, file_store, request_batches

from antiphon.batch import batch_job, row_runner
from antiphon.batch.batch_job import BatchJobs
from antiphon.batch.estimates import Estimate, Estimates
from antiphon.batch.files import FileStore
from antiphon.batch.lines import RequestFileLimits
from antiphon.batch.request_batches import WORKFLOW, BatchOrder
from antiphon.catalog.batch.batch_work import BatchWork, EngineSupply, RowUsage, Sizes
from antiphon.catalog.batch.batches import Batch, Batches
from antiphon.catalog.batch.jobs import JobRow
from antiphon.catalog.database import Database
from antiphon.core.errors import BudgetExhaustedError, ConflictError, EngineError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.run import RunResult
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration, echo

SECRET = b"s" * 32
LINES = 40
CHAT = "/v1/chat/completions"


class FakeRun(msgspec.Struct):
    """A run's context: remembers what was said."""

    scope: Scope = SCOPE
    stopping: bool = False
    said: list[tuple[int, int | None, str]] = []

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        self.said.append((done, total, note))

    async def fenced(self, effect: Callable[[Any], Any]) -> Any:
        return await asyncio.to_thread(effect, None)


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    asked = {"model": "scripted", "messages": [{"role": "user", "content": f"say {custom_id}"}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def text(lines: list[Any]) -> bytes:
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


class Bench:
    """A small desk with files and batches."""

    def __init__(self, directory: Path, script: Any = echo) -> None:
        self.engine = ScriptedEngine(script)
        self.desk = SmallDesk(directory, self.engine)
        self.database = self.desk.database
        self.files = file_store(self.database, SECRET)
        self.orders = request_batches(self.database, self.files, SECRET)
        self.batches = Batches(self.database)

    def worker(self, answer: Callable[..., Any] | None = None, **options: Any) -> BatchJobs:
        answer = answer or self.desk.answerer.answer
        return batch_jobs(self.database, self.files, SECRET, answer, ("desk", "scripted"), **options)

    def upload(self, content: bytes) -> str:
        upload = self.files.begin(SCOPE, "ada")
        upload.write(content)
        return upload.keep("batch", "in.jsonl").id

    def order(self, lines: list[Any] | None = None, **fields: Any) -> Batch:
        content = text([line(f"r{number}") for number in range(LINES)] if lines is None else lines)
        order = BatchOrder(self.upload(content), **{"endpoint": CHAT, "completion_window": "24h", **fields})
        return self.orders.create(SCOPE, ASKER, order)

    async def work(self, batch: Batch, run: FakeRun | None = None, **options: Any) -> Batch:
        await self.worker(**options).run(run or FakeRun(), {"batch": batch.id})
        return self.batches.get(SCOPE, batch.id)

    def read(self, file: str | None) -> list[dict[str, Any]]:
        if file is None:
            return []
        with self.files.open(self.files.records.get(SCOPE, file)) as stream:
            return [json.loads(one) for one in stream.read().splitlines()]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty catalog; a copy of it costs less than its migrations."""
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('empty')}/catalog.db")
    database.migrate()
    database.close()
    return database.path


@pytest.fixture
def bench(tmp_path: Path, migrated: Path) -> Iterator[Bench]:
    shutil.copy(migrated, tmp_path / "catalog.db")
    made = Bench(tmp_path)
    yield made
    made.desk.close()


async def test_every_request_has_its_line_in_order_with_a_receipt(bench: Bench) -> None:
    batch = bench.order(metadata={"night": "1"})
    assert (batch.status, batch.metadata) == ("validating", {"night": "1"})
    run, under_way, most = FakeRun(), 0, 0

    async def answer(request: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await bench.desk.answerer.answer(request)
        finally:
            under_way -= 1

    ended = await bench.work(batch, run, answer=answer)
    assert (ended.status, ended.job.total, ended.job.rows_done, ended.job.rows_failed) == ("completed", LINES, LINES, 0)
    assert set(ended.moments) == {"in_progress_at", "finalizing_at", "completed_at"}
    assert (ended.error_file, ended.job.application) == (None, "scripted")
    rows = bench.read(ended.output_file)
    assert [row["custom_id"] for row in rows] == [f"r{number}" for number in range(LINES)]
    assert len({row["id"] for row in rows}) == LINES
    for row in rows:
        assert (row["error"], row["response"]["status_code"]) == (None, 200)
        body = row["response"]["body"]
        receipt = bench.desk.receipts.get(SCOPE, body["id"])
        assert (receipt.path, receipt.request) == ("batch", row["response"]["request_id"])
        assert bench.desk.blobs.get(SCOPE, receipt.text_blob).decode() == body["choices"][0]["message"]["content"]
    assert run.said[-1] == (LINES, LINES, "finalizing")
    assert 1 < most <= 4
    assert {request.priority for request in bench.engine.asked} == {"batch"}


async def test_the_releases_that_answer_are_kept_with_the_batch(bench: Bench) -> None:
    live = bench.desk.publish(msgspec.structs.replace(DESK, output_schema=None, guards=(), classes=()))
    entity = {"flight": "B6 1", "origin": "JFK"}
    ended = await bench.work(bench.order([line(f"r{number}", model="desk", entity=entity) for number in range(2)]))
    assert ended.job.rows_failed == 0, bench.read(ended.error_file)
    assert ended.job.releases == (live.id,)
    plain = await bench.work(bench.order([line("r0")]))
    assert plain.job.releases == (), "a plain model has no release that is kept"


async def test_what_is_wrong_with_one_request_is_its_answer_and_touches_no_other(bench: Bench) -> None:
    ended = await bench.work(bench.order([
        line("good"), line("stream", stream=True), line("odd", temprature=1), line("none", max_tokens=0),
        line("tool", tools=[]), line("also"),
    ]))  # fmt: skip
    assert (ended.status, ended.job.rows_done, ended.job.rows_failed) == ("completed", 6, 4)
    assert [row["custom_id"] for row in bench.read(ended.output_file)] == ["good", "also"]
    errors = {row["custom_id"]: row["response"] for row in bench.read(ended.error_file)}
    assert {name: response["body"]["error"]["param"] for name, response in errors.items()} == {
        "none": "max_tokens", "stream": "stream", "odd": "temprature", "tool": "tools"
    }  # fmt: skip
    assert {response["status_code"] for response in errors.values()} == {400}


async def test_a_fault_of_ours_fails_its_request_and_the_run_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(request: Any) -> Any:
        if "'say r3'" in str(request.messages):
            raise OverflowError("the bakery's secret")
        return await bench.desk.answerer.answer(request)

    run, batch = FakeRun(), bench.order()
    result = await bench.worker(answer).run(run, {"batch": batch.id})
    assert isinstance(result, RunResult)
    assert (result.status, result["status"]) == ("succeeded_with_failures", "completed")
    assert run.said[-1] == (LINES, LINES, f"1 of {LINES} rows failed")
    ended = bench.batches.get(SCOPE, batch.id)
    assert (ended.job.rows_done, ended.job.rows_failed) == (LINES, 1)
    (row,) = bench.read(ended.error_file)
    said = row["response"]["body"]["error"]
    assert (row["response"]["status_code"], said["code"]) == (500, "internal_error")
    assert said["message"].startswith("OverflowError was raised")
    assert "secret" not in json.dumps(row)
    (reference,) = re.findall(r"err_\w+", said["message"])
    assert f"{reference}: line 4 of {batch.id} fails" in caplog.text


async def test_bad_lines_fail_the_batch_and_are_named(bench: Bench) -> None:
    ended = await bench.work(bench.order([line("r0"), b"{", line("r2"), line("r0")]))
    assert ended.status == "failed"
    assert [(error.code, error.line) for error in ended.errors] == [
        ("invalid_json_line", 2), ("duplicate_custom_id", 4)
    ]  # fmt: skip
    assert (bench.engine.asked, ended.output_file, ended.error_file) == ([], None, None)
    assert set(ended.moments) == {"failed_at"}
    ended = await bench.work(bench.order([line("a", model="nobody")]))
    assert [(error.code, error.param) for error in ended.errors] == [("model_not_found", "body.model")]


async def test_blank_lines_are_no_requests(bench: Bench) -> None:
    ended = await bench.work(bench.order([b"", line("a"), b"  ", line("b")]))
    assert (ended.status, ended.job.total) == ("completed", 2)
    assert [row["custom_id"] for row in bench.read(ended.output_file)] == ["a", "b"]


async def test_a_file_that_is_not_what_was_uploaded_fails_the_batch(bench: Bench) -> None:
    batch = bench.order()
    (content,) = [path for path in (bench.database.path.parent / "files").rglob("*") if path.is_file()]
    content.write_bytes(content.read_bytes().replace(b"say r1", b"say r2"))
    assert [error.code for error in (await bench.work(batch)).errors] == ["file_changed"]
    again = bench.order([line("a")])
    [path.unlink() for path in (bench.database.path.parent / "files").rglob("*") if path.is_file()]
    assert [error.code for error in (await bench.work(again)).errors] == ["corrupt"]


async def test_a_batch_taken_over_answers_only_what_has_no_row(bench: Bench) -> None:
    batch = bench.order()
    first = bench.batches.take_over(SCOPE, batch.id)
    bench.batches.begin(SCOPE, batch.id, first, model="scripted", total=LINES)
    kept = JobRow(7, {"custom_id": "r7", "kept": True})
    bench.desk.jobs.write_rows(SCOPE, batch.id, first, [kept])
    ended = await bench.work(batch)
    assert len(bench.engine.asked) == LINES - 1
    assert bench.read(ended.output_file)[7] == kept.payload
    with pytest.raises(ConflictError):
        bench.desk.jobs.write_rows(SCOPE, batch.id, first, [JobRow(8, {})])


async def test_a_worker_that_lost_the_batch_writes_nothing_more(bench: Bench) -> None:
    batch, answered = bench.order(), 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 20:
            bench.batches.take_over(SCOPE, batch.id)
        return await bench.desk.answerer.answer(request)

    with pytest.raises(ConflictError):
        await bench.work(batch, answer=answer)
    assert bench.batches.get(SCOPE, batch.id).status == "in_progress"
    ended = await bench.work(batch)
    assert (ended.status, ended.job.rows_done) == ("completed", LINES)


async def test_an_engine_that_is_away_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    away = 0

    async def answer(request: Any) -> Any:
        nonlocal away
        if request.messages[0].content == "say r5" and away < 2:
            away += 1
            raise EngineError("It died.", where="engine")
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(bench.order(), answer=answer)
    assert (away, ended.status, ended.job.rows_failed) == (2, "completed", 0)
    monkeypatch.setattr(row_runner, "PATIENCE_SECONDS", 0.0)
    away, batch = 1, bench.order()
    with pytest.raises(EngineError):
        await bench.work(batch, answer=answer)
    left = bench.batches.get(SCOPE, batch.id)
    assert left.status == "in_progress", "the run is tried again"
    assert left.job.rows_done > 0, "what was answered is kept"


async def test_rows_that_a_budget_has_no_room_for_wait_and_say_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_runner, "BUDGET_SECONDS", 0.01)
    refused, run = 0, FakeRun(said=[])

    async def answer(request: Any) -> Any:
        nonlocal refused
        if request.messages[0].content == "say r5" and refused < 3:
            refused += 1
            raise BudgetExhaustedError("The budget desk-month has nothing left.", retry_after=3_600.0, where="budget")
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(bench.order(), run, answer=answer)
    assert (refused, ended.status, ended.job.rows_done, ended.job.rows_failed) == (3, "completed", LINES, 0)
    assert "waits: The budget desk-month has nothing left." in {note for _, _, note in run.said}


async def test_a_batch_that_waits_for_its_budget_can_be_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_runner, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(row_runner, "BUDGET_SECONDS", 0.01)
    monkeypatch.setattr(row_runner, "CANCEL_GRACE_SECONDS", 0.05)
    batch, refused = bench.order(), 0

    async def answer(request: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused == 20:
            bench.orders.cancel(SCOPE, batch.id, "ada")
        raise BudgetExhaustedError("The budget desk-month is zero.", retry_after=float("inf"), where="budget")

    async with asyncio.timeout(30):
        ended = await bench.work(batch, answer=answer)
    assert (ended.status, ended.job.rows_done) == ("cancelled", 0)


async def test_cancelling_ends_with_the_files_of_what_was_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runner, "CHECK_SECONDS", 0.0)
    batch, answered = bench.order(), 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 10:
            assert bench.orders.cancel(SCOPE, batch.id, "ada").status == "cancelling"
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(batch, answer=answer)
    assert ended.status == "cancelled"
    assert 10 <= ended.job.rows_done < LINES
    assert len(bench.read(ended.output_file)) == ended.job.rows_done
    assert {"cancelling_at", "cancelled_at"} <= set(ended.moments)
    assert not {"finalizing_at", "completed_at"} & set(ended.moments)
    with pytest.raises(ConflictError, match="cancelled"):
        bench.orders.cancel(SCOPE, batch.id, "ada")


async def test_a_batch_cancelled_before_it_began_has_no_files(bench: Bench) -> None:
    batch = bench.order()
    bench.orders.cancel(SCOPE, batch.id, "ada")
    ended = await bench.work(batch)
    assert (ended.status, ended.output_file, ended.error_file, ended.job.total) == ("cancelled", None, None, None)
    assert bench.engine.asked == []


async def test_requests_under_way_end_within_the_grace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runner, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(row_runner, "CANCEL_GRACE_SECONDS", 0.2)
    never, batch = asyncio.Event(), bench.order()

    async def answer(request: Any) -> Any:
        if request.messages[0].content == "say r3":
            bench.orders.cancel(SCOPE, batch.id, "ada")
            await never.wait()
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(batch, answer=answer)
    assert ended.status == "cancelled"
    assert "r3" not in [row["custom_id"] for row in bench.read(ended.output_file)]


async def test_a_large_batch_is_cancelled_at_once_and_keeps_what_was_done(bench: Bench) -> None:
    batch = bench.order([line(f"r{number}") for number in range(3_000)])
    never, answered, cancelled = asyncio.Event(), 0, 0.0

    async def answer(request: Any) -> Any:
        nonlocal answered, cancelled
        answered += 1
        if answered > 100:
            # As beside online load: what is under way takes longer than anybody waits.
            if not cancelled:
                bench.orders.cancel(SCOPE, batch.id, "ada")
                cancelled = asyncio.get_running_loop().time()
            await never.wait()
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(batch, answer=answer, limits=RequestFileLimits(5_000, 10_000))
    assert asyncio.get_running_loop().time() - cancelled < 10.0, "not the minute that expiry would give"
    assert (ended.status, ended.job.rows_done) == ("cancelled", 100)
    assert len(bench.read(ended.output_file)) == 100


async def test_expiry_ends_with_the_files_of_what_was_done_and_an_error_for_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_runner, "CHECK_SECONDS", 0.0)
    batch, answered = bench.order(), 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 10:
            bench.desk.clock.advance(timedelta(hours=24))
        return await bench.desk.answerer.answer(request)

    ended = await bench.work(batch, answer=answer)
    assert (ended.status, ended.job.rows_done) == ("expired", LINES)
    done, left = bench.read(ended.output_file), bench.read(ended.error_file)
    assert 10 <= len(done) < LINES
    assert {row["error"]["code"] for row in left} == {"batch_expired"}
    assert sorted(row["custom_id"] for row in done + left) == sorted(f"r{number}" for number in range(LINES))
    assert {"finalizing_at", "expired_at"} <= set(ended.moments)


@pytest.mark.parametrize(("left", "ahead"), [(timedelta(hours=1), False), (timedelta(minutes=1), True)])
async def test_requests_of_a_batch_whose_time_runs_out_go_ahead_in_the_engine(
    bench: Bench, left: timedelta, ahead: bool
) -> None:
    batch = bench.order([line("plain"), line("tier", service_tier="flex")])
    bench.desk.clock.advance(timedelta(hours=24) - left)
    assert (await bench.work(batch)).status == "completed"
    assert {(request.priority, request.ahead) for request in bench.engine.asked} == {("batch", ahead)}


async def test_a_crash_before_each_commit_leaves_a_batch_that_another_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, crash in ((Batches, "begin"), (Batches, "settle"), (FileStore, "add_made"), (Batches, "finish")):
        await crashed(bench, owner, crash, monkeypatch)
    assert len(bench.files.records.list(SCOPE, after=None, limit=99, order="asc", purpose="batch_output")) == 8


async def crashed(bench: Bench, owner: type, crash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = bench.order([line("a"), line("b", stream=True)])
    whole = getattr(owner, crash)

    def dies(*arguments: Any, **named: Any) -> Any:
        whole(*arguments, **named)
        raise KeyboardInterrupt("killed before the commit")

    with monkeypatch.context() as patch:
        patch.setattr(owner, crash, dies)
        with pytest.raises(BaseException, match="killed"):
            await bench.work(batch)
    ended = await bench.work(batch)
    assert (ended.status, ended.job.rows_done, ended.job.rows_failed) == ("completed", 2, 1)
    assert [row["custom_id"] for row in bench.read(ended.output_file) + bench.read(ended.error_file)] == ["a", "b"]


async def test_a_worker_that_stops_gives_the_batch_back_with_what_it_has(bench: Bench) -> None:
    run, batch, answered = FakeRun(), bench.order(), 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        run.stopping = answered > 20
        return await bench.desk.answerer.answer(request)

    with pytest.raises(asyncio.CancelledError):
        await bench.work(batch, run, answer=answer)
    assert 10 <= bench.batches.get(SCOPE, batch.id).job.rows_done < LINES
    assert (await bench.work(batch)).status == "completed"


async def test_a_batch_that_had_its_time_goes_behind_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_runner, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(batch_job, "SLICE_SECONDS", 0.0)
    batch = bench.order()
    with pytest.raises(asyncio.CancelledError):
        await bench.work(batch, waiting=lambda: True)
    assert (await bench.work(batch, waiting=lambda: False)).status == "completed"


async def test_a_file_that_a_batch_reads_stays_until_it_ends(bench: Bench) -> None:
    batch = bench.order([line("a")])
    with pytest.raises(ConflictError, match=batch.id):
        bench.files.delete(SCOPE, batch.input_file, "ada")
    bench.desk.clock.advance(timedelta(days=31))
    assert bench.files.expire() == 0
    with pytest.raises(NotFoundError):
        bench.files.records.get(SCOPE, batch.input_file)
    assert (await bench.work(batch)).status == "expired", "its window is over, its file is not gone"
    assert bench.files.expire() == 1


async def test_deleting_an_output_takes_the_content_of_its_rows_too(bench: Bench) -> None:
    ended = await bench.work(bench.order([line("a"), line("b", stream=True)]))
    assert ended.output_file is not None
    bench.files.delete(SCOPE, ended.output_file, "ada")
    rows = list(bench.desk.jobs.rows(SCOPE, ended.id))
    assert rows[0].payload == {}
    assert rows[1].payload["custom_id"] == "b", "the error file is there still"
    kept = bench.batches.get(SCOPE, ended.id)
    assert (kept.job.rows_done, kept.job.rows_failed) == (2, 1)


async def test_output_files_stay_as_long_as_was_asked(bench: Bench) -> None:
    ended = await bench.work(bench.order([line("a")], output_seconds=3_600))
    assert ended.output_file is not None
    file = bench.files.records.get(SCOPE, ended.output_file)
    assert file.expires_at == file.created_at + timedelta(hours=1)
    assert (file.purpose, file.filename) == ("batch_output", f"{ended.id}_output.jsonl")
    bench.desk.clock.advance(timedelta(hours=1))
    assert bench.files.expire() == 1
    assert [row.payload for row in bench.desk.jobs.rows(SCOPE, ended.id)] == [{}]


def test_an_order_that_cannot_be_is_refused_by_name(bench: Bench) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, f"metadata.{'k' * 64}"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"output_seconds": 60}, "output_expires_after.seconds"),
    ]
    for fields, where in wrong:
        with pytest.raises(InvalidInputError) as refused:
            bench.order([line("a")], **fields)
        assert refused.value.where == where
    assert bench.orders.records.list(SCOPE, after=None, limit=9) == []
    assert bench.desk.runs.list(SCOPE, workflow=WORKFLOW) == []


async def test_an_applications_name_is_a_model(bench: Bench) -> None:
    ask = {"model": "desk", "entity": {"flight": "B6 1", "origin": "JFK"}}
    bench.engine._script = lambda request: ScriptedGeneration(
        json.dumps({"outlook": "on_time", "notice": "All is well."})
    )
    ended = await bench.work(bench.order([line("a", **ask), line("b", **ask | {"entity": {}})]))
    assert (ended.status, ended.job.rows_failed) == ("completed", 1)
    (answer,) = bench.read(ended.output_file)
    assert answer["response"]["body"]["antiphon"]["release"] == bench.desk.release.id


async def test_requests_that_begin_alike_are_asked_one_after_another(bench: Bench) -> None:
    """Lines of three long system prompts take turns in the file, and not in the engine."""
    system = [f"You are assistant {number}. " * 30 for number in range(3)]
    lines = [
        line(
            f"r{number}", messages=[{"role": "system", "content": system[number % 3]}, {"role": "user", "content": "?"}]
        )
        for number in range(30)
    ]
    ended = await bench.work(bench.order(lines), concurrency=1)
    asked = [next(at for at, text in enumerate(system) if text in request.prompt) for request in bench.engine.asked]
    assert sum(1 for before, after in pairwise(asked) if before != after) == 2
    assert [row["custom_id"] for row in bench.read(ended.output_file)] == [f"r{number}" for number in range(30)]


def measured(bench: Bench, rate: float) -> None:
    """What earlier batch work took and got: a second of the engine a row."""
    work, now = BatchWork(bench.database), bench.database.clock.now()
    past = bench.desk.jobs.create(
        SCOPE, application="scripted", release=None, input="", output="", principal="ada", kind="openai"
    )
    work.declare(SCOPE, past.id, "openai/scripted", Sizes(100, 900, 900, 1_600), None)
    work.used(SCOPE, past.id, RowUsage(100, 900, 12_800, 900, 0, 800, 100.0))
    bench.desk.jobs.set_status(SCOPE, past.id, "completed")
    began = now.timestamp() // 300 * 300
    for bucket in range(12):
        work.supply(SCOPE, "worker", EngineSupply(began - 300.0 * bucket, 300.0, 300.0 * rate))


async def test_what_cannot_have_ended_in_time_is_refused_unless_that_was_accepted(bench: Bench) -> None:
    measured(bench, rate=0.0001)  # a row in about three hours
    ended = await bench.work(bench.order())
    assert ended.status == "failed"
    (error,) = ended.errors
    assert (error.code, error.param) == ("completion_window_too_short", "completion_window")
    assert "accept_late" in error.message
    assert bench.engine.asked == []
    assert (await bench.work(bench.order(accept_late=True))).status == "completed"


async def test_an_estimate_comes_from_what_was_measured_and_shrinks_with_the_work(bench: Bench) -> None:
    measured(bench, rate=0.5)
    batch, estimates = bench.order(), Estimates(BatchWork(bench.database), SCOPE, bench.database.clock)
    seen: list[Estimate] = []

    async def answer(request: Any) -> Any:
        if len(bench.engine.asked) in (2, 30):
            fresh = Estimates(BatchWork(bench.database), SCOPE, bench.database.clock)
            seen.append(fresh.of("default", [batch.id])[batch.id])
        return await bench.desk.answerer.answer(request)

    assert estimates.of("default", [batch.id]) == {}, "its file was not looked at yet"
    await bench.work(batch, answer=answer, concurrency=1)
    first, last = seen[0], seen[-1]
    now = bench.database.clock.now()
    assert (first.rows, 0 < last.rows < LINES) == (LINES, True)
    assert 40 < (first.ends_at - now).total_seconds() < 160, "40 rows of a second, at half of the engine"
    assert first.earliest < first.ends_at < first.latest
    assert last.ends_at < first.ends_at
    assert first.late == "no"
    assert estimates.of("default", [batch.id]) == {}, "it has ended"


async def test_what_rows_took_and_got_is_kept(bench: Bench) -> None:
    batch = await bench.work(bench.order())
    looked = BatchWork(bench.database).look(SCOPE)
    ((alike, usage),) = looked.usages
    assert (alike, usage.rows) == ("openai/scripted", LINES)
    assert min(usage.prompt_tokens, usage.output_tokens, usage.prompt_bytes) > 0
    assert BatchWork(bench.database).usage(SCOPE, [batch.id])[batch.id] == usage
