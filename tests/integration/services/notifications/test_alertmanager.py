"""A real Alertmanager: what begins fires there, is said again while it lasts, and what is over is resolved."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.services.notifications.receivers import deliver, project, say
from tests.servers import AlertmanagerProcess, until

from antiphon.core.clock import SystemClock
from antiphon.core.errors import InvalidInputError
from antiphon.services.notifications.delivery import NotificationSender
from antiphon.services.project.store import Store


@pytest.fixture(scope="module")
def alertmanager() -> Iterator[AlertmanagerProcess]:
    with AlertmanagerProcess() as started:
        yield started


@pytest.fixture
def store(tmp_path: Path, alertmanager: AlertmanagerProcess) -> Iterator[Store]:
    made = project(tmp_path, f'[notifications.alerts]\nkind = "alertmanager"\nurl = "{alertmanager.url}"\n')
    yield made
    made.close()


def alerts(server: AlertmanagerProcess, id: str) -> list[dict[str, Any]]:
    """The alerts of a notification that are not over."""
    with urllib.request.urlopen(f"{server.url}/api/v2/alerts", timeout=10) as answer:
        return [one for one in json.load(answer) if one["labels"]["notification"] == id]


async def test_an_alert_fires_until_it_is_over(store: Store, alertmanager: AlertmanagerProcess) -> None:
    say(
        store,
        "a",
        application="desk",
        text='much "text" & more',
        labels={"window.size": "1h"},
        link="https://x.example/1",
    )
    await deliver(store)
    (alert,) = alerts(alertmanager, "a")
    assert alert["labels"] == {
        "alertname": "objective.burn", "application": "desk", "environment": "dev", "notification": "a",
        "severity": "critical", "tenant": "default", "window_size": "1h",
    }  # fmt: skip
    assert alert["annotations"] == {"summary": "a burns", "description": 'much "text" & more'}
    assert (alert["status"]["state"], alert["generatorURL"]) == ("active", "https://x.example/1")
    ahead = datetime.fromisoformat(alert["endsAt"]) - datetime.now(UTC)
    assert timedelta(minutes=4) < ahead <= timedelta(minutes=5)
    assert NotificationSender(store).log(None, 1)[0].answer == "200"
    store.notifications.resolve(store.scope, "a", SystemClock().now())
    await deliver(store)
    until(lambda: not alerts(alertmanager, "a"))


async def test_what_lasts_is_said_again_to_one_that_has_forgotten(
    store: Store, alertmanager: AlertmanagerProcess
) -> None:
    say(store, "b")
    say(store, "moment", ended_at=store.database.clock.now())
    await deliver(store)
    assert alerts(alertmanager, "moment"), "what has no duration stands for a while"
    alertmanager.kill()
    sender = NotificationSender(store)
    assert sender.repeat() == 0, "it is away; nothing breaks"
    alertmanager.forget()
    alertmanager.start()
    assert alerts(alertmanager, "b") == []
    assert sender.repeat() == 1
    assert len(alerts(alertmanager, "b")) == 1
    store.notifications.resolve(store.scope, "b", SystemClock().now())
    assert sender.repeat() == 0, "what is over is not"
    await deliver(store)
    until(lambda: not alerts(alertmanager, "b"))


def test_a_test_is_an_alert_that_ends_by_itself(store: Store, alertmanager: AlertmanagerProcess) -> None:
    assert NotificationSender(store).test("alerts") == "200"


def test_a_password_goes_to_a_server_of_this_machine_or_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_PASSWORD", "right")
    channel = '[notifications.far]\nkind = "alertmanager"\nurl = "http://alerts.example.com"\n'
    store = project(tmp_path, f'{channel}password_variable = "ALERT_PASSWORD"\n')
    with pytest.raises(InvalidInputError, match="clear text"):
        NotificationSender(store).test("far")
    store.close()
