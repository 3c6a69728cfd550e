"""The admin interface over a real catalog: typed, authorized, audited, described."""

from __future__ import annotations

import asyncio

import httpx2
import jsonschema
import pytest
from tests.harness import fakes
from tests.integration.gateway.conftest import serve

from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.core.errors import EngineError
from antiphon.core.scope import Scope
from antiphon.gateway.application import OPERATIONS
from antiphon.governance.audit.log import AuditLog

SCOPE = Scope("default", "dev")


@pytest.fixture
async def admin(running, keys):
    headers = {"authorization": f"Bearer {keys['admin']}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=10) as client:
        yield client


async def asked(client: httpx2.AsyncClient, question: str = "Late?") -> str:
    body = {"model": "desk", "messages": [{"role": "user", "content": question}], "entity": {"shop": "tea"}}
    answer = await client.post("/v1/chat/completions", json=body)
    return answer.json()["antiphon"]["prediction"]


async def test_predictions_are_listed_paged_shown_explained_and_replayed(admin) -> None:
    made = [await asked(admin, f"Late {number}?") for number in range(3)]
    listed = (await admin.get("/admin/predictions", params={"limit": 2})).json()["predictions"]
    assert [line["prediction"] for line in listed] == made[:0:-1]
    older = await admin.get("/admin/predictions", params={"before": listed[-1]["created_at"], "application": "desk"})
    assert [line["prediction"] for line in older.json()["predictions"]] == made[:1]
    shown = (await admin.get(f"/admin/predictions/{made[0]}")).json()
    assert shown["question"] == "Late 0?"
    assert "You are the desk." in shown["prompts"][0]
    assert shown["entity"] == '{"shop":"tea"}'
    assert shown["cost"] == pytest.approx(0.42 * 0.00004)
    assert (await admin.get(f"/admin/predictions/{made[0]}/explain")).json()["receipt"]["prediction"] == made[0]
    assert (await admin.post(f"/admin/predictions/{made[0]}/replay")).json()["identical"] is True


async def test_a_replay_ends_when_its_caller_leaves(services, keys) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def replay(scope: Scope, prediction: str) -> dict[str, object]:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    headers = {"authorization": f"Bearer {keys['admin']}"}
    async with (
        serve(fakes.replaced(services, replay=replay)) as running,
        httpx2.AsyncClient(base_url=running.url, headers=headers) as client,
    ):
        asking = asyncio.create_task(client.post(f"/admin/predictions/{await asked(client)}/replay"))
        async with asyncio.timeout(10):
            await began.wait()
            asking.cancel()
            await ended.wait()


async def test_erased_texts_are_shown_as_absent(admin, database, services) -> None:
    made = await asked(admin)
    services.predictions.texts.erase(SCOPE, services.predictions.receipts.get(SCOPE, made).text_blob)
    shown = (await admin.get(f"/admin/predictions/{made}")).json()
    assert shown["text"] is None
    assert shown["prompts"][0] is not None


async def test_releases_move_and_come_back(admin, database) -> None:
    first, second = fakes.make_release(database, SCOPE), fakes.make_release(database, SCOPE)
    listed = (await admin.get("/admin/releases", params={"application": "desk"})).json()["releases"]
    assert [(line["id"], line["live"]) for line in listed] == [(second.id, True), (first.id, False)]
    body = {"application": "desk", "reason": "it is worse"}
    after = (await admin.post("/admin/releases/rollback", json=body)).json()["releases"]
    assert {line["id"]: line["live"] for line in after} == {second.id: False, first.id: True}
    body = {"application": "desk", "release": second.id, "reason": "it was not"}
    after = (await admin.post("/admin/releases/activate", json=body)).json()["releases"]
    assert {line["id"]: line["live"] for line in after} == {second.id: True, first.id: False}
    lost = await admin.post("/admin/releases/activate", json={**body, "release": "rel_none"})
    assert lost.status_code == 404


async def test_events_are_appended_once_and_streams_tell_the_lag(admin) -> None:
    times = {"event_time": "2013-04-10T12:00:00Z", "available_at": "2013-04-10T12:05:00Z"}
    events = [{"event_id": f"e{number}", **times, "payload": {"delay": number}} for number in range(3)]
    for _ in range(2):
        answer = await admin.post("/admin/events/departures", json={"events": events})
        assert answer.json() == {"stream": "departures", "end": 3}
    streams = (await admin.get("/admin/streams")).json()["streams"]
    (told,) = streams
    assert (told["stream"], told["consumed"], told["end"], told["lag"]) == ("departures", 3, 3, 0)
    for wrong, named in (
        ({**events[0], "payload": 3}, "events[0].payload"),
        ({**events[0], "event_time": "noon"}, "events[0].event_time"),
        ({"event_id": "x"}, "events[0]"),
    ):
        answer = await admin.post("/admin/events/departures", json={"events": [wrong]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == named
    naive = {**events[0], "event_id": "n", "event_time": "2013-04-10T12:00:00"}
    assert (await admin.post("/admin/events/departures", json={"events": [naive]})).status_code == 400


async def test_batch_jobs_are_ordered_followed_and_read_in_pages(admin, database) -> None:
    body = {"application": "desk", "rows": [{"shop": "a"}, {"shop": "b"}, {"shop": "c"}]}
    made = await admin.post("/admin/batch", json=body)
    assert made.status_code == 201
    job = made.json()["id"]
    jobs = Jobs(database)
    epoch = jobs.take_over(SCOPE, job)
    jobs.write_rows(SCOPE, job, epoch, [JobRow(line, {"n": line}, failed=line == 1) for line in range(3)])
    found = (await admin.get(f"/admin/batch/{job}")).json()
    assert (found["rows_done"], found["rows_failed"], found["total"], found["status"]) == (3, 1, 3, "running")
    page = (await admin.get(f"/admin/batch/{job}/rows", params={"limit": 2})).json()
    assert [row["line"] for row in page["rows"]] == [0, 1]
    rest = (await admin.get(f"/admin/batch/{job}/rows", params={"limit": 2, "after": page["next"]})).json()
    assert ([row["line"] for row in rest["rows"]], rest["next"]) == ([2], None)
    assert (await admin.get("/admin/batch")).json()["jobs"][0]["id"] == job
    assert (await admin.get("/admin/batch/job_none")).status_code == 404


async def test_a_change_that_no_port_records_is_in_the_audit_log(database, answerer, keys) -> None:
    log = AuditLog(database, fakes.SECRET)
    async with serve(fakes.gateway_services(database, answerer, audit=log.append)) as running:
        headers = {"authorization": f"Bearer {keys['engineer']}"}
        async with httpx2.AsyncClient(base_url=running.url, headers=headers) as client:
            rows = [{"shop": str(number)} for number in range(9)]
            await client.post("/admin/batch", json={"application": "desk", "rows": rows})
            await client.get("/admin/batch")
    (entry,) = log.query(SCOPE)
    assert (entry.principal, entry.action, entry.subject) == ("the-engineer", "batch_create", "/admin/batch")
    assert entry.detail["rows"] == "9 items"


async def test_keys_are_made_shown_once_and_revoked(admin, running) -> None:
    made = (await admin.post("/admin/keys", json={"name": "bot", "role": "viewer"})).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert (await admin.get("/admin/releases", headers=headers)).status_code == 200
    listed = await admin.get("/admin/keys")
    assert made["key"] not in listed.text
    assert made["record"]["id"] in {key["id"] for key in listed.json()["keys"]}
    revoked = await admin.delete(f"/admin/keys/{made['record']['id']}")
    assert revoked.json()["revoked_at"] is not None
    assert (await admin.get("/admin/releases", headers=headers)).status_code == 401
    wrong = await admin.post("/admin/keys", json={"name": "bot", "role": "king"})
    assert wrong.json()["error"]["param"] == "role"


ROLES = {
    "/admin/releases": {"admin": 200, "engineer": 200, "service": 200, "viewer": 200},
    "/admin/keys": {"admin": 200, "engineer": 403, "service": 403, "viewer": 403},
}


@pytest.mark.parametrize("path", ROLES)
async def test_policy_decides_who_reads(admin, keys, path) -> None:
    for role, status in ROLES[path].items():
        answer = await admin.get(path, headers={"authorization": f"Bearer {keys[role]}"})
        assert (role, answer.status_code) == (role, status)


async def test_policy_decides_who_changes(admin, keys, database) -> None:
    fakes.make_release(database, SCOPE)
    fakes.make_release(database, SCOPE)
    body = {"application": "desk", "reason": "x"}
    event = {
        "event_id": "a",
        "event_time": "2013-01-01T00:00:00Z",
        "available_at": "2013-01-01T00:00:00Z",
        "payload": {},
    }
    for role, rollback, push in (("viewer", 403, 403), ("service", 403, 200), ("engineer", 200, 200)):
        headers = {"authorization": f"Bearer {keys[role]}"}
        assert (await admin.post("/admin/releases/rollback", json=body, headers=headers)).status_code == rollback
        assert (await admin.post("/admin/events/s", json={"events": [event]}, headers=headers)).status_code == push


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_no_operation_answers_without_a_key(running, operation) -> None:
    path = operation.path
    for name in ("prediction", "stream", "job", "run", "key"):
        path = path.replace("{" + name + "}", "x")
    async with httpx2.AsyncClient(base_url=running.url) as client:
        answer = await client.request(operation.method, path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_queries_and_bodies_are_strict(admin) -> None:
    for path, named in (
        ("/admin/predictions?limit=0", "limit"),
        ("/admin/predictions?limit=many", "limit"),
        ("/admin/predictions?path=sideways", "path"),
        ("/admin/predictions?aplication=desk", "aplication"),
        ("/admin/predictions?limit=1&limit=2", "limit"),
        ("/admin/status?x=1", "x"),
    ):
        answer = await admin.get(path)
        assert (path, answer.status_code, answer.json()["error"]["param"]) == (path, 400, named)
    answer = await admin.post("/admin/releases/rollback", json={"application": "desk", "reasn": "x"})
    assert "Did you mean 'reason'?" in answer.json()["error"]["message"]
    answer = await admin.get("/admin/predictions?before=2026-01-01T00:00:00+00:00")
    assert answer.status_code == 200


async def test_unknown_paths_and_methods_have_the_same_shape(admin) -> None:
    for answer, status in (
        (await admin.get("/admin/nothing"), 404),
        (await admin.post("/admin/status"), 405),
        (await admin.get("/v1/chat/completions"), 405),
        (await admin.get("/admin/predictions/pred_none"), 404),
        (await admin.get("/admin/runs/run_none"), 404),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.json()["error"]["next_step"]


async def test_status_in_one_call(admin) -> None:
    await asked(admin)
    status = (await admin.get("/admin/status")).json()
    assert status["latency"]["count"] == 1
    assert status["engine"]["load"]["running_batch"] == 3
    assert [process["name"] for process in status["processes"]] == ["engine", "gateway", "worker"]
    assert {view["view"] for view in status["freshness"]} == {"congestion", "weather"}
    assert status["applications"] == ["desk", "tiny"]


async def test_status_and_readiness_survive_an_engine_that_is_away(database, answerer, keys) -> None:
    class Away:
        async def describe(self):
            raise EngineError("The engine is away.")

    async def ready():
        return {"catalog": None, "engine": "it is away"}

    services = fakes.gateway_services(database, answerer, engine=Away(), ready=ready)
    async with serve(services) as running, httpx2.AsyncClient(base_url=running.url) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["parts"]["engine"]) == (503, "it is away")
        assert (await client.get("/healthz")).status_code == 200
        status = await client.get("/admin/status", headers={"authorization": f"Bearer {keys['viewer']}"})
    assert status.json()["engine"] == {
        "reachable": False,
        "reason": "The engine is away.",
        "models": [],
        "load": None,
        "instances": [],
        "stopped": None,
    }


async def test_what_serves_only_in_part_is_a_notice_of_readiness(database, answerer) -> None:
    async def ready():
        return {"catalog": None, "engine": None}

    told = {"features": "degraded: congestion (snap_1, seen 2013-04-10 12:00:00Z)"}
    services = fakes.gateway_services(database, answerer, ready=ready, notices=lambda: told)
    async with serve(services) as running, httpx2.AsyncClient(base_url=running.url) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"], answer.json()["notices"]) == (200, True, told)


async def test_metrics_count_answers_failures_and_never_invent_labels(admin, answerer) -> None:
    await asked(admin)
    for number in range(3):
        body = {"model": f"made-up-{number}", "messages": [{"role": "user", "content": "x"}]}
        assert (await admin.post("/v1/chat/completions", json=body)).status_code == 404
    answerer.failure = EngineError("dead")
    body = {"model": "desk", "messages": [{"role": "user", "content": "x"}]}
    assert (await admin.post("/v1/chat/completions", json=body)).status_code == 502
    text = (await admin.get("/metrics")).text
    assert (
        'antiphon_requests_total{application="desk",fault="none",path="online",status="200",tenant="default"} 1.0'
        in text
    )
    assert (
        'antiphon_requests_total{application="desk",fault="platform",path="online",status="502",tenant="default"} 1.0'
        in text
    )
    assert (
        'antiphon_requests_total{application="unknown",fault="caller",path="online",status="404",tenant="default"} 3.0'
        in text
    )
    assert (
        'antiphon_answer_seconds_count{application="desk",origin="generated",path="online",tenant="default"} 1.0'
        in text
    )
    assert "made-up" not in text
    assert "antiphon_in_flight 0.0" in text


async def test_openapi_describes_every_route_and_what_they_answer(admin) -> None:
    document = (await admin.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert {(operation.path, operation.method) for operation in OPERATIONS} <= described
    names = [item["operationId"] for methods in document["paths"].values() for item in methods.values()]
    assert len(names) == len(set(names))
    made = await asked(admin)
    for path, real in (
        ("/admin/status", "/admin/status"),
        ("/admin/predictions", "/admin/predictions"),
        ("/admin/predictions/{prediction}", f"/admin/predictions/{made}"),
        ("/admin/keys", "/admin/keys"),
        ("/v1/models", "/v1/models"),
    ):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        resolved = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "components": document["components"],
        }
        jsonschema.validate((await admin.get(real)).json(), resolved)
    limit = document["paths"]["/admin/predictions"]["get"]["parameters"]
    assert {parameter["name"] for parameter in limit} == {"application", "path", "before", "limit", "all_roles"}
