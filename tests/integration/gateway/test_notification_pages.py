"""The page *Notifications* without a browser: what was said, what became of it, and a test of a channel that is on
record."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest
from tests.harness.gateway_client import gateway_client
from tests.integration.services.notifications.receivers import HttpReceiver, receiver

from antiphon.catalog.database import Database
from antiphon.catalog.notification_deliveries import DeliveryStatus, NotificationDelivery
from antiphon.catalog.notifications import Notification
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import Severity, SlackChannel, WebhookChannel
from antiphon.durable.claims import ServedRuns
from antiphon.gateway.services import GatewayServices
from antiphon.governance.audit.log import AuditFilter
from antiphon.services.notifications.project_notifications import ProjectNotifications
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY

__all__ = ["receiver"]

SCOPE, OTHER = Scope("default", "dev"), Scope("rival", "dev")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(services: GatewayServices, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of the gateway, whose settings name two channels."""
    found: ProjectNotifications = services.work.notifications(SCOPE)
    made = found._store
    channels = {
        "desk": WebhookChannel(url=receiver.url, secret_variable="DESK_HOOK_SECRET"),
        "chat": SlackChannel(url_variable="TEAM_CHAT_URL", severity="warning"),
    }
    made.settings = msgspec.structs.replace(made.settings, notifications=channels)
    monkeypatch.setenv("DESK_HOOK_SECRET", "a secret of this test")
    monkeypatch.setenv("TEAM_CHAT_URL", receiver.url)
    return made


@pytest.fixture
async def admin(services: GatewayServices, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(services, keys["admin"], page=True) as client:
        yield client


def say(
    store: Store,
    id: str,
    kind: str = "objective",
    severity: Severity = "critical",
    scope: Scope = SCOPE,
    title: str = "",
    **more: Any,
) -> int:
    now = store.database.clock.now()
    said = Notification(id, kind, severity, "firing", title or f"{id} burns", now, **more)
    number = store.notifications.append(scope, said)
    assert number is not None
    return number


def deliver(store: Store, number: int, id: str, channel: str, status: DeliveryStatus, **more: Any) -> None:
    now = store.database.clock.now()
    one = NotificationDelivery(channel, number, id, "firing", status, now, **more)
    store.notification_deliveries.add(SCOPE, [one])


async def press(client: httpx2.AsyncClient, **form: str) -> httpx2.Response:
    token = re.search(r'name="csrf" value="([^"]+)"', (await client.get("/notifications")).text)
    assert token is not None
    headers = {"sec-fetch-site": "same-origin"}
    return await client.post("/notifications", data={"csrf": token[1], **form}, headers=headers)


async def test_each_notification_is_shown_with_the_state_of_each_delivery(
    store: Store, admin: httpx2.AsyncClient, receiver: HttpReceiver
) -> None:
    assert "Nothing was said so far." in (await admin.get("/notifications")).text
    now = store.database.clock.now()
    sent = say(store, "a", application="desk", text="Nothing of it is a secret.")
    deliver(store, sent, "a", "desk", "sent", answer="204", ended_at=now)
    deliver(store, sent, "a", "chat", "failed", ended_at=now)
    waits = say(store, "b", "drift", "warning")
    run = store.runs.submit(SCOPE, NOTIFY, {"channel": "desk", "sequence": waits}, "notify:desk:b:firing")
    deliver(store, waits, "b", "desk", "ordered", run=run)
    fail(store, run, f"The channel desk did not take it: {HOSTILE}.")
    say(store, "c", "release.live", "info")
    say(store, "stranger", scope=OTHER)
    page = (await admin.get("/notifications")).text
    for words in ("a burns", "b burns", "c burns", "sent", "given up", "204", "no channel took it", "desk"):
        assert words in page, words
    again = store.runs.get(SCOPE, run).not_before
    assert "waits for retry" in page
    assert f"attempt 2 at {again:%Y-%m-%d %H:%M:%S}" in page
    assert HOSTILE not in page
    assert "stranger" not in page
    assert page.index("c burns") < page.index("b burns") < page.index("a burns")
    for secret in ("a secret of this test", "a-secret-path", receiver.url):
        assert secret not in page


def fail(store: Store, run: str, error: str) -> None:
    """End an attempt at a run, which is tried again in an hour."""
    claimed = store.runs.claim("worker", ServedRuns(SCOPE.environment), timedelta(seconds=10))
    assert claimed is not None
    assert claimed.id == run
    store.runs.fail(claimed, error, store.database.clock.now() + timedelta(hours=1))


async def test_the_address_narrows_by_kind_and_state_and_pages_go_on_from_a_number(
    store: Store, admin: httpx2.AsyncClient
) -> None:
    for number in range(90):
        id = f"n{number:02}"
        sequence = say(store, id, "release.live" if number % 2 else "objective")
        if number % 3 == 0:
            deliver(store, sequence, id, "desk", "failed" if number % 2 else "sent", answer="204")
    first = (await admin.get("/notifications")).text
    assert len(re.findall(r'<tr id="n', first)) == 40
    older = re.search(r'href="(/notifications\?before=\d+)" rel="next"', first)
    assert older is not None
    second = (await admin.get(older[1])).text
    say(store, "later")
    assert re.findall(r'<tr id="(n\d+)', (await admin.get(older[1])).text) == re.findall(r'<tr id="(n\d+)', second)
    assert not set(re.findall(r'<tr id="(n\d+)', first)) & set(re.findall(r'<tr id="(n\d+)', second))
    assert len(re.findall(r'<tr id="n', (await admin.get("/notifications?kind=release")).text)) == 40
    given_up = (await admin.get("/notifications?kind=release.live&state=given-up")).text
    assert len(re.findall(r'<tr id="n', given_up)) == 15
    assert 'data-part="/dashboard/notifications?kind=release.live&amp;state=given-up"' in given_up
    untaken = (await admin.get("/dashboard/notifications?state=untaken")).text
    assert "no channel took it" in untaken
    assert "chip completed" not in untaken
    assert "No such notification." in (await admin.get("/notifications?kind=releas")).text
    for wrong in ("state=odd", "before=x", "before=99999999999999999999999", f"kind={'k' * 400}"):
        assert (await admin.get(f"/notifications?{wrong}")).status_code == 400, wrong


async def test_the_same_is_read_as_json(store: Store, services: GatewayServices, keys: dict[str, str]) -> None:
    for number in range(4):
        deliver(store, say(store, f"n{number}", "release.live"), f"n{number}", "desk", "failed")
    async with gateway_client(services, keys["viewer"], page=False) as client:
        address = "/admin/notifications?kind=release&state=given-up&limit=2"
        found = (await client.get(address)).json()
        assert [line["notification"]["id"] for line in found["lines"]] == ["n3", "n2"]
        assert [one["status"] for one in found["lines"][0]["deliveries"]] == ["failed"]
        older = (await client.get(f"{address}&before={found['behind']}")).json()
        assert [line["notification"]["id"] for line in older["lines"]] == ["n1", "n0"]
        assert older["behind"] is None


async def test_a_test_of_a_channel_has_a_reason_and_is_on_record(
    store: Store, admin: httpx2.AsyncClient, receiver: HttpReceiver
) -> None:
    assert (await press(admin, act="test", channel="desk")).status_code == 400
    assert receiver.taken == []
    done = await press(admin, act="test", channel="desk", reason="a new receiver")
    assert "desk took it: 204." in done.text
    assert len(receiver.taken) == 1
    (entry,) = store.audit.query(SCOPE, AuditFilter(action="notifications.test"))
    assert (entry.subject, entry.detail["reason"]) == ("desk", "a new receiver")
    missing = await press(admin, act="test", channel="teem", reason="known")
    assert missing.status_code == 404
    receiver.go_away()
    away = await press(admin, act="test", channel="chat", reason="<b>again</b>")
    assert away.status_code == 503
    assert "The channel chat" in away.text
    assert 'value="&lt;b&gt;again&lt;/b&gt;"' in away.text
    assert "<b>again</b>" not in away.text
    for secret in ("a secret of this test", "a-secret-path"):
        assert secret not in away.text


async def test_only_administrators_of_the_installation_test_a_channel(
    store: Store, services: GatewayServices, database: Database, keys: dict[str, str], receiver: HttpReceiver
) -> None:
    async with gateway_client(services, keys["viewer"], page=True) as viewer:
        page = (await viewer.get("/notifications")).text
        assert "Send a test" not in page
        assert (await press(viewer, act="test", channel="desk", reason="known")).status_code == 403
    rival, _ = store.keys.create("rival", "their-admin", "admin")
    async with gateway_client(services, rival, page=True) as other:
        page = (await other.get("/notifications")).text
        assert "127.0.0.1" not in page
        assert "Send a test" not in page
        assert (await press(other, act="test", channel="desk", reason="known")).status_code == 403
    assert receiver.taken == []


def test_a_stamp_changes_with_each_delivery(store: Store) -> None:
    found = ProjectNotifications(store, SCOPE)
    seen = [found.stamp()]
    number = say(store, "a")
    seen.append(found.stamp())
    deliver(store, number, "a", "desk", "waiting")
    seen.append(found.stamp())
    store.notification_deliveries.end(SCOPE, "desk", number, "sent", "204")
    seen.append(found.stamp())
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert found.stamp() == found.stamp()
