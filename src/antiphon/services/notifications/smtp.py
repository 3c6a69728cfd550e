"""Channels of the kind ``smtp``: a notification as a mail in plain text.

The id of the message follows from channel, notification and state, so that one that is sent twice is one to a mailbox
that knows ids, and what is over answers its beginning. No title or address makes a header: they are one line each.
"""

from __future__ import annotations

import hashlib
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from antiphon.catalog.notifications import Notification, NotificationState, one_line
from antiphon.core.mail_client import MailRefusedError, MailServer, deliver
from antiphon.core.settings_notifications import SmtpChannel
from antiphon.services.notifications.posting import SECONDS, Destination, described
from antiphon.services.notifications.wording import details, headline

PORTS = {"starttls": 587, "tls": 465, "none": 25}


def send(destination: Destination, channel: SmtpChannel, notification: Notification) -> str:
    """Render and send one; the server's answer.

    Raises:
        UnavailableError: the server is away or busy. SetupError: it does not let us in, or has no TLS.
        InvalidInputError: it refuses this mail, or its address may not be called.
    """
    password = channel.password_variable and destination.secret(channel.password_variable, "password_variable")
    server = MailServer(
        channel.host, channel.port or PORTS[channel.security], channel.security, channel.user, password,
        destination.tls(channel.authority), destination.where, SECONDS,
    )  # fmt: skip
    try:
        refused = deliver(server, message(destination, channel, notification), channel.recipients)
    except MailRefusedError as error:
        raise (
            destination.refused(f"answered {error.code}")
            if error.permanent
            else destination.away(f"answered {error.code}")
        ) from error
    except OSError as error:
        raise destination.away(f"did not take it ({described(error)})") from error
    return "250" if not refused else f"250, but for {refused} of {len(channel.recipients)} recipients"


def message(destination: Destination, channel: SmtpChannel, notification: Notification) -> EmailMessage:
    """The mail."""
    mail = EmailMessage(policy=SMTP)
    about = notification.application or destination.scope.environment
    mail["Subject"] = one_line(f"[antiphon {about}] {headline(notification)}", 250)
    mail["From"] = Address("Antiphon", addr_spec=channel.sender)
    mail["To"] = [Address(addr_spec=one) for one in channel.recipients]
    mail["Date"] = format_datetime(destination.now)
    mail["Message-ID"] = message_id(destination, channel, notification, notification.state)
    if notification.state == "resolved":
        begun = message_id(destination, channel, notification, "firing")
        mail["In-Reply-To"], mail["References"] = begun, begun
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no absence notice answers it.
    facts = "\n".join(f"{name}: {one_line(value)}" for name, value in details(notification))
    parts = (notification.title, notification.text, facts, notification.link or "")
    mail.set_content("\n\n".join(part for part in parts if part) + "\n", cte="quoted-printable")
    return mail


def message_id(
    destination: Destination, channel: SmtpChannel, notification: Notification, state: NotificationState
) -> str:
    """The id of the message about this state of a notification."""
    scope = destination.scope
    named = f"{scope.tenant}\0{scope.environment}\0{destination.channel}\0{notification.id}\0{state}"
    return f"<{hashlib.sha256(named.encode()).hexdigest()[:40]}@{channel.sender.partition('@')[2]}>"
