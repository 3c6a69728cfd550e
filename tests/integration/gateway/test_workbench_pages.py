"""The workbench over HTTP: its operations of /admin, what its pages refuse, and what they keep of a refused form."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.harness.small_desk import SCOPE
from tests.integration.gateway.conftest import serve
from tests.integration.learning.tried_desk import METRICS, TRIAGE, TriedDesk

from antiphon import metrics
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principals import Role


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[TriedDesk]:
    opened = TriedDesk(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def url(desk: TriedDesk) -> AsyncIterator[str]:
    async with serve(fakes.gateway_services(desk.database, environment=SCOPE.environment)) as running:
        yield running.url


def client(desk: TriedDesk, url: str, role: Role = "engineer") -> httpx2.AsyncClient:
    key, _ = Keys(desk.database, fakes.SECRET).create("default", role, role)
    return httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"})


async def got(http: httpx2.AsyncClient, path: str) -> Any:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_annotations_and_cases_over_http(desk: TriedDesk, url: str) -> None:
    prediction = await desk.ask("A flood")
    async with client(desk, url) as http:
        case = {"set": "complaints"}
        nothing = await http.post(f"/admin/predictions/{prediction}/case", json=case)
        assert nothing.status_code == 400
        assert "Nothing is expected" in nothing.text
        down = {"kind": "thumbs", "value": "down", "note": "it is urgent"}
        assert (await http.post(f"/admin/predictions/{prediction}/annotations", json=down)).status_code == 200
        (kept,) = (await got(http, f"/admin/predictions/{prediction}/annotations"))["annotations"]
        assert (kept["annotator"], kept["value"], kept["note"]) == ("engineer", "down", "it is urgent")
        wrong = await http.post(f"/admin/predictions/{prediction}/annotations", json=down | {"value": "so"})
        assert wrong.status_code == 400
        for_bob = await http.post(f"/admin/predictions/{prediction}/annotations", json=down | {"annotator": "bob"})
        assert for_bob.status_code == 400, "over HTTP nobody speaks for another"
        made = (await http.post(f"/admin/predictions/{prediction}/case", json=case)).json()
        assert (made["set"], made["version"], made["expect"][0]["kind"]) == ("complaints", 1, "not_text")
        listed = (await got(http, "/admin/regressions"))["sets"]
        assert [(one["name"], one["cases"]) for one in listed] == [("complaints", {made["case"]: "visible"})]
        shown = await got(http, "/admin/regressions/complaints")
        assert shown["cases"][0]["question"] == "A flood"
    async with client(desk, url, "viewer") as http:
        path = f"/admin/predictions/{prediction}"
        assert (await http.post(f"{path}/annotations", json=down)).status_code == 403
        assert (await http.post(f"{path}/case", json=case)).status_code == 403


async def test_versions_trials_and_agreement_over_http(desk: TriedDesk, url: str) -> None:
    prediction = await desk.ask("A flood")
    trial = await desk.tried(desk.told("Everything is urgent."))
    async with client(desk, url) as http:
        versions = (await got(http, "/admin/prompts/triage"))["versions"]
        assert [(one["live"], one["requests"]) for one in versions] == [(False, 0), (True, 1)]
        (line,) = (await got(http, "/admin/trials"))["trials"]
        assert (line["id"], line["identical"], line["prompt"]) == (trial.id, 0, versions[0]["version"])
        compared = await got(http, f"/admin/trials/{trial.id}")
        assert compared["comparison"]["requests"] == 1
        assert compared["preferences"] == {"first": 0, "second": 0, "ties": 0, "share": None}
        assert (await got(http, "/admin/prompts/triage/agreement"))["agreements"] == []
        missing = await http.get("/admin/trials/trial_none")
        assert missing.status_code == 404
        same = await got(http, f"/admin/trials/{trial.id}?against={trial.id}")
        assert same["comparison"]["identical"] == 1
    assert prediction == trial.answers[0].request


async def test_a_refused_form_loses_nothing_and_says_what_is_wrong(desk: TriedDesk, url: str) -> None:
    prediction = await desk.ask("A flood")
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "reader", "engineer")
    async with httpx2.AsyncClient(base_url=url, follow_redirects=True) as browser:
        page = await sign_in(browser, key, f"/requests/{prediction}")
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token is not None
        said = {"csrf": token[1], "act": "say", "kind": "label", "criterion": "urgency", "value": "late <b>x</b>"}
        wrong = await browser.post(f"/requests/{prediction}/annotations", data=said)
        assert wrong.status_code == 400
        assert "urgency is never" in wrong.text
        assert "late &lt;b&gt;x&lt;/b&gt;</textarea>" in wrong.text
        assert "<details open>" in wrong.text
        unsigned = await browser.post(f"/requests/{prediction}/annotations", data=said | {"csrf": "forged"})
        assert unsigned.status_code == 403
        assert desk.annotations.list(SCOPE) == []
        case = {"csrf": token[1], "set": "No name", "expect": "contains", "value": "urgent", "note": "why"}
        refused = await browser.post(f"/requests/{prediction}/case", data=case)
        assert refused.status_code == 400
        for kept in ("is no name of a set", 'value="No name"', ">urgent</textarea>", 'value="why"'):
            assert kept.replace('"', "&#34;") in refused.text or kept in refused.text, kept
        saved = await browser.post(f"/requests/{prediction}/case", data=case | {"set": "complaints"})
        assert saved.status_code == 200
        assert "complaints, version 1" in saved.text
        assert (await browser.get("/prompts?application=nothing")).status_code == 404
        assert (await browser.get("/regressions/none")).status_code == 404


@pytest.fixture
async def measured(tmp_path: Path) -> AsyncIterator[TriedDesk]:
    own = (
        OwnMetric("shown", f"{METRICS}:brief"),
        OwnMetric("odd", f"{METRICS}:nonsense"),
        metrics.groundedness("summary"),
    )
    opened = TriedDesk(tmp_path, application=msgspec.structs.replace(TRIAGE, own_metrics=own))
    yield opened
    opened.close()


async def test_metrics_stand_on_the_page_of_a_trial_and_in_the_form_of_a_case(measured: TriedDesk) -> None:
    desk = measured
    prediction = await desk.ask("A flood")
    trial = await desk.tried(desk.told("Everything is urgent."))
    (answer,) = trial.answers
    assert answer.live.own["groundedness"] == answer.draft.own["groundedness"] == 1.0
    assert set(answer.draft.own_failed) == {"shown", "odd"}, "they raise, and are no number"
    async with serve(fakes.gateway_services(desk.database, environment=SCOPE.environment)) as running:
        async with client(desk, running.url) as http:
            found = (await got(http, f"/admin/trials/{trial.id}"))["comparison"]["metrics"]
            assert [(one["name"], one["requests"]) for one in found] == [("shown", 0), ("odd", 0), ("groundedness", 1)]
            assert "no value of 2 answers" in found[0]["note"]
        key, _ = Keys(desk.database, fakes.SECRET).create("default", "reader", "engineer")
        async with httpx2.AsyncClient(base_url=running.url, follow_redirects=True) as browser:
            page = await sign_in(browser, key, f"/trials/{trial.id}")
            assert "groundedness" in page.text
            assert "no value of 2 answers" in page.text
            form = await browser.get(f"/requests/{prediction}/case")
            assert "metric groundedness" in form.text
            token = re.search(r'name="csrf" value="([^"]+)"', form.text)
            assert token is not None
            case = {"csrf": token[1], "set": "complaints", "expect": "metric", "property": "groundedness"}
            refused = await browser.post(f"/requests/{prediction}/case", data=case | {"value": "much"})
            assert refused.status_code == 400
            assert "is no bound of groundedness" in refused.text
            saved = await browser.post(f"/requests/{prediction}/case", data=case | {"value": "at least 0.5"})
            assert "groundedness is at least 0.5" in saved.text


async def test_a_search_is_ordered_and_read_over_http(desk: TriedDesk, url: str) -> None:
    order = {"set": "complaints", "by": "tiny", "budget": 20}
    async with client(desk, url) as http:
        for question, split in (("A flood", "visible"), ("Another flood", "held-out")):
            prediction = await desk.ask(question)
            case = {"set": "complaints", "split": split, "expect": [{"kind": "schema"}]}
            assert (await http.post(f"/admin/predictions/{prediction}/case", json=case)).status_code == 200
        unknown = await http.post("/admin/prompts/triage/optimizations", json=order | {"set": "none"})
        assert unknown.status_code == 404
        assert (await http.post("/admin/prompts/triage/optimizations", json=order | {"budget": 0})).status_code == 400
        placed = await http.post("/admin/prompts/triage/optimizations", json=order)
        assert placed.status_code == 202, placed.text
        run = placed.json()["id"]
        found = await got(http, f"/admin/optimizations/{run}")
        assert (found["run"]["status"], found["application"], found["result"]) == ("queued", "triage", None)
        assert found["order"]["release"] == desk.release.id, "as it is live now"
        trial = await http.post("/admin/trials", json={"application": "triage"})
        assert (await http.get(f"/admin/optimizations/{trial.json()['id']}")).status_code == 404
    async with client(desk, url, "viewer") as http:
        assert (await http.post("/admin/prompts/triage/optimizations", json=order)).status_code == 403


async def test_an_erased_text_leaves_its_page_and_its_trial(desk: TriedDesk, url: str) -> None:
    prediction = await desk.ask("A flood")
    trial = await desk.tried(desk.told("Everything is urgent."))
    desk.blobs.erase(SCOPE, desk.receipts.get(SCOPE, prediction).text_blob)
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "reader", "engineer")
    async with httpx2.AsyncClient(base_url=url, follow_redirects=True) as browser:
        page = await sign_in(browser, key, f"/trials/{trial.id}")
        assert page.status_code == 200
        assert "No pair of texts is left" in page.text
        assert (await browser.get(f"/requests/{prediction}")).status_code == 200
