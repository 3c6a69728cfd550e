"""Sections ``[notifications.NAME]`` of ``antiphon.toml``: channels by which people and systems hear of operations."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from antiphon.core.settings_sections import CHANNEL_NAME, MAIL_ADDRESS, Section

Severity = Literal["info", "warning", "critical"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The mildest first."""

ChannelName = Annotated[str, msgspec.Meta(pattern=CHANNEL_NAME)]
MailAddress = Annotated[str, msgspec.Meta(pattern=MAIL_ADDRESS)]


class ChannelSettings(Section, frozen=True, kw_only=True, tag_field="kind"):
    """The part that every channel has: which notifications it takes.

    Attributes:
        events: kinds, each with those below it: ``release`` takes ``release.live``. None are all.
        severity: the mildest that it takes.
        applications: of which it takes; none are all, and what is about no application.
        authority: PEM file of whom to trust for the receiver's certificate; ``None`` trusts whom the machine does.
    """

    events: tuple[str, ...] = ()
    severity: Severity = "info"
    applications: tuple[str, ...] = ()
    authority: str | None = None

    @property
    def kind(self) -> str:
        """The kind of channel, as the settings name it."""
        return str(self.__struct_config__.tag)


class WebhookChannel(ChannelSettings, frozen=True, kw_only=True, tag_field="kind", tag="webhook"):
    """A URL that gets each notification as JSON, signed as `Standard Webhooks` says.

    Attributes:
        secret_variable: name of the environment variable that holds the secret of its signatures.
        form: ``internal`` sends all of a notification; ``public`` what an outside user may know, and nothing else.
    """

    url: str
    secret_variable: str
    form: Literal["internal", "public"] = "internal"


class SlackChannel(ChannelSettings, frozen=True, kw_only=True, tag_field="kind", tag="slack"):
    """An incoming webhook of Slack, or of what takes the same shape, such as Mattermost.

    Attributes:
        url_variable: name of the environment variable that holds its URL, which is a secret.
    """

    url_variable: str


class AlertmanagerChannel(ChannelSettings, frozen=True, kw_only=True, tag_field="kind", tag="alertmanager"):
    """A Prometheus Alertmanager, which groups, silences and routes.

    Attributes:
        url: of its root, such as ``https://alerts.example.com``; several of a cluster are several channels.
        user: of HTTP basic authentication; without it the password is sent as a bearer token.
        password_variable: name of the environment variable that holds the password.
    """

    url: str
    user: str | None = None
    password_variable: str | None = None


class SmtpChannel(ChannelSettings, frozen=True, kw_only=True, tag_field="kind", tag="smtp"):
    """Mail, handed to a server that sends it on.

    Attributes:
        security: ``starttls`` and ``tls`` (from the first byte) or ``none``, to a server of this machine alone.
        port: ``None`` is 587, of ``tls`` 465, of ``none`` 25.
        user, password_variable: to sign in with; the password is in the environment variable.
        sender, recipients: addresses.
    """

    host: str
    sender: MailAddress
    recipients: Annotated[tuple[MailAddress, ...], msgspec.Meta(min_length=1, max_length=50)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_variable: str | None = None


Channel = WebhookChannel | SlackChannel | AlertmanagerChannel | SmtpChannel
