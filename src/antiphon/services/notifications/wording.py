"""Notifications in words, for channels that people read."""

from __future__ import annotations

from datetime import datetime

from antiphon.catalog.notifications import Notification
from antiphon.core.clock import utc


def headline(notification: Notification) -> str:
    """One line that says how grave it is, or that it is over, and what."""
    if notification.state == "resolved":
        return f"RESOLVED: {notification.title}"
    if notification.lasts or notification.severity != "info":
        return f"{notification.severity.upper()}: {notification.title}"
    return notification.title


def details(notification: Notification) -> list[tuple[str, str]]:
    """Names and values to be shown below a notification's text."""
    found = [("Application", notification.application or ""), ("Kind", notification.kind)]
    if notification.ended_at == notification.started_at:
        found.append(("At", _moment(notification.started_at)))
    else:
        ended = "" if notification.ended_at is None else _moment(notification.ended_at)
        found += [("Began", _moment(notification.started_at)), ("Ended", ended)]
    found += sorted(notification.labels.items())
    return [(name, value) for name, value in [*found, ("Id", notification.id)] if value]


def _moment(at: datetime) -> str:
    return utc(at).strftime("%Y-%m-%d %H:%M:%SZ")
