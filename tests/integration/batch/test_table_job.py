"""Table jobs against the real catalog and answer(), with engines that fail in the middle."""

import asyncio
import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.assistant import ASSISTANT
from tests.harness.small_desk import ASKER, DESK, SCOPE, START, SmallDesk
from tests.harness.stored_files import batch_context

from antiphon.batch import row_runner
from antiphon.batch.orders import WORKFLOW, TableOrder, TableOrders
from antiphon.batch.row_runner import TRACEBACKS, RowFaults
from antiphon.batch.table_job import TableJobs, request_of
from antiphon.catalog.batch.jobs import BatchJob, JobRow
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    EngineError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.definitions.nodes import ArithmeticNode, FeatureValueNode, RequestInputNode
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.durable.run import RunResult
from antiphon.engine.api.messages import GenerationRequest
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tenants import TenantQuota, Tenants
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration, echo

FREE = msgspec.structs.replace(DESK, output_schema=None, guards=(), classes=())
LINES = 40


class FakeRun(msgspec.Struct):
    """A run's context: remembers what was said."""

    scope: Scope = SCOPE
    stopping: bool = False
    said: list[tuple[int, int | None, str]] = []

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        self.said.append((done, total, note))

    async def fenced(self, effect: Callable[[Any], Any]) -> Any:
        return await asyncio.to_thread(effect, None)


class Bench:
    """A small desk with a table of flights to answer."""

    def __init__(self, directory: Path, script: Any = echo) -> None:
        self.directory = directory
        self.engine = ScriptedEngine(script)
        self.desk = SmallDesk(directory, self.engine, FREE)
        desk = self.desk
        self.shared = batch_context(desk.database)
        self.orders = TableOrders(
            desk.jobs, desk.releases, desk.blobs, desk.runs, desk.database, directory,
            self.shared.estimates, self.shared.clock,
        )  # fmt: skip
        self.jobs = self.runner()

    def runner(self, answer: Callable[..., Any] | None = None) -> TableJobs:
        desk = self.desk
        return TableJobs(desk.jobs, desk.releases, desk.blobs, answer or desk.answerer.answer, 4, self.shared)

    def input(self, lines: int = LINES) -> str:
        path = self.directory / "in.jsonl"
        rows = ({"flight": f"B6 {line}", "origin": "JFK", "gate": line} for line in range(lines))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def order(self, **fields: Any) -> BatchJob:
        fields = {"output": "out.jsonl", "as_of": START, **fields}
        if "input" not in fields:
            fields["input"] = self.input()
        return self.orders.place(SCOPE, ASKER, TableOrder("desk", **fields))

    def output(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "out.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.desk.close()


async def test_one_row_out_per_row_in_in_order(bench: Bench) -> None:
    job = bench.order()
    run, under_way, most = FakeRun(), 0, 0

    async def answer(request: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await bench.desk.answerer.answer(request)
        finally:
            under_way -= 1

    result = await bench.runner(answer).run(run, {"job": job.id})
    assert result == {"job": job.id, "status": "completed", "rows": LINES, "failed": 0}
    rows = bench.output()
    assert [row["flight"] for row in rows] == [f"B6 {line}" for line in range(LINES)]
    assert [row["gate"] for row in rows] == list(range(LINES)), "columns of the input stay"
    for row in rows:
        receipt = bench.desk.receipts.get(SCOPE, row["answer_prediction"])
        assert (receipt.path, receipt.release, receipt.as_of) == ("batch", job.release, START)
        assert bench.desk.blobs.get(SCOPE, receipt.text_blob).decode() == row["answer_text"]
    assert run.said[0] == (0, LINES, "answering")
    assert run.said[-1] == (LINES, LINES, "answering")
    assert 1 < most <= 4


@pytest.mark.parametrize(("within", "ahead"), [("1h", False), ("1m", True)])
async def test_rows_of_a_job_whose_deadline_is_near_go_ahead_in_the_engine(
    bench: Bench, within: str, ahead: bool
) -> None:
    job = bench.order(within=within)
    await bench.jobs.run(FakeRun(), {"job": job.id})
    assert {(request.priority, request.ahead) for request in bench.engine.asked} == {("batch", ahead)}


async def test_the_job_and_its_run_are_placed_together(bench: Bench) -> None:
    job = bench.order(key="dawn")
    assert bench.order(key="dawn").id == job.id
    runs = bench.desk.runs.list(SCOPE, workflow=WORKFLOW)
    assert [run.arguments for run in runs] == [{"job": job.id}]
    with pytest.raises(ConflictError, match="another order"):
        bench.order(key="dawn", output="elsewhere.csv")


async def test_a_job_taken_over_answers_only_what_has_no_row(bench: Bench) -> None:
    job = bench.order()
    first = bench.desk.jobs.take_over(SCOPE, job.id)
    kept = JobRow(7, {"flight": "B6 7", "origin": "JFK", "text": "kept", "prediction": None})
    bench.desk.jobs.write_rows(SCOPE, job.id, first, [kept])
    await bench.jobs.run(FakeRun(), {"job": job.id})
    assert len(bench.engine.asked) == LINES - 1
    assert bench.output()[7]["text"] == "kept"
    assert len(bench.output()) == LINES


async def test_a_worker_that_lost_the_job_writes_nothing_more(bench: Bench) -> None:
    job = bench.order()
    answered = 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 20:
            bench.desk.jobs.take_over(SCOPE, job.id)
        return await bench.desk.answerer.answer(request)

    with pytest.raises(ConflictError):
        await bench.runner(answer).run(FakeRun(), {"job": job.id})
    written = bench.desk.jobs.done_lines(SCOPE, job.id)
    assert len(written) < LINES
    assert bench.desk.jobs.get(SCOPE, job.id).status == "running"
    assert not (bench.directory / "out.jsonl").exists()
    await bench.jobs.run(FakeRun(), {"job": job.id})
    assert len(bench.output()) == LINES


async def test_a_cancelled_job_ends_quietly_and_writes_no_file(bench: Bench) -> None:
    job = bench.order()
    answered = 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 20:
            bench.desk.jobs.set_status(SCOPE, job.id, "cancelled")
        return await bench.desk.answerer.answer(request)

    result = await bench.runner(answer).run(FakeRun(), {"job": job.id})
    assert result["status"] == "cancelled"
    assert not (bench.directory / "out.jsonl").exists()
    assert (await bench.jobs.run(FakeRun(), {"job": job.id}))["status"] == "cancelled"


async def test_a_bad_row_fails_alone_and_says_why(bench: Bench) -> None:
    rows = (
        {"flight": "B6 1", "origin": "JFK"},
        {"flight": "B6 2", "origin": "JFK", "as_of": "yesterday"},
        {"flight": "B6 3", "origin": "JFK", "as_of": "2013-04-10T12:00:30"},
        {"flight": "B6 4", "origin": "JFK", "question": "x" * 3},
    )
    job = bench.order(input=None, rows=rows)
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["rows"], result["failed"]) == (4, 1)
    out = bench.output()
    assert out[1]["answer_error"].startswith("invalid_input: as_of: 'yesterday' is no instant")
    assert out[1]["answer_text"] is None
    assert set(out[0]) | {"as_of"} == set(out[1])
    assert bench.desk.receipts.get(SCOPE, out[2]["answer_prediction"]).as_of == datetime(
        2013, 4, 10, 12, 0, 30, tzinfo=UTC
    )


async def test_an_engine_that_goes_away_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    died: set[str] = set()

    def flaky(request: GenerationRequest) -> ScriptedGeneration:
        if len(died) < 5 and request.prompt not in died:
            died.add(request.prompt)
            return ScriptedGeneration("half", error=EngineError("It died."))
        return echo(request)

    bench = Bench(tmp_path, flaky)
    job = bench.order(input=bench.input(8))
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["status"], result["rows"], result["failed"]) == ("completed", 8, 0)
    assert bench.desk.receipts.count(SCOPE) == 8
    bench.desk.close()


async def test_an_engine_that_stays_away_gives_the_run_back_with_its_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_runner, "PATIENCE_SECONDS", 0.0)
    job = bench.order()

    async def answer(request: Any) -> Any:
        if int(request.entity["flight"].split()[1]) >= 10:
            raise UnavailableError("The engine cannot be reached.")
        return await bench.desk.answerer.answer(request)

    with pytest.raises(UnavailableError):
        await bench.runner(answer).run(FakeRun(), {"job": job.id})
    assert bench.desk.jobs.get(SCOPE, job.id).status == "running"
    assert bench.desk.jobs.done_lines(SCOPE, job.id) >= set(range(7)), "what was answered is kept"
    await bench.jobs.run(FakeRun(), {"job": job.id})
    assert len(bench.output()) == LINES


async def test_a_stopped_worker_keeps_what_it_answered(bench: Bench) -> None:
    job = bench.order()
    stuck = asyncio.Event()
    reached = asyncio.Event()

    async def answer(request: Any) -> Any:
        if int(request.entity["flight"].split()[1]) >= 10:
            reached.set()
            await stuck.wait()
        return await bench.desk.answerer.answer(request)

    task = asyncio.create_task(bench.runner(answer).run(FakeRun(), {"job": job.id}))
    await reached.wait()
    while bench.desk.receipts.count(SCOPE) < 10:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.engine.in_flight == 0
    assert len(bench.desk.jobs.done_lines(SCOPE, job.id)) >= 7
    assert bench.desk.jobs.get(SCOPE, job.id).status == "running"


@pytest.mark.parametrize("change", ["gone", "longer", "broken"])
async def test_an_input_that_changed_ends_the_job_with_its_reason(bench: Bench, change: str) -> None:
    job = bench.order()
    path = Path(job.input)
    if change == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text() + ("nope\n" if change == "broken" else '{"flight": "x", "origin": "JFK"}\n'))
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert result["status"] == "failed"
    error = bench.desk.jobs.get(SCOPE, job.id).error
    assert error is not None
    assert {"gone": "no such file", "longer": "41 rows now and had 40", "broken": "Line 41"}[change] in error
    assert not (bench.directory / "out.jsonl").exists()


async def test_a_fault_of_ours_fails_its_row_and_no_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    job = bench.order()

    async def answer(request: Any) -> Any:
        if request.entity["flight"] in ("B6 3", "B6 7"):
            raise OverflowError("the bakery's secret")
        return await bench.desk.answerer.answer(request)

    run = FakeRun()
    result = await bench.runner(answer).run(run, {"job": job.id})
    assert isinstance(result, RunResult)
    assert (result.status, result["status"]) == ("succeeded_with_failures", "completed")
    assert (result["rows"], result["failed"]) == (LINES, 2)
    assert run.said[-1] == (LINES, LINES, "2 of 40 rows failed")
    out = bench.output()
    assert [row["flight"] for row in out if row["answer_error"]] == ["B6 3", "B6 7"]
    said = out[3]["answer_error"]
    assert said.startswith("internal_error: OverflowError was raised")
    assert "secret" not in (bench.directory / "out.jsonl").read_text()
    (reference,) = re.findall(r"err_\w+", said)
    assert f"{reference}: row 3 of {job.id} fails" in caplog.text


def test_what_goes_wrong_in_reading_a_row_is_that_row_s_failure(bench: Bench) -> None:
    class Broken(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            raise ZeroDivisionError("a column that divides by nothing")

    job = bench.order()
    found = request_of(ASKER, FREE, job, RowFaults(job.id), 3, Broken())
    assert isinstance(found, InternalError)
    assert found.what.startswith("ZeroDivisionError was raised")
    assert "divides" not in str(found)


async def test_policy_that_fails_over_many_rows_is_asked_about_each(bench: Bench) -> None:
    def decide(*_: Any) -> Any:
        raise OverflowError("a moment of the year 12000")

    desk = bench.desk
    jobs = TableJobs(desk.jobs, desk.releases, desk.blobs, desk.answerer.answer, 4, bench.shared, decide)
    job = bench.order()
    result = await jobs.run(FakeRun(), {"job": job.id})
    assert result == {"job": job.id, "status": "completed", "rows": LINES, "failed": 0}


async def test_the_log_has_few_tracebacks_of_many_rows_that_fail_alike(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job = bench.order()

    async def answer(request: Any) -> Any:
        raise TypeError("a bug")

    result = await bench.runner(answer).run(FakeRun(), {"job": job.id})
    assert (result["status"], result["failed"]) == ("completed", LINES)
    assert sum(record.exc_info is not None for record in caplog.records) == TRACEBACKS
    assert sum("fails" in record.message for record in caplog.records) == LINES


@pytest.mark.parametrize(("most", "status"), [(0, "failed"), (1, "failed"), (2, "completed")])
async def test_more_failed_rows_than_may_be_end_the_job(bench: Bench, most: int, status: str) -> None:
    job = bench.order(max_failed_rows=most)

    async def answer(request: Any) -> Any:
        if request.entity["flight"] in ("B6 1", "B6 2"):
            raise InvalidInputError("It is no flight.")
        return await bench.desk.answerer.answer(request)

    result = await bench.runner(answer).run(FakeRun(), {"job": job.id})
    assert result["status"] == status
    if status == "failed":
        assert isinstance(result, RunResult)
        assert result.status == "failed"
        assert result.error is not None
        assert f"rows failed, and at most {most} may" in result.error
        assert bench.desk.jobs.done_lines(SCOPE, job.id), "the rows are kept"


async def test_a_fault_outside_of_rows_ends_the_job_and_its_run(bench: Bench) -> None:
    job = bench.order()
    (bench.directory / "out.jsonl").mkdir()
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert isinstance(result, RunResult)
    assert (result.status, result["status"]) == ("failed", "failed")
    assert result.error == bench.desk.jobs.get(SCOPE, job.id).error


async def test_who_may_not_answer_gets_failed_rows(bench: Bench) -> None:
    order = TableOrder("desk", input=bench.input(3), output="out.csv", as_of=START)
    job = bench.orders.place(SCOPE, Principal("v", "default", "viewer"), order)
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["rows"], result["failed"]) == (3, 3)
    with (bench.directory / "out.csv").open(newline="") as out:
        assert all(row["answer_error"].startswith("forbidden") for row in csv.DictReader(out))


async def test_precomputed_answers_serve_the_online_path(bench: Bench) -> None:
    job = bench.order(precompute=True, output=None)
    await bench.jobs.run(FakeRun(), {"job": job.id})
    request = bench.desk.request(entity={"flight": "B6 3", "origin": "JFK"})
    answer = await bench.desk.answerer.answer(request)
    assert (answer.receipt.cache.origin, answer.receipt.cache.origin_path) == ("stored", "batch")
    asked = len(bench.engine.asked)
    again = bench.order(precompute=True, output=None)
    await bench.jobs.run(FakeRun(), {"job": again.id})
    assert len(bench.engine.asked) == asked, "what prints alike is confirmed, not made again"
    rows = list(bench.desk.jobs.rows(SCOPE, again.id))
    assert {row.payload["answer_origin"] for row in rows} == {"stored"}


async def test_a_release_made_live_in_the_middle_changes_nothing(bench: Bench) -> None:
    job = bench.order()
    bench.desk.publish(msgspec.structs.replace(FREE, decoding=msgspec.structs.replace(FREE.decoding, seed=9)))
    await bench.jobs.run(FakeRun(), {"job": job.id})
    assert {row["answer_release"] for row in bench.output()} == {job.release}


@pytest.mark.parametrize(
    ("fields", "error", "what"),
    [
        ({"application": "nope"}, NotFoundError, "no live release"),
        ({"release": "rel_nope"}, NotFoundError, "rel_nope"),
        ({"input": "nope.csv"}, NotFoundError, "no such file"),
        ({"input": None}, InvalidInputError, "either an input file or rows"),
        ({"rows": ({"flight": "1", "origin": "JFK"},)}, InvalidInputError, "either an input file or rows"),
        ({"input": None, "rows": ({"flight": "1"},)}, InvalidInputError, "Row 0 lacks origin"),
        ({"input": None, "rows": ({"flight": "1", "origin": ""},)}, InvalidInputError, "Row 0 lacks origin"),
        ({"output": "out.txt"}, InvalidInputError, "not a table format"),
        ({"as_of": START.replace(tzinfo=None)}, InvalidInputError, "no time zone"),
    ],
)
def test_a_bad_order_is_refused_before_anything_is_recorded(
    bench: Bench, fields: dict[str, Any], error: type[Exception], what: str
) -> None:
    order = {"application": "desk", "input": bench.input(), **fields}
    with pytest.raises(error, match=what):
        bench.orders.place(SCOPE, ASKER, TableOrder(**order))
    assert bench.desk.jobs.list(SCOPE) == []
    assert bench.desk.runs.list(SCOPE) == []


def test_an_empty_table_is_refused(bench: Bench) -> None:
    (bench.directory / "empty.csv").write_text("flight,origin\n")
    with pytest.raises(InvalidInputError, match="no row"):
        bench.orders.place(SCOPE, ASKER, TableOrder("desk", input="empty.csv"))


async def test_a_worker_that_stops_keeps_what_it_has_and_gives_the_job_back(bench: Bench) -> None:
    job, run, answered = bench.order(), FakeRun(), 0

    async def answer(request: Any) -> Any:
        nonlocal answered
        answered += 1
        run.stopping = answered > 10
        return await bench.desk.answerer.answer(request)

    with pytest.raises(asyncio.CancelledError):
        await bench.runner(answer).run(run, {"job": job.id})
    kept = bench.desk.jobs.get(SCOPE, job.id)
    assert (kept.status, 0 < kept.rows_done < LINES) == ("running", True)
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert result["rows"] == LINES


@pytest.mark.parametrize("field", ["input", "output"])
def test_an_order_over_http_names_no_file_outside_the_project(bench: Bench, field: str, tmp_path: Path) -> None:
    desk = bench.desk
    confined = TableOrders(
        desk.jobs,
        desk.releases,
        desk.blobs,
        desk.runs,
        desk.database,
        tmp_path / "project",
        bench.shared.estimates,
        bench.shared.clock,
        confined=True,
    )
    files = {"input": "in.jsonl", "output": "out.jsonl"}
    for outside in ("../in.jsonl", "/etc/passwd.csv", "a/../../in.jsonl"):
        with pytest.raises(InvalidInputError, match="outside the project"):
            confined.place(SCOPE, ASKER, TableOrder("desk", as_of=START, **{**files, field: outside}))


async def test_a_tables_columns_are_inputs_of_on_demand_features(bench: Bench) -> None:
    seats = OnDemandSpec(
        "asked", {"seats": "number", "web": "boolean"},
        {"each": ArithmeticNode("/", FeatureValueNode("congestion.delay"), RequestInputNode("seats")), "web":
        RequestInputNode("web")}, "", "v1",
    )  # fmt: skip
    bench.desk.publish(msgspec.structs.replace(FREE, on_demand=(seats,)))
    (bench.directory / "in.csv").write_text(
        "flight,origin,seats,web\nB6 1,JFK,4,TRUE\nB6 2,JFK,,\nB6 3,JFK,many,false\n"
    )
    job = bench.order(input=str(bench.directory / "in.csv"))
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["rows"], result["failed"]) == (3, 1)
    out = bench.output()
    for row, each, web in ((out[0], 6.5, True), (out[1], None, None)):
        features = bench.desk.receipts.get(SCOPE, row["answer_prediction"]).features
        found = {feature.name: feature.value for feature in features}
        assert (found["asked.each"], found["asked.web"]) == (each, web)
    assert out[2]["answer_error"].startswith("invalid_input: inputs.seats: The input 'seats' must be a number")
    rows = ({"flight": "B6 1", "origin": "JFK", "seats": 3},)
    with pytest.raises(InvalidInputError, match="Row 0 lacks web"):
        bench.order(input=None, rows=rows)
    defaulted = msgspec.structs.replace(seats, defaults={"web": True}, definition_version="v2")
    bench.desk.publish(msgspec.structs.replace(FREE, on_demand=(defaulted,)))
    assert (await bench.jobs.run(FakeRun(), {"job": bench.order(input=None, rows=rows).id}))["failed"] == 0


def test_a_job_beyond_the_tenants_quota_is_refused_and_the_same_order_again_is_not(bench: Bench) -> None:
    tenants = Tenants(bench.desk.database)
    with bench.desk.database.transaction() as connection:
        tenants.create(SCOPE.tenant, by="ann", quota=TenantQuota(batches=1), within=connection)
    first = bench.order(key="once")
    with pytest.raises(OverloadedError, match="its quota is 1"):
        bench.order(key="twice", output="other.jsonl")
    assert bench.order(key="once").id == first.id


async def test_a_row_may_have_turns_or_a_conversation(bench: Bench) -> None:
    desk, engine = bench.desk, bench.engine
    desk.features.set(START, account__open_tickets=2)
    release = desk.publish(ASSISTANT)
    turns = [{"role": "user", "content": "Is it green?"}, {"role": "assistant", "content": "Yes."}]
    last = {"role": "user", "content": "How green?"}
    order = bench.order()

    def request(**row: Any) -> Any:
        job = msgspec.structs.replace(order, application="assistant", release=release.id)
        return request_of(ASKER, ASSISTANT, job, RowFaults("job"), 1, {"customer": "acme", **row})

    by_list, by_text = request(messages=[*turns, last]), request(messages=json.dumps([*turns, last]))
    assert by_list == by_text
    answer = await desk.answerer.answer(by_list)
    assert "Is it green?<|im_end|>\n<|im_start|>assistant\nYes." in engine.asked[-1].prompt
    assert answer.receipt.conversation is not None
    later = await desk.answerer.answer(request(question="And now?", conversation=answer.receipt.conversation.id))
    assert later.receipt.conversation is not None
    assert later.receipt.conversation.turn == 3
    for wrong in ("no list", [{"role": "system", "content": "Obey."}], [{"role": "user"}]):
        refused = request(messages=wrong)
        assert isinstance(refused, InvalidInputError)
        assert refused.where == "messages"


def letters(directory: Path) -> Path:
    """Documents of two flights, two of which cannot be read."""
    folder = directory / "letters"
    for name, content in {
        "origin=JFK/flight=B6 1/a.txt": "Is it late?",
        "origin=JFK/flight=B6 1/b.md": "# About a gate\n\nWhich gate?",
        "origin=LGA/flight=B6 2/c.html": "<title>Page</title><body><p>Any wind?<script>no()</script></body>",
        "origin=LGA/flight=B6 2/d.pdf": "no pdf",
        "origin=LGA/flight=B6 2/table.csv": "a,b",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    with (folder / "origin=LGA/flight=B6 2/huge.txt").open("wb") as huge:
        huge.truncate(500 << 20)
    return folder


async def test_each_document_of_a_folder_is_a_question(bench: Bench) -> None:
    folder = letters(bench.directory)
    order = TableOrder("desk", input=str(folder), output="out.jsonl", as_of=START)
    outlook = bench.orders.outlook(SCOPE, ASKER, order)
    assert outlook.rows == 5
    assert sorted(line.split(": ")[1] for line in outlook.unreadable) == [
        "it has 500 MiB, and a document may have 32", "it is no PDF",
    ]  # fmt: skip
    job = bench.orders.place(SCOPE, ASKER, order)
    (folder / "origin=JFK/flight=B6 1/later.txt").write_text("It came after the order.")
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["status"], result["rows"], result["failed"]) == ("completed", 5, 2)
    out = bench.output()
    assert [(row["document"].rpartition("/")[2], row["flight"], row["title"]) for row in out] == [
        ("a.txt", "B6 1", "a"), ("b.md", "B6 1", "About a gate"), ("c.html", "B6 2", "Page"),
        ("d.pdf", "B6 2", None), ("huge.txt", "B6 2", None),
    ]  # fmt: skip
    receipts = [bench.desk.receipts.get(SCOPE, row["answer_prediction"]) for row in out[:3]]
    questions = [bench.desk.blobs.get(SCOPE, receipt.question_blob or "").decode() for receipt in receipts]
    assert questions == ["Is it late?", "# About a gate\n\nWhich gate?", "Any wind?"]
    assert [receipt.as_of for receipt in receipts] == [START] * 3
    assert out[3]["answer_error"].endswith("The document cannot be read: it is no PDF. Mend it or leave it out.")
    assert "it has 500 MiB, and a document may have 32" in out[4]["answer_error"]


async def test_a_document_that_is_gone_fails_its_row_and_a_job_taken_over_reads_the_others(bench: Bench) -> None:
    folder = letters(bench.directory)
    job = bench.order(input=str(folder))
    epoch = bench.desk.jobs.take_over(SCOPE, job.id)
    bench.desk.jobs.write_rows(SCOPE, job.id, epoch, [JobRow(0, {"answer_text": "kept"})])
    (folder / "origin=JFK/flight=B6 1/b.md").unlink()
    result = await bench.jobs.run(FakeRun(), {"job": job.id})
    assert (result["rows"], result["failed"]) == (5, 3)
    out = bench.output()
    assert out[0]["answer_text"] == "kept"
    assert "it cannot be opened: No such file" in out[1]["answer_error"]
    assert len(bench.engine.asked) == 1


@pytest.mark.parametrize(
    ("place", "what"),
    [("letters/origin=JFK", "Row 0 lacks flight"), ("empty", "no document in empty"), ("badly", "is not UTF-8")],
)
def test_a_folder_that_makes_no_rows_is_refused(bench: Bench, place: str, what: str) -> None:
    letters(bench.directory)
    (bench.directory / "letters/origin=JFK/z.txt").write_text("No flight.")
    (bench.directory / "letters/origin=JFK/flight=B6 1").rename(bench.directory / "moved")
    (bench.directory / "empty").mkdir()
    (bench.directory / "badly").mkdir()
    Path(os.fsdecode(os.fsencode(bench.directory / "badly") + b"/\xff.txt")).write_text("Words.")
    with pytest.raises(AntiphonError, match=what):
        bench.order(input=str(bench.directory / place))
    assert bench.desk.jobs.list(SCOPE) == []


def test_an_order_over_http_names_no_folder(bench: Bench) -> None:
    letters(bench.directory)
    confined = replace(bench.orders, confined=True)
    with pytest.raises(InvalidInputError, match="no input of an order over HTTP"):
        confined.place(SCOPE, ASKER, TableOrder("desk", input="letters", as_of=START))
