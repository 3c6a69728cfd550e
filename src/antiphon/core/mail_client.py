"""Synchronous handing over of one mail to a server that a setting names, bounded in time.

Invariants: the connection is made to an address that was checked after the server's name was resolved. Where TLS was
asked for nothing is sent without it, whatever the server offers, and its certificate is verified against its name.
Without TLS only a server of this machine is spoken to. One deadline covers everything from connecting to the last
answer.
"""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Literal

import msgspec

from antiphon.core import outgoing
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.tls import ClientTls

_NAME = "[127.0.0.1]"
"""The name that we give: an address as RFC 5321 has it, so that the name of this machine stays here."""


class MailServer(msgspec.Struct, frozen=True):
    """A server that takes mail to send it on.

    Attributes:
        security: TLS after ``STARTTLS``, from the first byte, or not at all.
        where: the setting that names it, for errors.
        seconds: for all of a delivery.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    user: str | None
    password: str | None
    tls: ClientTls
    where: str
    seconds: float


class MailRefusedError(OSError):
    """The server answered that it does not take the mail.

    Attributes:
        code: the server's. permanent: whether another attempt is of no use.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"The mail server answered {code}.")
        self.code = code
        self.permanent = code >= 500


def deliver(server: MailServer, mail: EmailMessage, recipients: Sequence[str]) -> int:
    """Hand a mail over; how many of the recipients the server refused, while it took others.

    Raises:
        InvalidInputError: the server's name leads to an address that may not be called, or is of another machine and
            without TLS.
        SetupError: the server does not offer TLS, or does not take user and password.
        MailRefusedError: it takes the mail for none of the recipients.
        OSError: it is not reached, its certificate is not accepted, or the connection broke.
    """
    client = _CheckedSmtp(server)
    try:
        client.begin()
        return _handed_over(client, server, mail, recipients)
    except smtplib.SMTPNotSupportedError as error:
        raise SetupError(
            "The mail server does not offer what the settings ask for: TLS, or signing in.",
            where=server.where,
            next_step='Check security and user; a server that begins with TLS takes security = "tls".',
        ) from error
    except smtplib.SMTPAuthenticationError as error:
        raise SetupError(
            f"The mail server does not take user and password: {error.smtp_code}.", where=server.where
        ) from error
    except smtplib.SMTPRecipientsRefused as error:
        raise MailRefusedError(min((code for code, _ in error.recipients.values()), default=550)) from error
    except smtplib.SMTPResponseException as error:
        raise MailRefusedError(error.smtp_code) from error
    finally:
        client.end()


def _handed_over(client: _CheckedSmtp, server: MailServer, mail: EmailMessage, recipients: Sequence[str]) -> int:
    if server.security == "starttls":
        client.starttls(context=server.tls.context())
        client.ehlo()
    if server.user is not None and server.password is not None:
        client.login(server.user, server.password)
    sender = mail["From"].addresses[0].addr_spec
    refused = client.sendmail(sender, list(recipients), mail.as_bytes())
    client.quit()
    return len(refused)


class _CheckedSmtp(smtplib.SMTP):
    """A client that connects to a checked address alone, and is cut off at its deadline."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._until = time.monotonic() + server.seconds
        self._cut = threading.Timer(server.seconds, self._cut_off)
        self._cut.daemon = True
        # Without a host nothing is connected yet.
        super().__init__(local_hostname=_NAME, timeout=server.seconds)
        self._host = server.host  # TLS is verified against it.

    def begin(self) -> None:
        """Connect and say hello."""
        self._cut.start()
        code, _ = self.connect(self._server.host, self._server.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, b"")
        self.ehlo_or_helo_if_needed()

    def end(self) -> None:
        """Close the connection."""
        self._cut.cancel()
        self.close()

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        failure: OSError = OSError("The name has no address.")
        addresses = outgoing.resolve(host, port, self._server.where)
        if self._server.security == "none" and not all(outgoing.is_loopback(address) for address in addresses):
            raise InvalidInputError(
                "Mail would be sent in clear text.",
                where=self._server.where,
                next_step='Use security = "starttls" or "tls", or a server of this machine.',
            )
        for number, address in enumerate(addresses):
            left = max(self._until - time.monotonic(), 0.001) / (len(addresses) - number)
            try:
                connected = socket.create_connection((address, port), left)
            except OSError as error:
                failure = error
                continue
            connected.settimeout(timeout)
            if self._server.security != "tls":
                return connected
            try:
                return self._server.tls.context().wrap_socket(connected, server_hostname=host)
            except BaseException:
                connected.close()
                raise
        raise failure

    def _cut_off(self) -> None:
        # A timeout of the socket begins anew with every byte.
        if (connected := self.sock) is not None:
            try:
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            except OSError:
                return
