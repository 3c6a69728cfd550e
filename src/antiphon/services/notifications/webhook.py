"""Channels of the kind ``webhook``: a notification as JSON, signed as Standard Webhooks 1.0 says."""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec

from antiphon.catalog.notifications import Notification
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_notifications import WebhookChannel
from antiphon.services.notifications.posting import Destination, post


class WebhookEvent(msgspec.Struct, frozen=True):
    """The body of a delivery: the kind of the notification, and all of it."""

    type: str
    timestamp: str
    data: Notification


def send(destination: Destination, channel: WebhookChannel, notification: Notification) -> str:
    """Render and send one; the receiver's status. Raises as :func:`~antiphon.services.notifications.posting.post`."""
    key = destination.secret(channel.secret_variable, "secret_variable")
    over = notification.ended_at if notification.state == "resolved" else None
    at = (over or notification.started_at).isoformat()
    body = msgspec.json.encode(WebhookEvent(notification.kind, at, notification))
    id, timestamp = delivery_id(destination, notification), str(int(destination.now.timestamp()))
    headers = {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(key, id, timestamp, body),
    }
    return str(post(destination, channel.url, body, headers, channel.authority))


def delivery_id(destination: Destination, notification: Notification) -> str:
    """The id that every attempt of a delivery has."""
    return f"{destination.channel}:{notification.id}:{notification.state}"


def signature(secret: str, id: str, timestamp: str, body: bytes) -> str:
    """The signature header's value: HMAC-SHA256 of ``ID.TIMESTAMP.BODY`` in base64, after its version.

    A secret of the form ``whsec_BASE64`` is decoded, as Standard Webhooks has it.

    Raises:
        InvalidInputError: what follows ``whsec_`` is no base64.
    """
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
    except ValueError:
        raise InvalidInputError("The secret is no base64 after whsec_.", where="secret_variable") from None
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
