"""Channels of the kind ``slack``: a message in the shape that incoming webhooks of Slack take, and others after it.

``text`` has all of it, for receivers that know no blocks (Mattermost, Rocket.Chat). ``&``, ``<`` and ``>`` are escaped,
so that no title or text makes a link or mentions a group; what mentions everybody without them is broken up.
https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from antiphon.catalog.notifications import Notification
from antiphon.core.settings_notifications import SlackChannel
from antiphon.services.notifications.posting import Destination, post
from antiphon.services.notifications.wording import details, headline

MOST_TEXT = 2_900
"""Characters of a section's text: Slack takes 3,000, and a cut leaves a sign."""

_CROWD = re.compile(r"@(?=(?:all|channel|everyone|here)\b)", re.IGNORECASE)
_LINK_PARTS = {"<": "%3C", ">": "%3E", "|": "%7C", "&": "&amp;"}


def send(destination: Destination, channel: SlackChannel, notification: Notification) -> str:
    """Render and send one; the receiver's status. Raises as :func:`~antiphon.services.notifications.posting.post`."""
    url = destination.secret(channel.url_variable, "url_variable")
    return str(post(destination, url, msgspec.json.encode(message(notification)), {}, channel.authority))


def message(notification: Notification) -> dict[str, Any]:
    """The body of a delivery."""
    title = f"*{escaped(headline(notification))}*"
    text = _cut(escaped(notification.text))
    facts = " · ".join(f"{escaped(name)}: {escaped(value)}" for name, value in details(notification))
    link = "" if notification.link is None else f"<{_link(notification.link)}|Open>"
    sections = [_cut(part) for part in (title, text, link) if part]
    blocks: list[dict[str, Any]] = [{"type": "section", "text": _markdown(part)} for part in sections]
    blocks.append({"type": "context", "elements": [_markdown(_cut(facts))]})
    return {"text": "\n".join(part for part in (title, text, facts, link) if part), "blocks": blocks}


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def escaped(text: str) -> str:
    """A text without any sequence that the receiver would act upon."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _CROWD.sub("@\u200b", plain)


def _cut(text: str) -> str:
    """Cut a text, not within an escape."""
    if len(text) <= MOST_TEXT:
        return text
    return f"{re.sub(r'&[a-z]*$', '', text[:MOST_TEXT])}…"


def _link(link: str) -> str:
    return "".join(_LINK_PARTS.get(one, one) for one in link if one.isprintable() and not one.isspace())
