"""The way by which a notification leaves over HTTP: to a checked address, within a bound, and what answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.core.http_client import HttpClient
from antiphon.core.scope import Scope
from antiphon.core.tls import ClientTls
from antiphon.services.project.credentials import secret

SECONDS = 10.0
"""Time of a delivery at most."""

REFUSALS = frozenset((400, 413, 415, 422))
"""Answers that say the notification itself is at fault; every other one but 2xx is tried again."""

MOST_BYTES = 65_536
"""Length of the longest answer that is read."""

AGAIN = "It is sent again."


class Destination(msgspec.Struct, frozen=True):
    """The circumstances of a delivery.

    Attributes:
        channel: its name in the settings.
        root: the project's folder. now: the wall clock.
    """

    channel: str
    scope: Scope
    root: Path
    now: datetime

    @property
    def where(self) -> str:
        """The section of the settings."""
        return f"[notifications.{self.channel}]"

    def secret(self, variable: str, field: str) -> str:
        """The value of an environment variable; raises ``SetupError`` where it is empty or not set."""
        found = secret(variable, field, f"notifications.{self.channel}")
        if not found:
            raise SetupError(f"The environment variable {variable} is empty.", where=self.where)
        return found

    def tls(self, authority: str | None) -> ClientTls:
        """Trust in the receiver's certificate."""
        return ClientTls(None if authority is None else self.root / authority)

    def away(self, why: str) -> UnavailableError:
        """The error of a receiver that did not take it and may later."""
        return UnavailableError(f"The channel {self.channel} {why}.", where=self.where, next_step=AGAIN)

    def refused(self, why: str) -> InvalidInputError:
        """The error of a receiver that never takes it."""
        return InvalidInputError(
            f"The channel {self.channel} {why}: it will not take it.",
            where=self.where,
            next_step="`antiphon notifications test` tries another; `antiphon runs retry` sends this one again.",
        )


def post(
    destination: Destination,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    authority: str | None,
    path: str = "",
    *,
    confidential: bool = True,
) -> int:
    """Send JSON once; the receiver's status.

    Args:
        confidential: whether a key goes along, or the URL is one: it is https then, or of this machine.

    Raises:
        UnavailableError: the receiver is away or busy.
        InvalidInputError: it refuses this notification, or its URL may not be called.
    """
    client = HttpClient(
        url, where=destination.where, secret=confidential, timeout=SECONDS, most_bytes=MOST_BYTES, headers=headers,
        tls=destination.tls(authority),
    )  # fmt: skip
    try:
        status = client.post(path, msgspec.Raw(body), repeat=False).status
    except OSError as error:
        raise destination.away(f"did not take it ({described(error)})") from error
    finally:
        client.close()
    if status in REFUSALS:
        raise destination.refused(f"answered {status}")
    if not 200 <= status < 300:
        raise destination.away(f"answered {status}")
    return status


def described(error: OSError) -> str:
    """A failure of the network without what a receiver sent: its texts may repeat a secret."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or type(error).__name__
