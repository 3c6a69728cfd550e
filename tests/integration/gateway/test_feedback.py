"""Outcomes over HTTP: authenticated, authorized, one or many, each with what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import msgspec
import pytest
from tests.harness import fakes
from tests.integration.learning.joining import Desk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.learning.datasets import Datasets
from antiphon.gateway import openapi
from antiphon.gateway.application import OPERATIONS, create_app
from antiphon.governance.identity.keys import Keys
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(
        fakes.gateway_services(
            desk.database, outcomes=desk.outcomes, joiner=desk.joiner, monitor=desk.monitor, drift=desk.drift
        ),
    )
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "sender", "service")
    headers = {"authorization": f"Bearer {key}"}
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk", headers=headers) as client:
        yield client


def sent(value: str = "delayed", **fields: Any) -> dict[str, Any]:
    known = (NOON + timedelta(hours=1)).isoformat()
    return {"application": "desk", "value": value, "prediction": "p1", "available_at": known} | fields


async def test_one_outcome(client: httpx2.AsyncClient, desk: Desk) -> None:
    desk.predict("p1", release=fakes.make_release(desk.database, DEV).id)
    answer = await client.post("/v1/feedback", json=sent(id="f1"))
    assert answer.status_code == 200, answer.text
    (kept,) = desk.outcomes.list(DEV)
    line = {"status": "joined", "predictions": ["p1"], "outcomes": [kept.id], "error": None}
    assert answer.json() == {"outcomes": [line], "counts": {"joined": 1}}
    assert kept.principal == "sender"
    listed = (await client.get("/admin/outcomes/desk", params={"status": "joined"})).json()["outcomes"]
    assert [(each["id"], each["value"], each["reference"]) for each in listed] == [(kept.id, "delayed", "f1")]
    assert "entity" not in listed[0]


async def test_many_outcomes_each_with_what_became_of_it(client: httpx2.AsyncClient, desk: Desk) -> None:
    desk.predict("p1")
    of_moment = {"prediction": None, "entity": {"origin": "EWR", "dest": "SFO"}, "at": NOON.isoformat()}
    answer = await client.post(
        "/v1/feedback",
        json={"outcomes": [sent(**of_moment), sent(id="b"), sent("maybe"), sent(prediction="gone")]},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["counts"] == {"joined": 1, "duplicate": 1, "refused": 1, "unknown": 1}
    refused = answer.json()["outcomes"][2]
    assert refused["error"]["code"] == "invalid_input"
    assert "Send one of on_time, delayed" in refused["error"]["message"]


async def test_an_outcome_of_a_named_prediction_needs_no_application(client: httpx2.AsyncClient, desk: Desk) -> None:
    desk.predict("p1", release=fakes.make_release(desk.database, DEV).id)
    desk.predict("p2", application="mute", release="rel_2")
    desk.predict("elsewhere", scope=msgspec.structs.replace(DEV, environment="elsewhere"))
    alone = sent(id="a")
    del alone["application"]
    answer = await client.post("/v1/feedback", json=alone)
    assert (answer.status_code, answer.json()["counts"]) == (200, {"joined": 1}), answer.text
    assert (await client.post("/v1/feedback", json=sent(id="a"))).json() == answer.json(), "the same outcome"
    lines = [
        {"prediction": "p2", "outcome": "copied", "value": "yes", "available_at": NOON.isoformat()},
        {"application": "mute", "prediction": "p1", "outcome": "copied", "value": "yes"},
        {"prediction": "elsewhere", "value": "delayed"},
        {"application": "desk", "prediction": "gone", "value": "delayed"},
        {"prediction": "gone", "value": "delayed"},
        {"value": "delayed"},
    ]
    answer = await client.post("/v1/feedback", json={"outcomes": lines})
    assert answer.status_code == 200, answer.text
    became = answer.json()["outcomes"]
    assert [line["status"] for line in became] == ["joined", "refused", "unknown", "unknown", "unknown", "refused"]
    assert {one.application for one in desk.outcomes.list(DEV)} == {"desk", "mute"}
    assert "is one of desk, not of mute" in became[1]["error"]["message"]
    assert [len(line["outcomes"]) for line in became[2:5]] == [0, 1, 0], "without an application none is kept"
    assert "no prediction 'gone' here: its outcome is not kept" in became[4]["error"]["message"]
    assert became[3]["error"] is None
    assert "neither an application nor a prediction" in became[5]["error"]["message"]
    answer = await client.post("/v1/feedback", json=lines[4])
    assert (answer.status_code, answer.json()["outcomes"]) == (200, [became[4]])


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"value": "delayed"}, 400, "neither an application nor a prediction"),
        (sent("maybe"), 400, "is no label"),
        (sent(available_at=NOON.replace(year=2012).isoformat()), 400, "An outcome before its prediction"),
        (sent(application="gone"), 404, "no application 'gone'"),
        (sent(labell="x"), 400, "Unknown parameter: 'labell'"),
        (sent(kind="smile"), 400, "Invalid enum value"),
        (sent(at="noon"), 400, "RFC3339"),
        ({"outcomes": []}, 400, "length >= 1"),
        ({"outcomes": [sent(labell="x")]}, 400, "labell"),
        ({"outcomes": [{"application": "desk", "value": "x"}] * 1_001}, 413, "at most 1000 at a time"),
    ],
)
async def test_what_cannot_be_taken_is_said(
    client: httpx2.AsyncClient, desk: Desk, body: dict[str, Any], status: int, told: str
) -> None:
    desk.predict("p1")
    answer = await client.post("/v1/feedback", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]
    assert desk.outcomes.list(DEV) == []


async def test_a_key_that_may_not_is_refused(client: httpx2.AsyncClient, desk: Desk) -> None:
    desk.predict("p1")
    viewer, _ = Keys(desk.database, fakes.SECRET).create("default", "viewer", "viewer")
    for body in (sent(), sent(application=None), {"outcomes": [sent(application=None)]}):
        answer = await client.post("/v1/feedback", json=body, headers={"authorization": f"Bearer {viewer}"})
        assert answer.status_code == 403
    answer = await client.post("/v1/feedback", json=sent(), headers={"authorization": ""})
    assert answer.status_code == 401
    assert desk.outcomes.list(DEV) == []


async def test_performance_and_drift(client: httpx2.AsyncClient, desk: Desk) -> None:
    for number in range(60):
        chance = 0.9 if number % 3 == 0 else 0.2
        classes = {"outlook": {"delayed": chance, "on_time": 1 - chance}}
        desk.predict(f"p{number}", NOON + timedelta(hours=4 * number), classes=classes)
        await client.post(
            "/v1/feedback",
            json=sent("delayed" if number % 6 == 0 else "on_time", prediction=f"p{number}", available_at=None),
        )
    found = (await client.get("/admin/outcomes/desk/performance")).json()
    # Known "now", ten days on, is late for all but the last day's predictions.
    assert found["counts"]["label"]["late"] + found["counts"]["label"]["joined"] == 60
    assert found["coverage"] == [
        {"release": "rel_1", "predictions": 60, "labelled": found["counts"]["label"]["joined"]}
    ]
    assert found["whole"]["rows"] == found["counts"]["label"]["joined"] > 0
    assert sum(day["scores"]["rows"] for day in found["days"]) == found["whole"]["rows"]
    bounded = await client.get("/admin/outcomes/desk/performance", params={"until": NOON.isoformat()})
    assert bounded.json()["whole"] is None
    assert (await client.get("/admin/outcomes/gone/performance")).status_code == 404
    mute = await client.get("/admin/outcomes/mute/performance")
    assert (mute.status_code, "declares no outcome" in mute.text) == (400, True)
    drift = (await client.get("/admin/outcomes/desk/drift")).json()
    assert (drift["reference"], drift["forecasts"][0]["verdict"]) == ("first week", "too-few")
    assert "No release of desk is live" in drift["problems"][0]


async def test_the_newest_kept_report_of_drift_is_given_and_another_one_is_made_where_that_is_asked_for(
    client: httpx2.AsyncClient, desk: Desk
) -> None:
    texts = (Drift("what is asked", 0.8, 0.55, 200, 200, "shifted", NOON),)
    desk.keep_drift(DriftReport("desk", NOON, texts=texts), DriftReport("mute", NOON))
    kept = (await client.get("/admin/outcomes/desk/drift")).json()
    assert [(one["name"], one["verdict"], one["since"]) for one in kept["texts"]] == [
        ("what is asked", "shifted", NOON.isoformat().replace("+00:00", "Z"))
    ]
    assert (await client.get("/admin/outcomes/desk/drift", params={"now": "true"})).json()["texts"] == []
    other = (await client.get("/admin/outcomes/gone/drift")).status_code
    assert other == 404


async def test_datasets_are_listed_and_shown(client: httpx2.AsyncClient, desk: Desk) -> None:
    from tests.contract.catalog.test_datasets import dataset

    Datasets(desk.database).add(dataset("d1"))
    listed = (await client.get("/admin/datasets", params={"application": "desk", "kind": "training"})).json()
    assert [(line["id"], line["rows"]) for line in listed["datasets"]] == [("d1", 100)]
    shown = (await client.get("/admin/datasets/d1")).json()
    assert shown["spec"]["history"]["name"] == "flown"
    assert (await client.get("/admin/datasets/d2")).status_code == 404


def test_the_operations_can_be_described() -> None:
    document = openapi.document(OPERATIONS)
    names = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(names) == len(set(names))
    schema = document["components"]["schemas"]["Performance"] | {"components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
