"""Models, evaluations and rollouts over ``/admin``: typed, authorized, audited, over real repositories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client
from tests.integration.gateway.learned_desk import PLAN, LearnedDesk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.definitions.outcome_shape import ANY_LABEL
from antiphon.governance.identity.keys import Keys
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport

CANARY = Rollout(canary=(5, 50), step_units=50)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearnedDesk]:
    desk = LearnedDesk(tmp_path)
    yield desk
    desk.close()


def key(desk: LearnedDesk, role: str) -> dict[str, str]:
    made, _ = Keys(desk.database, fakes.SECRET).create("default", f"the-{role}", role)
    return {"authorization": f"Bearer {made}"}


@pytest.fixture
async def http(desk: LearnedDesk) -> AsyncIterator[httpx2.AsyncClient]:
    secret = key(desk, "engineer")["authorization"].removeprefix("Bearer ")
    async with gateway_client(desk.services(), secret, page=False) as client:
        yield client


async def got(client: httpx2.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_models_with_lineage_card_and_comparison(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    desk.train()
    listed = (await got(http, "/admin/models", application="desk"))["versions"]
    assert [(line["id"], line["aliases"], line["parent"]) for line in listed] == [
        ("desk.v2", [], "desk.v1"),
        ("desk.v1", ["champion"], None),
    ]
    assert [line["evaluation"]["passed"] for line in listed] == [False, True]
    shown = await got(http, "/admin/models/desk:champion")
    assert (shown["name"], shown["version"]["recipe"]["rank"], shown["version"]["losses"][0]) == (
        "desk.v1", 16, [1, 2.0]
    )  # fmt: skip
    assert [(line["use"], line["id"], line["dataset"]["rows"]) for line in shown["datasets"]] == [
        ("training", "data_1", 100)
    ]
    card = await http.get("/admin/models/desk.v1/card")
    assert card.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; style-src 'sha256-" in card.headers["content-security-policy"]
    assert "<h1>desk.v1</h1>" in card.text
    compared = await got(http, "/admin/models/compare", a="desk.v1", b="desk.v2")
    assert {line["field"]: (line["first"], line["second"]) for line in compared["recipe"]} == {"rank": (16, 8)}
    assert compared["dataset"] == "data_1"
    assert (await http.get("/admin/models/desk.v9")).status_code == 404
    assert (await http.get("/admin/models/compare", params={"a": "desk.v1"})).status_code == 400


async def test_evaluations(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    desk.train()
    listed = (await got(http, "/admin/evaluations", application="desk"))["evaluations"]
    assert [line["id"] for line in listed] == ["eval_2", "eval_1"]
    of_release = await got(http, "/admin/evaluations", release=listed[1]["release"])
    assert [line["id"] for line in of_release["evaluations"]] == ["eval_1"]
    shown = await got(http, "/admin/evaluations/eval_2")
    assert shown["gates"][0]["passed"] is False
    assert shown["metrics"]["auc"] == {"value": 0.62, "low": 0.57, "high": pytest.approx(0.67)}
    assert (await http.get("/admin/evaluations/eval_9")).status_code == 404


async def test_a_training_is_ordered_and_followed(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    body = {"application": "desk", "delta": True, "cutoff": "2013-04-15T00:00:00Z", "examples": 64, "rollout": True}
    made = await http.post("/admin/train", json={**body, "key": "k"})
    assert made.status_code == 202, made.text
    assert (made.json()["workflow"], made.json()["status"]) == ("train", "queued")
    again = await http.post("/admin/train", json={**body, "key": "k"})
    assert again.json()["id"] == made.json()["id"]
    order = desk.orders[0]
    assert (order.delta, order.examples, order.rollout, order.cutoff.isoformat()) == (
        True, 64, True, "2013-04-15T00:00:00+00:00"
    )  # fmt: skip
    entries = [entry for entry in desk.audit.query(DEV) if entry.action == "train_train"]
    assert entries[0].detail["application"] == "desk"
    assert "key" not in entries[0].detail  # the caller's own word is no evidence
    assert (await http.post("/admin/train", json={"application": "gone"})).status_code == 404
    assert (await http.post("/admin/train", json={"application": "desk", "examples": 0})).status_code == 400
    for role in ("service", "viewer"):
        refused = await http.post("/admin/train", json=body, headers=key(desk, role))
        assert (role, refused.status_code) == (role, 403)


async def test_a_rollout_from_its_beginning_to_its_end(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    live, candidate, draft = desk.live(1), desk.validated(2, plan=CANARY), desk.release(3)
    refused = await http.post("/admin/rollouts", json={"release": draft.id})
    assert (refused.status_code, "has not passed its gates" in refused.text) == (400, True)
    begun = await http.post("/admin/rollouts", json={"release": candidate.id, "reason": "better"})
    assert begun.status_code == 201, begun.text
    assert (begun.json()["state"], begun.json()["weight"], begun.json()["control"]) == ("canary", 0.05, live.id)
    path = f"/admin/rollouts/{begun.json()['id']}"
    other = await http.post("/admin/rollouts", json={"release": desk.validated(4).id})
    assert (other.status_code, "is under way" in other.text) == (422, True)
    rollout = desk.rollouts.get(DEV, begun.json()["id"])
    desk.expose(rollout, 20)
    desk.look()
    shown = await got(http, path)
    assert [(arm["arm"], arm["units"], arm["step_units"], arm["errors"]) for arm in shown["arms"]] == [
        ("canary", 20, 20, 0),
        ("control", 20, 20, 0),
    ]
    assert shown["judgements"][-1]["decision"] == "hold"
    assert "20 canary users of 50" in shown["judgements"][-1]["sentence"]
    assert "With 300 canary users" in shown["declaration"]
    assert [move["state"] for move in shown["moves"]] == ["canary"]
    held = await http.post(f"{path}/hold", json={"reason": "lunch"})
    assert held.json()["held"] is True
    assert (await http.post(f"{path}/resume", json={"reason": "back"})).json()["held"] is False
    assert (await http.post(f"{path}/undo", json={"reason": ""})).status_code == 400
    undone = await http.post(f"{path}/undo", json={"reason": "users complain"})
    assert (undone.json()["state"], undone.json()["reason"]) == ("rolled_back", "users complain")
    assert (await http.post(f"{path}/abort", json={"reason": "late"})).status_code == 422
    assert [line["id"] for line in (await got(http, "/admin/rollouts", application="desk"))["rollouts"]] == [rollout.id]
    acts = [entry.action for entry in desk.audit.query(DEV) if entry.action.startswith("rollout.")]
    assert sorted(acts) == ["rollout.begin", "rollout.hold", "rollout.resume", "rollout.undo"]
    assert (await http.get("/admin/rollouts/roll_none")).status_code == 404


async def test_shadow_pairs_are_counted_with_their_outcomes(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    rollout = desk.begin()
    desk.mirror(rollout, pairs=12, labelled=5)
    desk.look()
    shown = await got(http, f"/admin/rollouts/{rollout.id}", users=500)
    assert shown["pairs"] == {"pairs": 12, "failed": 0, "same_text": 6, "known": 5}
    assert "5 of 20 pairs have an outcome" in shown["judgements"][-1]["sentence"]
    aborted = await http.post(f"/admin/rollouts/{rollout.id}/abort", json={"reason": "another day"})
    assert aborted.json()["state"] == "aborted"


async def test_a_rollback_ends_the_rollout_under_way_and_then_goes_further_back(
    desk: LearnedDesk, http: httpx2.AsyncClient
) -> None:
    rollout = desk.begin()
    control = rollout.control
    back = await http.post("/admin/releases/desk/rollback", json={"reason": "no"})
    assert back.json() == {
        "application": "desk", "release": control, "left": rollout.candidate, "rollout": rollout.id
    }  # fmt: skip
    assert desk.rollouts.active(DEV, "desk") is None
    refused = await http.post("/admin/releases/desk/rollback", json={"reason": "no"})
    assert (refused.status_code, "no earlier live release" in refused.text) == (422, True)
    second = desk.validated(5)
    body = {"application": "desk", "release": second.id, "reason": "yes"}
    draft = await http.post("/admin/releases/activate", json={**body, "release": desk.release(7).id})
    assert (draft.status_code, "has not passed its gates" in draft.text) == (400, True)
    assert (await http.post("/admin/releases/activate", json=body)).status_code == 200
    again = desk.validated(6)
    desk.transitions.begin(DEV, again.id, principal="ada", reason="r")
    blocked = await http.post("/admin/releases/activate", json={**body, "release": control})
    assert (blocked.status_code, "under way" in blocked.text) == (422, True)
    body = {"application": "desk", "reason": "oh no"}
    listed = (await http.post("/admin/releases/rollback", json=body)).json()["releases"]
    assert next(line["id"] for line in listed if line["live"]) == second.id
    assert desk.rollouts.active(DEV, "desk") is None
    back = await http.post("/admin/releases/desk/rollback", json={"reason": "further"})
    assert (back.json()["release"], back.json()["rollout"]) == (control, None)


async def test_change_log_live_at_and_diff(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    before = desk.clock.now() - timedelta(seconds=1)
    rollout = desk.begin(CANARY)
    then = desk.clock.now()
    desk.clock.advance(timedelta(minutes=1))
    desk.transitions.undo(DEV, rollout.id, principal="ada", reason="no good")
    told = (await got(http, "/admin/releases/desk/changelog"))["changes"]
    assert told[-1]["sentence"].endswith("answers all users: no good.")
    found = await got(http, "/admin/releases/desk/live-at", time=then.isoformat())
    assert (found["release"]["id"], found["candidate"]["id"], found["weight"]) == (
        rollout.control, rollout.candidate, 0.05
    )  # fmt: skip
    assert (await got(http, "/admin/releases/desk/live-at", time=before.isoformat()))["release"] is None
    naive = await http.get("/admin/releases/desk/live-at", params={"time": "2013-04-10T12:00:00"})
    assert naive.status_code == 400
    diff = await got(http, f"/admin/releases/{rollout.control}/diff/{rollout.candidate}")
    changed = {change["field"]: (change["before"], change["after"]) for change in diff["changes"]}
    assert changed["application.owner"] == ("owner 1", "owner 2")
    assert (await http.get(f"/admin/releases/{rollout.control}/diff/rel_none")).status_code == 404


@pytest.mark.parametrize("role", ["service", "viewer"])
async def test_only_who_may_release_moves_anything(desk: LearnedDesk, http: httpx2.AsyncClient, role: str) -> None:
    rollout = desk.begin()
    headers = key(desk, role)
    for path in (
        f"/admin/rollouts/{rollout.id}/hold",
        f"/admin/rollouts/{rollout.id}/resume",
        f"/admin/rollouts/{rollout.id}/abort",
        f"/admin/rollouts/{rollout.id}/undo",
        "/admin/releases/desk/rollback",
    ):
        assert (await http.post(path, json={"reason": "r"}, headers=headers)).status_code == 403
    assert (await http.get(f"/admin/rollouts/{rollout.id}", headers=headers)).status_code == 200
    assert desk.rollouts.active(DEV, "desk") == rollout


async def test_nothing_of_another_tenant_is_seen(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    rollout = desk.begin()
    desk.train()
    other, _ = Keys(desk.database, fakes.SECRET).create("other", "stranger", "admin")
    headers = {"authorization": f"Bearer {other}"}
    for path in (
        f"/admin/rollouts/{rollout.id}",
        "/admin/models/desk.v1",
        "/admin/evaluations/eval_1",
        f"/admin/releases/{rollout.control}/diff/{rollout.candidate}",
    ):
        assert (path, (await http.get(path, headers=headers)).status_code) == (path, 404)
    assert (await http.get("/admin/models", headers=headers)).json() == {"versions": []}
    assert (await http.get("/admin/rollouts", headers=headers)).json() == {"rollouts": []}
    undo = await http.post(f"/admin/rollouts/{rollout.id}/undo", json={"reason": "r"}, headers=headers)
    assert undo.status_code == 404


async def test_what_is_answered_is_what_openapi_says(desk: LearnedDesk, http: httpx2.AsyncClient) -> None:
    rollout = desk.begin()
    desk.train()
    desk.look()
    document = await got(http, "/openapi.json")
    assert "text/html" in document["paths"]["/admin/models/{model}/card"]["get"]["responses"]["200"]["content"]
    for path, real in (
        ("/admin/models", "/admin/models"),
        ("/admin/models/{model}", "/admin/models/desk.v1"),
        ("/admin/models/compare", "/admin/models/compare?a=desk.v1&b=desk.v2"),
        ("/admin/evaluations", "/admin/evaluations"),
        ("/admin/evaluations/{evaluation}", "/admin/evaluations/eval_1"),
        ("/admin/rollouts", "/admin/rollouts"),
        ("/admin/rollouts/{rollout}", f"/admin/rollouts/{rollout.id}"),
        ("/admin/releases/{application}/changelog", "/admin/releases/desk/changelog"),
        ("/admin/releases/{application}/live-at", "/admin/releases/desk/live-at?time=2013-05-01T00:00:00Z"),
        (
            "/admin/releases/{before}/diff/{after}",
            f"/admin/releases/{rollout.control}/diff/{rollout.candidate}",
        ),
    ):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        resolved = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "components": document["components"],
        }
        jsonschema.validate(await got(http, real), resolved)


def test_the_plan_is_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.gateway.admin import rollouts
    from antiphon.releases import declaration

    rollouts.declared.cache_clear()
    first = rollouts.declared(PLAN, 40, ANY_LABEL, SLO())

    def again(*asked: object, **more: object) -> str:
        raise InvalidInputError("It was simulated again.")

    monkeypatch.setattr(declaration, "declaration", again)
    assert (
        rollouts.declared(Rollout(shadow=0.5, shadow_pairs=20, canary=(5, 50), step_units=50), 40, ANY_LABEL, SLO())
        == first
    )


async def test_what_has_drifted_is_said_in_the_status_to_those_who_may_read_of_it(
    desk: LearnedDesk, http: httpx2.AsyncClient
) -> None:
    live, texts = desk.live(1), (Drift("what is asked", 0.81, 0.55, 200, 200, "shifted", NOON),)
    desk.keep_drift(DriftReport("desk", NOON, live.id, texts=texts), DriftReport("gone", NOON, "rel_1", texts=texts))
    found = (await got(http, "/admin/status"))["drift"]
    assert [(one["application"], one["variables"]) for one in found] == [("desk", ["what is asked"])]
