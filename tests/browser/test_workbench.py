"""The pages Prompts in the system's Chromium: a thumb down becomes a regression case, and texts are preferred blind."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.browser.conftest import photograph, require_contrast, require_fit, require_names, signed_in
from tests.harness import fakes
from tests.harness.small_desk import SCOPE
from tests.integration.gateway.conftest import Running, serve
from tests.integration.learning.tried_desk import TriedDesk

from antiphon.governance.identity.keys import Keys
from antiphon.learning.workbench.regressions import CaseRequests, RegressionRunner

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[TriedDesk]:
    opened = TriedDesk(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def running(desk: TriedDesk) -> AsyncIterator[Running]:
    async with serve(fakes.gateway_services(desk.database, environment=SCOPE.environment)) as started:
        yield started


@pytest.fixture
async def page(running, desk) -> AsyncIterator[Page]:
    async with signed_in(running, desk.database, "engineer", "/prompts", "h1:has-text('Prompts')") as opened:
        yield opened


async def thumb_down(running: Running, desk: TriedDesk, prediction: str) -> None:
    """What a user's program sends."""
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "asker", "service")
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}) as client:
        sent = {"application": "triage", "prediction": prediction, "kind": "thumbs", "value": "down"}
        taken = await client.post("/v1/feedback", json=sent)
        assert taken.status_code == 200, taken.text


async def test_a_thumb_down_becomes_a_regression_case_in_three_actions(page, running, desk) -> None:
    prediction = await desk.ask("A flood in the cellar")
    await thumb_down(running, desk, prediction)
    began = monotonic()
    await page.goto(running.url + "/prompts")
    await page.click(f"text={prediction}")
    await page.click("text=Make a case")
    await page.click("button:has-text('Save')")
    await page.wait_for_url("**/regressions/triage-regressions")
    seconds = monotonic() - began
    assert seconds < 60
    print(f"thumb down to regression case: 3 actions, {seconds:.1f} s")
    assert "the text is anything but" in await page.locator("tbody").first.inner_text()
    await photograph(page, "regression-set")

    version = desk.sets.version(SCOPE, "triage-regressions")
    requests = CaseRequests(
        services=desk.services_of, texts=desk.blobs, scorer=desk.scorer, people=lambda release, metric: 0
    )
    runner = RegressionRunner(requests=requests, sets=desk.sets, evaluations=desk.evaluations, clock=desk.clock)
    still = await runner.run(desk.release, version, author="ada")
    mended = await runner.run(desk.told("Everything is urgent."), version, author="ada")
    assert (still.passed, mended.passed) == (False, True)
    await page.reload()
    assert await page.locator(".chip.failed").inner_text() == "0 of 1"
    assert await page.locator(".chip.passed").inner_text() == "1 of 1"


async def test_annotators_speak_on_the_page_and_the_prompt_leads_to_the_request(page, running, desk) -> None:
    prediction = await desk.ask("Cold coffee")
    await page.goto(f"{running.url}/requests/{prediction}")
    await page.click("button:has-text('Thumb down')")
    await page.wait_for_selector("td:has-text('thumbs')")
    await page.click("summary")
    await page.select_option("#kind", "label")
    await page.fill("#value", "normal")
    await page.click("button:has-text('Keep')")
    await page.wait_for_selector("td:has-text('label urgency')")
    assert {(one.kind, one.value) for one in desk.annotations.list(SCOPE)} == {("thumbs", "down"), ("label", "normal")}
    await page.click("dd:has-text('version') a")
    await page.wait_for_url("**/prompts/*")
    assert "You sort tickets." in await page.locator("pre").first.inner_text()
    await page.click(f"text={prediction[-10:]}")
    await page.wait_for_url(f"**/requests/{prediction}")


async def test_texts_are_preferred_blind(page, running, desk) -> None:
    for ticket in ("Cold coffee", "A flood", "There is a fire"):
        await desk.ask(ticket)
    trial = await desk.tried(desk.told("Everything is urgent."))
    await page.goto(f"{running.url}/trials/{trial.id}")
    assert await page.locator("ins").count() >= 2
    await photograph(page, "trial")
    await page.goto(f"{running.url}/trials/{trial.id}?blind=1")
    for _ in range(2):
        assert trial.release not in await page.content()
        left = await page.locator("pre.answer").first.inner_text()
        await page.click("button:has-text('Left')" if '"urgent"' in left else "button:has-text('Right')")
        await page.wait_for_load_state()
    await page.wait_for_selector("text=Nothing is left to say")
    await page.goto(f"{running.url}/trials/{trial.id}")
    preferred = await page.locator("dt:has-text('Preferred blind') + dd").inner_text()
    assert re.match(r"live 0, trial_\w+ 2, ties 0 \(trial_", preferred), preferred


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_can_be_read_named_and_fits(page, running, desk, scheme) -> None:
    prediction = await desk.ask("Cold coffee")
    await thumb_down(running, desk, prediction)
    trial = await desk.tried(desk.told("Everything is urgent."))
    workbench = fakes.gateway_services(desk.database, environment=SCOPE.environment).learning.workbench
    (version, *_) = workbench.versions(SCOPE, "triage")
    await page.emulate_media(color_scheme=scheme)
    for path in (
        "/prompts", f"/prompts/{version.version}", f"/trials/{trial.id}", f"/trials/{trial.id}?blind=1",
        f"/requests/{prediction}", f"/requests/{prediction}/case",
    ):  # fmt: skip
        await page.goto(running.url + path)
        for width in (390, 1280):
            await require_fit(page, width)
        await require_contrast(page)
        await require_names(page)
