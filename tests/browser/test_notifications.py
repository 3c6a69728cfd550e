"""The page *Notifications* in Chromium: deliveries as they go on, filters by keyboard, and a test of a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import require_accessible, require_names, require_sound, signed_in
from tests.integration.gateway.conftest import Running, answerer, database, serve, services
from tests.integration.gateway.test_notification_pages import (
    HOSTILE,
    SCOPE,
    deliver,
    fail,
    receiver,
    say,
    store,
)
from tests.integration.services.notifications.receivers import HttpReceiver

from antiphon.catalog.database import Database
from antiphon.gateway.services import GatewayServices
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["answerer", "database", "receiver", "services", "store"]

pytestmark = pytest.mark.browser


@pytest.fixture
async def running(services: GatewayServices) -> AsyncIterator[Running]:
    async with serve(services) as started:
        yield started


@pytest.fixture
async def page(running: Running, store: Store, database: Database) -> AsyncIterator[Page]:
    for number in range(50):
        id = f"n{number:02}"
        sequence = say(store, id, "drift" if number % 5 else "release.live", title=HOSTILE if number == 48 else "")
        if number % 2:
            deliver(store, sequence, id, "desk", "sent", answer="204", ended_at=database.clock.now())
    sequence = say(store, "late")
    run = store.runs.submit(SCOPE, NOTIFY, {"channel": "desk", "sequence": sequence}, "notify:desk:late:firing")
    deliver(store, sequence, "late", "desk", "ordered", run=run)
    fail(store, run, f"The channel desk did not take it: {HOSTILE}.")
    async with signed_in(running, database, "admin", "/notifications", "h1") as opened:
        yield opened


async def test_a_delivery_that_waits_says_why_and_the_page_goes_on_by_itself(page: Page, store: Store) -> None:
    from playwright.async_api import expect

    first = page.locator("tbody tr").first
    await expect(page.locator("[data-state]")).to_have_text("Live")
    assert "waits for retry" in await first.inner_text()
    assert HOSTILE in await first.inner_text()
    (waiting,) = store.notification_deliveries.list(SCOPE, "desk", status="ordered")
    store.notification_deliveries.end(SCOPE, "desk", waiting.sequence, "sent", "204")
    await expect(first).to_contain_text("204", timeout=15_000)
    say(store, "newest")
    await expect(page.locator("tbody tr").first).to_contain_text("newest burns", timeout=15_000)


async def test_it_is_read_by_everybody_and_narrowed_by_keyboard(page: Page, running: Running) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.locator("select[name=kind]").select_option("release.live")
    await page.locator("button:has-text('Show')").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/notifications?kind=release.live&state=")
    others = [url for url in requested if "/static/" not in url and "/dashboard/changes" not in url]
    assert len(others) <= 2, others
    assert await page.locator("#notifications tbody tr").count() == 10
    await page.click("text=Clear")
    await page.wait_for_url("**/notifications")
    await page.locator("a[rel=next]").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**?before=*")
    assert await page.locator("#notifications tbody tr").count() == 11
    for address in ("/notifications", "/notifications?state=given-up"):
        await page.goto(running.url + address)
        await require_sound(page, "notifications" if address == "/notifications" else "")


async def test_a_channel_is_tested_by_keyboard_for_a_reason(page: Page, store: Store, receiver: HttpReceiver) -> None:
    await page.locator("summary", has_text="to desk").focus()
    await page.keyboard.press("Enter")
    await page.fill("#reason-desk", "a new receiver")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=desk took it: 204.")
    assert len(receiver.taken) == 1
    await require_names(page)
    await require_accessible(page)
