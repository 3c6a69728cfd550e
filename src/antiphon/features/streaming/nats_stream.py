"""A stream of a NATS server and its messages, as values, and what its URL may say."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import msgspec

from antiphon.core.errors import InvalidInputError

_SCHEMES = ("nats", "tls")


class StreamState(msgspec.Struct, frozen=True):
    """State of a stream on its server.

    Attributes:
        log: the id it was made with; ``None`` when another program made it.
        first, end: the first and last sequence.
        missing: how many in between were taken out.
        faults: what its configuration lacks to be a log that keeps everything and each event once.
    """

    log: str | None
    first: int
    end: int
    missing: int
    faults: tuple[str, ...]


class StoredMessage(msgspec.Struct, frozen=True):
    """A message at its sequence."""

    sequence: int
    subject: str
    content: bytes
    stored_at: datetime


def require_url(url: str) -> int:
    """Refuse a URL that is none of a NATS server, or that holds a password; how many replicas it asks for.

    Raises:
        InvalidInputError: it is.
    """
    parts = urlsplit(url)
    where = "[features] log"
    if parts.scheme not in _SCHEMES or not all(_is_place(each) for each in addresses_of(url)):
        raise InvalidInputError(
            f"{url!r} is no URL of an event log.",
            where=where,
            next_step="Use nats://HOST:PORT or tls://HOST:PORT, with every HOST:PORT of a cluster, separated by "
            "commas; without the setting it is the catalog.",
        )
    if parts.password is not None:
        raise InvalidInputError(
            "The URL holds a password.",
            where=where,
            next_step="Put it into an environment variable and name that in log_password_variable.",
        )
    options = parse_qs(parts.query)
    replicas = options.pop("replicas", ["1"])[-1]
    if options or replicas not in ("1", "3", "5"):
        raise InvalidInputError(
            f"{parts.query!r} is not understood.", where=where, next_step="Use ?replicas=1, 3 or 5."
        )
    return int(replicas)


def addresses_of(url: str) -> tuple[str, ...]:
    """``SCHEME://HOST:PORT`` of each node that a URL names, without user and options."""
    parts = urlsplit(url)
    return tuple(f"{parts.scheme}://{place}" for place in parts.netloc.rpartition("@")[2].split(","))


def _is_place(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
