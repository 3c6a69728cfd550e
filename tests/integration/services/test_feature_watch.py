"""What is told about served features over a whole project: in the terminal, over HTTP and on the dashboard."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.services.watched_project import ROWS, Project, told

from antiphon.catalog.features.verdicts import StagedSnapshot
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditFilter
from antiphon.services.features.view_status import read_view_statuses
from antiphon.services.predictions import ProjectPredictions


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    made = Project(tmp_path)
    await made.refresh()
    yield made
    made.close()


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


async def test_batch_and_online_are_compared_in_the_terminal(project: Project) -> None:
    antiphon = project.terminal
    project.predicted("tea")
    project.visit("v1", "tea")
    project.consume()
    project.predicted("tea")
    right = antiphon("features", "skew", "--since", "1h", "--json")
    assert right.code == 0, right.err
    report = right.json()
    assert (report["different"], report["predictions"], report["complete"]) == (0, 2, True)
    assert report["compared"] == 3 * (2 + 2) + 1 * (1 + 2), "two shops and two predictions, one shop's visits"
    assert "compared" in right.err, "it says how far it is"
    assert "15 values are the same, bit for bit" in antiphon("features", "skew").out
    project.write(*ROWS[:10])
    changed = antiphon("features", "skew", "today")
    assert changed.code == 0
    assert "12 values are the same" in changed.out
    assert re.search(r"today.paid +online .* lake", changed.out), "by what the snapshot kept of it"
    project.write(*ROWS)
    project.alter("today")
    wrong = antiphon("features", "skew", "today", "--sample", "1")
    assert wrong.code == 1
    assert "2 of 6 values differ" in wrong.out
    assert re.search(r"today.orders shop=\w+ as of .*: online 21, batch 20", wrong.out)
    lines = antiphon("features", "skew", "today", "--history", "--json").json()
    assert [(one["compared"], one["different"], one["share"]) for one in lines[:2]] == [(6, 2, 1 / 3), (12, 0, 0.0)]
    assert "33.33%" in antiphon("features", "skew", "--history", "--limit", "1").out
    (entry,) = project.store.audit.query(project.store.scope, AuditFilter(action="features.differ"))
    assert (entry.subject, entry.detail["count"], entry.detail["errors"]) == ("view/today", 6, 2)
    listed = antiphon("features", "list")
    assert "today: 2 of 6 values that are read online are not what batch computes" in listed.out
    states = {one["view"]: one["state"] for one in antiphon("features", "list", "--json").json()}
    assert (states["today"], states["crowd"]) == ("differs", "fresh")
    assert antiphon("features", "skew", "nothing").code == 3
    assert antiphon("features", "skew", "--since", "yesterday").code == 2
    assert antiphon("features", "skew", "--sample", "0").code == 2


async def test_batch_and_online_are_compared_over_http_and_on_the_page(project: Project) -> None:
    project.alter("today")
    async with project.http() as http:
        assert told(await http.get("/admin/features/today/skew"))["report"] is None
        found = told(await http.post("/admin/features/today/skew", json={"sample": 1}))
        assert (found["compared"], found["different"]) == (3, 2)
        wrong = {one["feature"]: one for one in found["features"]}
        assert wrong["orders"]["examples"][0]["entity"].keys() == {"shop"}
        assert (wrong["orders"]["different"], wrong["paid"]["different"]) == (1, 0)
        last = told(await http.get("/admin/features/today/skew"))["report"]
        assert last == found
        assert told(await http.get("/admin/features/crowd/skew"))["report"] is None, "nobody compared it"
        (line,) = told(await http.get("/admin/features/today/skew/history"))["comparisons"]
        assert (line["compared"], line["different"], line["view"]) == (3, 2, "today")
        metrics = (await http.get("/metrics")).text
        assert 'antiphon_skew_different_values{view="today"} 2.0' in metrics
        assert 'antiphon_skew_compared_values{view="today"} 3.0' in metrics
        assert (await http.post("/admin/features/today/skew", json={"sample": 5_000})).status_code == 400
        assert (await http.post("/admin/features/nothing/skew", json={})).status_code == 404
    async with project.http("viewer") as http:
        assert (await http.post("/admin/features/today/skew", json={})).status_code == 403
    async with project.http(page=True) as browser:
        page = (await browser.get("/skew")).text
        assert "2 of 3 values differ" in page, "what was found over HTTP is on record"
        done = await browser.post("/skew", data={"csrf": csrf(page), "sample": "10", "view": ""})
        assert done.status_code == 303
        page = (await browser.get("/skew")).text
        assert "4 of 7 values differ" in page, "the mean counts too"
        assert "shop tea" in page
        assert "Share of the values of all views that differ from batch" in page
        one = (await browser.get("/skew?view=today")).text
        assert "Share of the values of today that differ" in one
        listed = (await browser.get("/features")).text
        assert "4 of 6 values are not what batch computes" in listed
        refused = await browser.post("/skew", data={"csrf": csrf(page), "sample": "ten"})
        assert refused.status_code == 400
        assert "is no sample size" in refused.text
        assert (await browser.post("/skew", data={"sample": "10"})).status_code == 403, "a form of somebody else's"
    async with project.http("viewer", page=True) as browser:
        page = (await browser.get("/skew")).text
        assert 'action="/skew"' not in page


async def test_a_view_is_taken_back_in_the_terminal(project: Project) -> None:
    antiphon = project.terminal
    nothing = antiphon("features", "rollback", "today", "--reason", "worse")
    assert nothing.code == 3
    project.write(*[row.replace(".5", ".7") for row in ROWS])
    await project.refresh("today")
    planned = antiphon("features", "rollback", "today", "--reason", "worse", "--dry-run")
    assert planned.code == 0, planned.err
    assert "this is what would be" in planned.out
    done = antiphon("features", "rollback", "today", "--reason", "worse", "--hold", "--json").json()
    assert (done["publication"], done["held"], done["moves"][0]["last_in"]) == (3, True, 1)
    await project.refresh("today")
    assert project.predicted("tea").features[0].snapshot is not None
    current = project.store.publications.current(project.store.scope)
    assert current is not None
    assert (current.number, current.reason) == (3, "worse"), "what is held is not replaced"
    assert antiphon("features", "resume", "today", "--reason", "repaired").code == 0
    assert antiphon("features", "resume", "today", "--reason", "repaired").code == 5
    assert antiphon("features", "hold", "today", "--reason", "wait").code == 0
    assert antiphon("features", "rollback", "--to", "snap_1", "--reason", "worse").code == 2
    whole = antiphon("features", "rollback", "--to", "2", "--reason", "all of it").out
    assert whole.startswith("Publication 4:")
    acts = [
        (entry["action"], entry["detail"]["reason"])
        for entry in antiphon("audit", "query", "--action", "features.*", "--json").json()
    ]
    assert sorted(acts) == [
        ("features.hold", "wait"), ("features.resume", "repaired"), ("features.rollback", "all of it"),
        ("features.rollback", "worse"),
    ]  # fmt: skip


async def test_a_view_is_taken_back_over_http_and_on_its_page(project: Project) -> None:
    project.write(*[row.replace(".5", ".7") for row in ROWS])
    await project.refresh("today")
    async with project.http() as http:
        path = "/admin/features/today"
        assert (await http.post(f"{path}/rollback", json={"reason": "worse", "seen": 1})).status_code == 422
        assert (await http.post(f"{path}/rollback", json={"reason": "worse", "to": 9})).status_code == 404
        assert (
            told(await http.post(f"{path}/rollback", json={"reason": "worse", "dry_run": True}))["publication"] is None
        )
        done = told(await http.post(f"{path}/rollback", json={"reason": "worse", "to": 1, "hold": True, "seen": 2}))
        assert (done["publication"], done["held"], done["principal"][:4]) == (3, True, "the_")
        assert told(await http.post(f"{path}/resume", json={"reason": "on"}))["held"] is None
        assert told(await http.post(f"{path}/hold", json={"reason": "wait"}))["held"]["reason"] == "wait"
    async with project.http("viewer") as http:
        assert (await http.post(f"{path}/rollback", json={"reason": "worse"})).status_code == 403
        assert (await http.post(f"{path}/hold", json={"reason": "worse"})).status_code == 403
    async with project.http("viewer", page=True) as browser:
        page = (await browser.get("/features/today")).text
        assert "wait" in page
        assert "Intervene" not in page
        assert (await browser.post("/features/today", data={"csrf": csrf(page), "act": "hold"})).status_code == 403
    async with project.http(page=True) as browser:
        page = (await browser.get("/features/today")).text
        form = {"csrf": csrf(page), "seen": "3", "to": "", "reason": "on again"}
        assert ">Resume<" in page
        assert (await browser.post("/features/today", data={**form, "act": "resume"})).status_code == 303
        late = await browser.post("/features/today", data={**form, "act": "rollback", "seen": "2"})
        assert late.status_code == 422
        assert "Publication 2 is not current any more; 3 is." in late.text
        assert 'value="on again"' in late.text, "what was written is not lost"
        done = await browser.post("/features/today", data={**form, "act": "rollback", "hold": "yes"})
        assert done.status_code == 303
        assert "<h2>Held</h2>" in (await browser.get("/features/today")).text
        assert (await browser.post("/features/today", data={**form, "act": "drop"})).status_code == 400


async def test_a_value_is_followed_to_its_source_rows(project: Project) -> None:
    antiphon, receipt = project.terminal, project.predicted("tea")
    found = antiphon("features", "lineage", "--prediction", receipt.prediction, "--json")
    assert found.code == 0, found.out
    told_of = {one["feature"]: one for one in found.json()}
    assert {one["same"] for one in told_of.values()} == {True}
    orders = told_of["today.orders"]
    assert (orders["value"], orders["recomputed"], orders["trace"]["contributing"]) == (20, 20, 20)
    latest = orders["trace"]["rows"][0]
    assert (latest["event_id"], latest["columns"]["paid"], latest["log_offset"]) == ("39", 39.5, None)
    assert latest["file"] == str(project.folder / "orders.csv")
    assert (
        orders["trace"]["files"][0]["sha256"]
        == hashlib.sha256((project.folder / "orders.csv").read_bytes()).hexdigest()
    )
    visits = told_of["crowd.visits"]
    assert (visits["trace"]["rows"][0]["log_offset"], visits["trace"]["rows"][0]["event_id"]) == (1, "v0")
    of_entity = antiphon("features", "lineage", "today.paid", "-e", "shop=cake")
    assert of_entity.code == 0, of_entity.err
    assert "38.5, the same when made again" in of_entity.out
    assert "orders.csv" in of_entity.out
    project.write(*[row.replace("39.5", "7.25") for row in ROWS])
    changed = antiphon("features", "lineage", "today.paid", "--prediction", receipt.prediction)
    assert changed.code == 0
    assert "39.5, not comparable: its source changed since the snapshot" in changed.out
    assert "paid=7.25" in changed.out, "the rows are those of now"
    (project.folder / "orders.csv").unlink()
    gone = antiphon("features", "lineage", "today.paid", "--prediction", receipt.prediction)
    assert (gone.code, "There is no file" in gone.out) == (0, True)
    project.write(*ROWS)
    project.alter("today")
    altered = antiphon("features", "lineage", "today.orders", "-e", "shop=tea")
    assert altered.code == 1
    assert "21, made again 20" in altered.out
    for arguments, code in (
        (["today.orders"], 2), ([], 2), (["today.nothing", "-e", "shop=tea"], 3), (["today.orders", "-e", "door=1"], 2),
        (["today.gone", "--prediction", receipt.prediction], 3), (["nothing.a", "-e", "shop=tea"], 3),
    ):  # fmt: skip
        assert antiphon("features", "lineage", *arguments).code == code, arguments


async def test_an_on_demand_feature_is_followed_to_the_request_and_what_it_read(project: Project) -> None:
    receipt = project.predicted("tea", minutes=90.0)
    (found,) = project.terminal("features", "lineage", "wait.each", "--prediction", receipt.prediction, "--json").json()
    assert (found["value"], found["recomputed"], found["same"], found["inputs"]) == (4.5, 4.5, True, {"minutes": 90.0})
    assert [(one["feature"], one["trace"]["contributing"]) for one in found["reads"]] == [("today.orders", 20)]
    report = project.terminal("features", "skew", "wait", "--json").json()
    assert [(one["feature"], one["equal"], one["different"]) for one in report["features"]] == [("each", 1, 0)]
    async with project.http("engineer", page=True) as browser:
        page = (await browser.get(f"/requests/{receipt.prediction}/lineage?feature=wait.each")).text
        assert "minutes 90.0" in page
        assert page.count('<span class="chip completed">recomputed</span>') == 2, "and what it read"
    features = ProjectPredictions(project.store).explain(project.store.scope, receipt.prediction)["features"]
    assert [(one["source"], one["inputs"]) for one in features if one["name"] == "wait.each"] == [
        ("request", {"minutes": 90.0})
    ]


async def test_the_lineage_of_a_prediction_over_http_and_on_its_page(project: Project) -> None:
    receipt = project.predicted("tea")
    path = f"/admin/predictions/{receipt.prediction}/lineage"
    body = {"feature": "orders", "entity": {"shop": "cake"}}
    async with project.http("viewer") as http:
        assert (await http.get(path)).status_code == 403, "source rows are a right of their own"
        assert (await http.post("/admin/features/today/lineage", json=body)).status_code == 403
        explained = told(await http.get(f"/admin/predictions/{receipt.prediction}/explain"))
        assert {one["lineage"] for one in explained["features"]} == {None}
    async with project.http() as http:
        found = told(await http.get(path, params={"feature": "today.takings", "limit": 2}))["features"]
        assert (len(found), found[0]["same"], len(found[0]["trace"]["rows"])) == (1, True, 2)
        assert str(project.folder) not in str(found), "where files lie is not told"
        assert found[0]["trace"]["files"][0]["path"] == "orders.csv"
        assert (await http.get(path, params={"feature": "today.nothing"})).status_code == 404
        explained = told(await http.get(f"/admin/predictions/{receipt.prediction}/explain"))
        assert {one["made_again"] for one in explained["features"]} == {"the same"}
        assert str(project.folder) not in str(explained["features"])
    async with project.http() as http:
        found = told(await http.post("/admin/features/today/lineage", json=body))
        assert (found["value"], found["same"], found["trace"]["contributing"]) == (20, True, 20)
        assert (await http.post("/admin/features/today/lineage", json={**body, "feature": "x"})).status_code == 404
    async with project.http("engineer", page=True) as browser:
        page = (await browser.get(f"/requests/{receipt.prediction}")).text
        assert f'href="/requests/{receipt.prediction}/lineage?feature=today.orders"' in page
        page = (await browser.get(f"/requests/{receipt.prediction}/lineage?feature=today.orders")).text
        assert '<span class="chip completed">recomputed</span>' in page
        assert "orders.csv" in page
        assert (await browser.get("/requests/pred_x/lineage")).status_code == 404


async def test_every_view_at_a_glance(project: Project) -> None:
    def glances() -> dict[str, Any]:
        listed = project.terminal("features", "list", "--json")
        assert listed.code == 0, listed.err
        return {one["view"]: one for one in listed.json()}

    today, crowd = glances()["today"], glances()["crowd"]
    assert (today["state"], today["keys"], today["source"], today["contracts"]) == (
        "fresh", ["shop"], "orders", {"desk": 3600.0}
    )  # fmt: skip
    assert today["snapshot"] is not None
    assert today["lag"] is None
    until = datetime.fromisoformat(today["next_refresh"]) - project.store.database.clock.now()
    assert timedelta(0) < until <= timedelta(minutes=15)
    paused = project.terminal("schedules", "pause", "refresh:15m", "--for", "2h", "--reason", "the source moves")
    assert paused.code == 0, paused.err
    until = datetime.fromisoformat(glances()["today"]["next_refresh"]) - project.store.database.clock.now()
    assert timedelta(hours=1, minutes=59) < until <= timedelta(hours=2)
    assert (crowd["state"], crowd["lag"], crowd["next_refresh"]) == ("fresh", 1, None), "nobody consumes here"
    project.consume()
    assert glances()["crowd"]["lag"] == 0
    version = project.store.applied.current(project.store.scope).project.views["today"].definition_version  # type: ignore[union-attr]
    until_then = project.store.database.clock.now() + timedelta(hours=1)
    project.store.staged.add(
        StagedSnapshot(project.store.scope, "today", version, str(today["snapshot"]), until_then, "later", "ops")
    )
    assert glances()["today"]["state"] == "waiting"
    project.terminal("features", "hold", "today", "--reason", "wait")
    project.write()
    await project.refresh("today", ends="failed")
    blocked = glances()["today"]
    assert (blocked["state"], blocked["held"], blocked["staged_until"] is not None) == ("blocked", "wait", True)
    listed = project.terminal("features", "list").out
    for part in (
        "today: its last version is blocked, the one before stays",
        "today: held: wait",
        "desk 60 min",
        "embargo",
    ):
        assert part in listed, part
    async with project.http("viewer") as http:
        views = {one["view"]: one for one in told(await http.get("/admin/features"))["views"]}
        assert (views["today"]["state"], views["today"]["held"]) == ("blocked", "wait")
    async with project.http("viewer", page=True) as browser:
        page = (await browser.get("/features")).text
        assert '<span class="chip state-blocked">blocked</span>' in page
        assert "held: wait" in page


def test_a_view_is_stale_for_the_contracts_that_its_age_is_over(tmp_path: Path) -> None:
    project = Project(tmp_path)
    asyncio.run(project.refresh())
    project.store.database.clock = ManualClock(project.store.database.clock.now() + timedelta(minutes=90))
    found = {one.view: one for one in read_view_statuses(project.store, project.platform, project.store.scope)}
    assert (found["today"].state, found["today"].stale_for) == ("stale", ("desk",))
    assert (found["crowd"].state, found["crowd"].lag, found["crowd"].contracts) == ("late", 1, {"desk": 600.0})
    assert read_view_statuses(project.store, project.platform, Scope("another", "dev")) == ()
    project.close()
