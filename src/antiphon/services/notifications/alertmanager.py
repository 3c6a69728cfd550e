"""Channels of the kind ``alertmanager``: notifications as alerts of Alertmanager's API, version 2.

An alert is the same alert while its labels are the same, so the id is one of them. While something lasts it is posted
again every minute, each time with an end five minutes ahead: an Alertmanager that was started anew hears of it, its own
``resolve_timeout`` plays no part, and an alert ends by itself once this platform is silent. What has no duration stands
for as long.
https://prometheus.io/docs/alerting/latest/alerts_api
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.catalog.notifications import Notification
from antiphon.core.clock import utc
from antiphon.core.settings_notifications import AlertmanagerChannel
from antiphon.services.notifications.posting import Destination, post

REPEAT_SECONDS = 60.0
"""Interval at which what lasts is posted again."""

VALID = timedelta(minutes=5)
"""For how long an alert stands after the platform's last word of it."""

PATH = "/api/v2/alerts"

_OUTSIDE = re.compile(r"[^a-zA-Z0-9_]")


def send(destination: Destination, channel: AlertmanagerChannel, notifications: Sequence[Notification]) -> str:
    """Render and send some in one request; the receiver's status. Raises as
    :func:`~antiphon.services.notifications.posting.post`."""
    body = msgspec.json.encode([alert(destination, one) for one in notifications])
    headers = {}
    if channel.password_variable is not None:
        password = destination.secret(channel.password_variable, "password_variable")
        headers["authorization"] = (
            f"Bearer {password}"
            if channel.user is None
            else f"Basic {base64.b64encode(f'{channel.user}:{password}'.encode()).decode()}"
        )
    url = channel.url.rstrip("/")
    return str(post(destination, url, body, headers, channel.authority, PATH, confidential=bool(headers)))


def alert(destination: Destination, notification: Notification) -> dict[str, Any]:
    """A notification as an alert."""
    given = {_name(name): value for name, value in notification.labels.items() if value}
    labels = {
        **given,
        "alertname": notification.kind,
        "severity": notification.severity,
        "notification": notification.id,
        "tenant": destination.scope.tenant,
        "environment": destination.scope.environment,
    }
    if notification.application is not None:
        labels["application"] = notification.application
    annotations = {"summary": notification.title, "description": notification.text}
    over = notification.ended_at if notification.state == "resolved" else None
    return {
        "labels": labels,
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": _instant(notification.started_at),
        "endsAt": _instant(over or destination.now + VALID),
        **({} if notification.link is None else {"generatorURL": notification.link}),
    }


def _name(label: str) -> str:
    """A label's name as every version takes it."""
    name = _OUTSIDE.sub("_", label)
    return f"_{name}" if name[:1].isdigit() or not name else name


def _instant(at: datetime) -> str:
    return utc(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
