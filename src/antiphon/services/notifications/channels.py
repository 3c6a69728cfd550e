"""Channels of the settings: which notifications one takes, what it shows of them, and by which adapter it sends."""

from __future__ import annotations

from urllib.parse import urlsplit

from antiphon.catalog.notifications import Notification
from antiphon.core.settings_notifications import (
    SEVERITIES,
    AlertmanagerChannel,
    Channel,
    SlackChannel,
    SmtpChannel,
    WebhookChannel,
)
from antiphon.services.notifications import alertmanager, slack, smtp, webhook
from antiphon.services.notifications.posting import Destination


def takes(channel: Channel, notification: Notification) -> bool:
    """Tells whether a notification passes a channel's filters."""
    if is_public(channel) and notification.public is None:
        return False
    if SEVERITIES.index(notification.severity) < SEVERITIES.index(channel.severity):
        return False
    if channel.applications and notification.application not in channel.applications:
        return False
    kind = notification.kind
    return not channel.events or any(kind == one or kind.startswith(f"{one}.") for one in channel.events)


def is_public(channel: Channel) -> bool:
    """Tells whether outside users read what a channel gets."""
    return isinstance(channel, WebhookChannel) and channel.form == "public"


def send(destination: Destination, channel: Channel, notification: Notification) -> str:
    """Render and send a notification; what the receiver answered, in a word or a number.

    Raises:
        UnavailableError: the receiver is away or busy; it is to be sent again. SetupError: a secret is not set, or it
            does not let us in.
        InvalidInputError: the receiver refuses this notification, or its address may not be called.
    """
    shown = outside_form(notification) if is_public(channel) else notification
    match channel:
        case WebhookChannel():
            return webhook.send(destination, channel, shown)
        case SlackChannel():
            return slack.send(destination, channel, shown)
        case AlertmanagerChannel():
            return alertmanager.send(destination, channel, [shown])
        case SmtpChannel():
            return smtp.send(destination, channel, shown)


def outside_form(notification: Notification) -> Notification:
    """The form for outside users: the public sentence alone, without text, labels and link."""
    return Notification(
        notification.id, notification.kind, notification.severity, notification.state, notification.public or "",
        notification.started_at, application=notification.application, ended_at=notification.ended_at,
    )  # fmt: skip


def receiver(channel: Channel) -> str:
    """The receiver in words, without a path or a secret."""
    match channel:
        case WebhookChannel() | AlertmanagerChannel():
            return urlsplit(channel.url).hostname or "-"
        case SlackChannel():
            return f"${channel.url_variable}"
        case SmtpChannel():
            return f"{channel.host}, {len(channel.recipients)} recipients"
