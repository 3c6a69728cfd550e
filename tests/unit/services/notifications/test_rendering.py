"""Notifications as each kind of channel shows them: nothing in them makes a header, a link or a mention."""

from __future__ import annotations

import email
import json
from datetime import UTC, datetime, timedelta
from email.policy import default
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.catalog.notifications import Notification
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import (
    AlertmanagerChannel,
    Channel,
    SlackChannel,
    SmtpChannel,
    WebhookChannel,
)
from antiphon.services.notifications import alertmanager, slack, smtp
from antiphon.services.notifications.channels import outside_form, receiver, takes
from antiphon.services.notifications.posting import Destination
from antiphon.services.notifications.wording import headline

BEGAN = datetime(2026, 3, 2, 9, 12, 44, tzinfo=UTC)
ENDED = BEGAN + timedelta(minutes=7)
TO = Destination("team", Scope("shop", "prod"), Path("/project"), BEGAN + timedelta(minutes=1))
MAIL = SmtpChannel(host="mail.example.com", sender="antiphon@example.com", recipients=("ops@example.com", "b@c.de"))


def notification(**fields: Any) -> Notification:
    made = Notification(
        "burn:desk:1", "objective.burn", "critical", "firing", "desk burns its errors", BEGAN, "14 times too fast.",
        "desk", labels={"window": "1h"},
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def test_a_headline_says_how_grave_it_is_or_that_it_is_over() -> None:
    assert headline(notification()) == "CRITICAL: desk burns its errors"
    assert headline(notification(state="resolved", ended_at=ENDED)) == "RESOLVED: desk burns its errors"
    assert headline(notification(severity="info", ended_at=BEGAN, title="a release")) == "a release"


# --- Slack


def test_slack_gets_text_and_blocks_with_everything_escaped() -> None:
    body = slack.message(notification(title="<!channel> a & b > c", text="@here <https://evil|click> @channels"))
    assert body["text"].startswith(
        "*CRITICAL: &lt;!channel&gt; a &amp; b &gt; c*\n@\u200bhere &lt;https://evil|click&gt;"
    )
    assert "@channels" in body["text"], "a word of its own mentions nobody"
    shown = json.dumps(body)
    assert "<!" not in shown
    assert "<https" not in shown
    assert [block["type"] for block in body["blocks"]] == ["section", "section", "context"]


def test_a_text_is_cut_to_what_slack_takes_and_not_within_an_escape() -> None:
    for length in range(slack.MOST_TEXT - 6, slack.MOST_TEXT + 2):
        body = slack.message(notification(text="x" * length + "&" * 2_000))
        text = body["blocks"][1]["text"]["text"]
        assert len(text) <= 3_000
        assert text.removesuffix("…").replace("&amp;", "").strip("x") == ""


def test_a_link_of_slack_is_one_link() -> None:
    body = slack.message(notification(link="https://a.example/x?b=1&c=<d>|e"))
    assert body["blocks"][2]["text"]["text"] == "<https://a.example/x?b=1&amp;c=%3Cd%3E%7Ce|Open>"


# --- Mail


def parsed(one: Notification) -> Any:
    return email.message_from_bytes(smtp.message(TO, MAIL, one).as_bytes(), policy=default)


def test_a_mail_is_plain_text_with_a_subject_and_says_when() -> None:
    mail = parsed(notification(link="https://antiphon.example/incidents/1"))
    assert mail["subject"] == "[antiphon desk] CRITICAL: desk burns its errors"
    assert (mail["from"], mail["to"]) == ("Antiphon <antiphon@example.com>", "ops@example.com, b@c.de")
    assert mail["auto-submitted"] == "auto-generated"
    assert mail.get_content_type() == "text/plain"
    text = mail.get_content()
    for part in (
        "14 times too fast.",
        "Began: 2026-03-02 09:12:44Z",
        "window: 1h",
        "https://antiphon.example/incidents/1",
    ):
        assert part in text


@pytest.mark.parametrize(
    "evil", ["a\r\nBcc: x@evil.example", "a\nSubject: b", "a\r\n\r\nbody", "a\x0bBcc: b", "a\u2028b"]
)
def test_no_title_makes_a_header(evil: str) -> None:
    mail = parsed(notification(title=evil, application=f"desk{evil}", labels={f"l{evil}": evil}))
    known = ["Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
             "Content-Transfer-Encoding", "MIME-Version"]  # fmt: skip
    assert sorted(mail.keys()) == sorted(known)
    assert len(mail["subject"].splitlines()) == 1


def test_titles_of_any_script_are_kept() -> None:
    mail = parsed(notification(title="Größe 日本 🔥 " + "lang " * 30, text="Zeile mit ü\n." + "x" * 3_000))
    assert mail["subject"].startswith("[antiphon desk] CRITICAL: Größe 日本 🔥")
    assert f".{'x' * 3_000}" in mail.get_content()


def test_a_mail_that_is_sent_twice_has_one_id_and_what_is_over_answers_its_beginning() -> None:
    first, again = parsed(notification()), parsed(notification())
    over = parsed(notification(state="resolved", ended_at=ENDED))
    assert first["message-id"] == again["message-id"] != over["message-id"]
    assert first["message-id"].endswith("@example.com>")
    assert over["in-reply-to"] == over["references"] == first["message-id"]
    other = smtp.message_id(msgspec.structs.replace(TO, scope=Scope("other", "prod")), MAIL, notification(), "firing")
    assert other != first["message-id"]


# --- Alertmanager


def test_an_alert_ends_ahead_while_it_lasts_and_when_it_ended_once_it_is_over() -> None:
    firing = alertmanager.alert(TO, notification())
    over = alertmanager.alert(TO, notification(state="resolved", ended_at=ENDED))
    assert firing["labels"] == over["labels"] == {
        "alertname": "objective.burn", "severity": "critical", "notification": "burn:desk:1", "tenant": "shop",
        "environment": "prod", "application": "desk", "window": "1h",
    }  # fmt: skip
    assert (firing["startsAt"], firing["endsAt"]) == ("2026-03-02T09:12:44.000000Z", "2026-03-02T09:18:44.000000Z")
    assert over["endsAt"] == "2026-03-02T09:19:44.000000Z"
    assert firing["annotations"] == {"summary": "desk burns its errors", "description": "14 times too fast."}


def test_labels_have_names_that_are_taken_and_do_not_replace_ours() -> None:
    labels = alertmanager.alert(
        TO, notification(labels={"a.b-c": "1", "9x": "2", "alertname": "mine", "": "3", "e": ""})
    )
    assert {"a_b_c": "1", "_9x": "2", "_": "3", "alertname": "objective.burn"}.items() <= labels["labels"].items()
    assert "e" not in labels["labels"]


# --- Channels


def webhook(**fields: Any) -> Channel:
    return WebhookChannel(**{"url": "https://u:p@x.example/secret/path", "secret_variable": "S", **fields})


@pytest.mark.parametrize(
    ("channel", "taken"),
    [
        (webhook(), True),
        (webhook(events=("objective",)), True),
        (webhook(events=("objective.burn", "drift")), True),
        (webhook(events=("object",)), False),
        (webhook(events=("objective.burn.fast",)), False),
        (webhook(severity="critical"), True),
        (webhook(applications=("desk",)), True),
        (webhook(applications=("other",)), False),
        (webhook(form="public"), False),
    ],
    ids=str,
)
def test_filters(channel: Channel, taken: bool) -> None:
    assert takes(channel, notification()) is taken


def test_a_channel_takes_from_a_severity_on_and_one_of_applications_nothing_about_none() -> None:
    assert not takes(webhook(severity="warning"), notification(severity="info"))
    assert takes(webhook(severity="warning"), notification(severity="warning"))
    assert not takes(webhook(applications=("desk",)), notification(application=None))
    assert takes(webhook(form="public"), notification(public="slow"))


def test_outside_users_read_the_public_sentence_alone() -> None:
    shown = outside_form(notification(public="desk is slow", link="https://inside.example"))
    said = msgspec.json.encode(shown).decode()
    assert shown.title == "desk is slow"
    assert [part for part in ("14 times", "window", "inside", "burns") if part in said] == []


def test_a_receiver_is_shown_without_path_or_secret() -> None:
    shown = [receiver(one) for one in (webhook(), SlackChannel(url_variable="HOOK"), MAIL,
             AlertmanagerChannel(url="http://alerts:9093/x"))]  # fmt: skip
    assert shown == ["x.example", "$HOOK", "mail.example.com, 2 recipients", "alerts"]
