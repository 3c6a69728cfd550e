"""The dashboard's session and pages, without a browser."""

from __future__ import annotations

from datetime import timedelta

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import serve

from antiphon.catalog.measurements import PLATFORM, Amount, MeasurementRows, Measurements, Series
from antiphon.core.errors import EngineError
from antiphon.governance.identity.keys import Keys


@pytest.fixture
async def browser(running):
    async with httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        yield client


async def test_pages_ask_for_a_key_and_go_on_to_where_one_wanted(browser, keys) -> None:
    answer = await browser.get("/requests?application=desk")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/requests%3Fapplication%3Ddesk"
    answer = await sign_in(browser, keys["viewer"], "/requests?application=desk")
    assert (answer.status_code, answer.headers["location"]) == (303, "/requests?application=desk")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert keys["viewer"] not in cookie
    assert (await browser.get("/")).status_code == 200


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", ""])
async def test_the_login_never_leads_to_another_site(browser, keys, target) -> None:
    assert (await sign_in(browser, keys["viewer"], target)).headers["location"] == "/"


async def test_a_wrong_key_is_said_on_the_page(browser) -> None:
    answer = await sign_in(browser, "ak_wrong<script>")
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "What was sent is no API key." in answer.text
    assert "Authorization" not in answer.text
    assert "<script>" not in answer.text.replace('<script src="/static', "")


async def test_a_revoked_key_ends_its_sessions(browser, keys, database) -> None:
    await sign_in(browser, keys["viewer"])
    assert (await browser.get("/")).status_code == 200
    record = next(key for key in Keys(database, fakes.SECRET).list("default") if key.role == "viewer")
    # The gateway revokes it itself, so its own leases do not matter.
    headers = {"authorization": f"Bearer {keys['admin']}"}
    assert (await browser.delete(f"/admin/keys/{record.id}", headers=headers)).status_code == 200
    assert (await browser.get("/")).status_code == 303
    part = await browser.get("/dashboard/figures")
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")


async def test_a_prediction_shows_its_whole_receipt_and_escapes_what_users_wrote(browser, keys) -> None:
    headers = {"authorization": f"Bearer {keys['service']}"}
    body = {"model": "desk", "messages": [{"role": "user", "content": "<img src=x onerror=alert(1)>"}]}
    made = (await browser.post("/v1/chat/completions", json=body, headers=headers)).json()["id"]
    await sign_in(browser, keys["viewer"])
    page = (await browser.get(f"/requests/{made}")).text
    for told in ("congestion.delay_2h", "27.4", "flagged", "figures:notice", "82.0 %", "allow", "µUSD", "fp-5f2c"):
        assert told in page
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    listed = (await browser.get("/requests")).text
    assert f"/requests/{made}" in listed


async def test_the_list_is_filtered_and_paged(browser, keys, answerer) -> None:
    headers = {"authorization": f"Bearer {keys['service']}"}
    for number in range(43):
        body = {"model": "desk" if number else "tiny", "messages": [{"role": "user", "content": "x"}]}
        await browser.post("/v1/chat/completions", json=body, headers=headers)
    await sign_in(browser, keys["viewer"])
    first = (await browser.get("/requests")).text
    assert first.count('href="/requests/pred_') == 40
    older = first.split('<a href="/requests?before=')[1].split('"')[0]
    second = (await browser.get(f"/requests?before={older}")).text
    assert second.count('href="/requests/pred_') == 3
    assert (await browser.get("/requests?application=tiny")).text.count('href="/requests/pred_') == 1
    assert "of this kind" in (await browser.get("/requests?application=desk&path=batch")).text
    assert (await browser.get("/requests?path=sideways")).status_code == 400
    assert (await browser.get("/requests/pred_none")).status_code == 404


async def test_pages_forbid_foreign_scripts_and_caching(browser, keys) -> None:
    await sign_in(browser, keys["viewer"])
    for path in ("/", "/requests", "/login", "/dashboard/series"):
        headers = (await browser.get(path)).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
    assert "<script>" not in (await browser.get("/")).text


async def test_static_files_are_served_and_nothing_beside_them(browser) -> None:
    for path in ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "overview.js", "antiphon.css", "mark.svg"):
        assert (await browser.get(f"/static/{path}")).status_code == 200
    for path in ("../pages.py", "%2e%2e/pages.py", "vendor/../../pages.py"):
        assert (await browser.get(f"/static/{path}")).status_code == 404


async def test_the_series_of_all_processes_are_on_one_axis(browser, keys, database) -> None:
    rows, now = MeasurementRows(database, "dev"), database.clock.now()
    age: Series = ("antiphon_feature_age_seconds", ("weather",))
    answers: Series = ("antiphon_answers", ("desk", "online", "generated", "live"))
    sequences: Series = ("antiphon_engine_requests", ("engine", "running_batch"))
    for process in ("gateway@one", "gateway@two"):
        rows.append(process, now - timedelta(minutes=5), {"default": Measurements({answers: Amount(30.0)})})
    measured = Measurements({age: Amount(6_100.0, 10.0, 610.0)})
    rows.append("tenant", now - timedelta(minutes=5), {"default": measured})
    rows.append("engines", now - timedelta(minutes=5), {PLATFORM: Measurements({sequences: Amount(30.0, 10.0, 3.0)})})
    await sign_in(browser, keys["viewer"])
    series = (await browser.get("/dashboard/series?span=15m")).json()
    place = next(number for number, value in enumerate(series["online"]) if value)
    assert series["period"] == 10
    assert (series["online"][place], series["running_batch"][place]) == (6.0, 3.0)
    assert series["freshness"] == {"weather": [None] * place + [610.0] + [None] * (len(series["at"]) - place - 1)}
    assert {len(values) for name, values in series.items() if isinstance(values, list)} == {len(series["at"])}
    year = (await browser.get("/dashboard/series?span=1y")).json()
    assert (year["period"], len(year["at"])) == (86_400, 366)
    assert sum(value for value in year["online"] if value) > 0  # Although nothing has been rolled up.
    assert (await browser.get("/dashboard/series?span=forever")).status_code == 400


def answered(series) -> float:
    """The online answers that a chart of their rate shows; its last period is not over."""
    return sum(
        (rate or 0.0) * (min(begin + series["period"], series["until"]) - begin)
        for begin, rate in zip(series["at"], series["online"], strict=True)
    )


async def test_a_page_of_one_gateway_shows_what_another_has_measured_since(keys, database) -> None:
    answers: Series = ("antiphon_answers", ("desk", "online", "generated", "live"))
    async with (
        serve(fakes.gateway_services(database)) as here,
        serve(fakes.gateway_services(database)) as there,
        httpx2.AsyncClient(base_url=here.url) as one,
        httpx2.AsyncClient(base_url=there.url) as two,
    ):
        for browser in (one, two):
            await sign_in(browser, keys["viewer"])
        rows, begin = MeasurementRows(database, "dev"), database.clock.now() - timedelta(hours=2)
        for count in (30.0, 60.0, 90.0):
            rows.append("gateway@one", begin, {"default": Measurements({answers: Amount(count)})})
            if count > 30.0:
                rows.roll_up()
            for span in ("6h", "1y"):
                for browser in (one, two):
                    series = (await browser.get(f"/dashboard/series?span={span}")).json()
                    assert answered(series) == pytest.approx(count * (count + 30.0) / 60.0), (count, span)


async def test_what_this_process_has_not_written_yet_is_in_the_status(browser, keys, answerer) -> None:
    headers = {"authorization": f"Bearer {keys['service']}"}
    body = {"model": "desk", "messages": [{"role": "user", "content": "x"}]}
    for _ in range(3):
        await browser.post("/v1/chat/completions", json=body, headers=headers)
    await browser.post("/v1/chat/completions", json=body | {"temperature": 0.5}, headers=headers)
    answerer.failure = EngineError("The engine failed.")
    await browser.post("/v1/chat/completions", json=body, headers=headers)
    latency = (await browser.get("/admin/status", headers=headers)).json()["latency"]
    assert (latency["count"], latency["failed"]) == (3, 1)  # What a caller asked wrongly is no failure.
    assert 0 < latency["total_p50"] <= latency["total_p99"] < 5


async def test_nobody_sees_the_series_or_latencies_of_another_tenant(browser, running, keys, database) -> None:
    other, _ = Keys(database, fakes.SECRET).create("other", "stranger", "admin")
    headers = {"authorization": f"Bearer {keys['service']}"}
    body = {"model": "desk", "messages": [{"role": "user", "content": "x"}]}
    made = (await browser.post("/v1/chat/completions", json=body, headers=headers)).json()["id"]
    await sign_in(browser, other)
    status = (await browser.get("/admin/status", headers={"authorization": f"Bearer {other}"})).json()
    assert (status["tenant"], status["latency"]["count"], status["jobs"]) == ("other", 0, [])
    series = (await browser.get("/dashboard/series")).json()
    assert not any(series["online"])
    assert series["freshness"] == {}
    assert (await browser.get(f"/requests/{made}")).status_code == 404
    assert "Nothing has been asked" in (await browser.get("/requests")).text
