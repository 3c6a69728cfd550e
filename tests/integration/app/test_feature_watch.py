"""What is told about served features over a whole project: in the terminal, over HTTP and on the dashboard."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.app.watched_project import ROWS, Project, told


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
    assert "2: its source changed since the snapshot" in changed.out
    project.write(*ROWS)
    project.alter("today")
    wrong = antiphon("features", "skew", "today", "--sample", "1")
    assert wrong.code == 1
    assert "2 of 6 values differ" in wrong.out
    assert re.search(r"today.orders shop=\w+ as of .*: online 21, batch 20", wrong.out)
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
        assert told(await http.get("/admin/features/crowd/skew"))["report"]["features"] == []
        assert (await http.post("/admin/features/today/skew", json={"sample": 5_000})).status_code == 400
        assert (await http.post("/admin/features/nothing/skew", json={})).status_code == 404
    async with project.http("viewer") as http:
        assert (await http.post("/admin/features/today/skew", json={})).status_code == 403
    async with project.http(page=True) as browser:
        page = (await browser.get("/skew")).text
        assert "Nothing was compared yet" in page
        done = await browser.post("/skew", data={"csrf": csrf(page), "sample": "10", "view": ""})
        assert done.status_code == 303
        page = (await browser.get("/skew")).text
        assert "4 of 7 values differ" in page, "the mean counts too"
        assert "shop tea" in page
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
        assert (await http.post(f"{path}/rollback", json={"reason": "worse", "seen": 1})).status_code == 409
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
        assert "A hand on it" not in page
        assert (await browser.post("/features/today", data={"csrf": csrf(page), "act": "hold"})).status_code == 403
    async with project.http(page=True) as browser:
        page = (await browser.get("/features/today")).text
        form = {"csrf": csrf(page), "seen": "3", "to": "", "reason": "on again"}
        assert "Let it go on" in page
        assert (await browser.post("/features/today", data={**form, "act": "resume"})).status_code == 303
        late = await browser.post("/features/today", data={**form, "act": "rollback", "seen": "2"})
        assert late.status_code == 409
        assert "Publication 2 is not current any more; 3 is." in late.text
        assert 'value="on again"' in late.text, "what was written is not lost"
        done = await browser.post("/features/today", data={**form, "act": "rollback", "hold": "yes"})
        assert done.status_code == 303
        assert "<h2>Held</h2>" in (await browser.get("/features/today")).text
        assert (await browser.post("/features/today", data={**form, "act": "drop"})).status_code == 400
