"""Deliveries to receivers over HTTP: once each, signed, again until taken, in order after an absence."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.services.notifications.receivers import HttpReceiver, deliver, project, receiver, say

from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError, UnavailableError
from antiphon.durable.dead_letters import DeadLetters
from antiphon.services.notifications.delivery import NotificationSender
from antiphon.services.notifications.orders import NotificationOrders
from antiphon.services.notifications.webhook import signature
from antiphon.services.project.store import Store

__all__ = ["receiver"]

SECRET = "whsec_" + base64.b64encode(b"a secret of this test").decode()


@pytest.fixture
def store(tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("TEAM_SECRET", SECRET)
    monkeypatch.setenv("CHAT_URL", receiver.url)
    made = project(
        tmp_path,
        f'[notifications.team]\nkind = "webhook"\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\n'
        '[notifications.chat]\nkind = "slack"\nurl_variable = "CHAT_URL"\nseverity = "critical"\n',
    )
    yield made
    made.close()


def titles(receiver: HttpReceiver) -> list[str]:
    """Of what the webhook took: title and state, in order."""
    events = [json.loads(body) for headers, body in receiver.taken if "webhook-id" in headers]
    return [f"{event['data']['title']} {event['data']['state']}" for event in events]


async def test_each_is_sent_once_signed_and_again_until_it_is_taken(store: Store, receiver: HttpReceiver) -> None:
    say(store, "a", severity="info")
    say(store, "b")
    receiver.refuse = 3
    runs = await deliver(store)
    assert [run.status for run in runs] == ["succeeded"] * 3
    assert (len(receiver.seen), len(receiver.taken)) == (6, 3)
    signed = [(headers, body) for headers, body in receiver.taken if "webhook-id" in headers]
    for headers, body in signed:
        said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"a secret of this test", said, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert {headers["webhook-id"] for headers, _ in signed} == {"team:a:firing", "team:b:firing"}
    (chat,) = [json.loads(body) for headers, body in receiver.taken if "webhook-id" not in headers]
    assert chat["text"].startswith("*CRITICAL: b burns*")


async def test_what_a_receiver_missed_comes_when_it_is_back_and_in_order(store: Store, receiver: HttpReceiver) -> None:
    say(store, "before")
    await deliver(store)
    receiver.go_away()
    say(store, "a")
    say(store, "b")

    def tried() -> bool:
        return all(run.attempts > 2 for run in store.runs.list(store.scope) if run.status != "succeeded")

    await deliver(store, tried)
    store.notifications.resolve(store.scope, "a", store.database.clock.now() + timedelta(minutes=7), "gone")
    receiver.come()
    await deliver(store)
    assert sorted(titles(receiver)) == ["a burns resolved", "b burns firing", "before burns firing"]
    assert titles(receiver)[0] == "before burns firing"
    log = {(one.channel, one.notification, one.state): one.status for one in NotificationSender(store).log("team", 50)}
    assert log == {
        ("team", "before", "firing"): "sent",
        ("team", "a", "firing"): "collapsed",
        ("team", "a", "resolved"): "sent",
        ("team", "b", "firing"): "sent",
    }


async def test_firing_comes_before_resolved(store: Store, receiver: HttpReceiver) -> None:
    for number in range(5):
        say(store, f"n{number}")
    await deliver(store)
    for number in range(5):
        store.notifications.resolve(store.scope, f"n{number}", store.database.clock.now())
    await deliver(store)
    found = titles(receiver)
    for number in range(5):
        assert found.index(f"n{number} burns firing") < found.index(f"n{number} burns resolved")


async def test_a_receiver_that_refuses_one_gets_the_others(store: Store, receiver: HttpReceiver) -> None:
    receiver.refuse, receiver.status = 1, 400
    say(store, "a", severity="info")
    await deliver(store)
    say(store, "b", severity="info")
    await deliver(store)
    assert titles(receiver) == ["b burns firing"]
    (b, a) = NotificationSender(store).log("team", 50)
    assert (a.status, a.attempts, b.status, b.answer) == ("failed", 1, "sent", "204")
    assert "answered 400" in (a.error or "")


async def test_a_dead_letter_that_is_tried_again_is_sent(store: Store, receiver: HttpReceiver) -> None:
    receiver.go_away()
    say(store, "a", severity="info")
    (dead,) = await deliver(store, attempts=2)
    assert dead.status == "failed"
    (status,) = [one for one in NotificationSender(store).statuses() if one.channel == "team"]
    assert (status.waiting, status.failed, status.sent) == (0, 1, 0)
    assert "did not take it" in (status.error or "")
    receiver.come()
    with store.database.transaction() as connection:
        DeadLetters(store.database).retry(store.scope, dead.id, within=connection)
    await deliver(store)
    assert titles(receiver) == ["a burns firing"]
    assert NotificationSender(store).log("team", 50)[0].status == "sent"


async def test_nothing_that_is_stored_or_logged_holds_a_secret(
    store: Store, receiver: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.refuse, receiver.status = 2, 403
    say(store, "a")
    await deliver(store)
    receiver.go_away()
    say(store, "b")
    await deliver(store, attempts=2)
    sender = NotificationSender(store)
    shown = f"{sender.statuses()}{sender.log(None, 100)}{list(store.runs.list(store.scope))}{caplog.text}"
    assert "b" in shown
    assert [secret for secret in (SECRET, "a secret of this test", "a-secret-path", "T000") if secret in shown] == []


def test_a_test_says_what_the_receiver_answered(
    store: Store, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = NotificationSender(store)
    assert (sender.test("team"), sender.test("chat")) == ("204", "204")
    assert json.loads(receiver.taken[0][1])["type"] == "test"
    with pytest.raises(NotFoundError, match="no channel 'teem'"):
        sender.test("teem")
    receiver.refuse = 1
    with pytest.raises(UnavailableError, match="answered 500"):
        sender.test("team")
    receiver.go_away()
    with pytest.raises(UnavailableError, match="did not take it"):
        sender.test("chat")
    monkeypatch.delenv("TEAM_SECRET")
    with pytest.raises(SetupError, match="TEAM_SECRET"):
        sender.test("team")


@pytest.mark.parametrize("url", ["http://hooks.example.com/x", "https://169.254.169.254/latest", "file:///etc/passwd"])
def test_a_url_of_a_chat_is_checked_and_not_repeated(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_URL", url)
    with pytest.raises(InvalidInputError) as refused:
        NotificationSender(store).test("chat")
    assert url not in str(refused.value)


async def test_what_a_channel_is_named_no_longer_is_dropped(store: Store, receiver: HttpReceiver) -> None:
    receiver.go_away()
    say(store, "a", severity="info")
    await deliver(store, lambda: bool(store.runs.list(store.scope)))
    (store.paths.root / "antiphon.toml").write_text(
        (store.paths.root / "antiphon.toml").read_text().split("[notifications.team]")[0]
    )
    with_less = Store.open(store.paths.root)
    NotificationOrders(with_less).order_due()
    runs = await deliver(
        with_less, lambda: all(run.status == "succeeded" for run in with_less.runs.list(with_less.scope))
    )
    assert [run.result for run in runs] == [{"status": "dropped", "answer": None}]
    with_less.close()


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of https://github.com/standard-webhooks/standard-webhooks, libraries/python/tests.
    secret, id, timestamp = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    assert signature(secret, id, timestamp, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
