"""Followed places: where another system writes the events of a stream, and how soon they are to count online."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.outgoing import holds_secret
from antiphon.definitions.objects import ObjectPath, is_objects, object_mistakes

TABLE = re.compile(r'[^\s."\0]+(\.[^\s."\0]+)?\Z')
"""``NAME`` or ``SCHEMA.NAME`` of a PostgreSQL table."""

_SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*\Z")
_STREAM = re.compile(r"[^\s.*>/\\]+\Z")
_LEAST_SECONDS = 0.2
_FILES = (".parquet", ".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson", ".json")

EpochUnit = Literal["s", "ms", "us"]


class PostgresTable(msgspec.Struct, frozen=True, tag="postgres"):
    """A table of a PostgreSQL database into which another system writes rows; each row is an event.

    The stream's ``event_id`` names the row: a row is one event, as it was when it was first read. What is updated or
    deleted afterwards changes nothing.

    Attributes:
        url: ``postgresql://USER@HOST/DATABASE``; never with a password.
        table: ``NAME`` or ``SCHEMA.NAME``.
        watermark: column whose values grow as rows come (a serial number, or the time of the insert), with an index.
            It spares reading old rows and decides nothing: a row below it is found too, later.
        password_variable: the environment variable that holds the password of the URL's user.
        within: the time from a row's commit until it counts online.
        unique: the stream's ``event_id`` names a row once and for all, though no unique index of the table says so.

    Example::

        Source.stream(
            "payments", event_time="paid_at", event_id="id",
            follow=PostgresTable(url="postgresql://reader@db/shop", table="payments", watermark="id"),
        )
    """

    url: str
    table: str = ""
    watermark: str = ""
    password_variable: str | None = None
    within: str = "5s"
    unique: bool = False

    @property
    def place(self) -> str:
        """Names what is followed; a position belongs to it."""
        return f"postgres {_servers(self.url)}{urlsplit(self.url).path} {self.table}"

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        yield from _text_mistakes(self, ("url", "table", "watermark"), ("password_variable",))
        if isinstance(self.table, str) and self.table and not TABLE.match(self.table):
            yield f"{self.table!r} is no table; write NAME or SCHEMA.NAME."
        if isinstance(self.url, str):
            yield from database_mistakes(self.url, self.password_variable)
            yield from _port_mistakes(self.url)
        yield from _duration_mistakes("within", self.within)


class NatsSubject(msgspec.Struct, frozen=True, tag="nats"):
    """Messages of a NATS JetStream stream that other programs publish to; each is a JSON object, and an event.

    Beside its own fields a message has ``_sequence`` (of the stream, unique over its life), ``_subject`` and
    ``_stored_at``, which may serve as ``event_id`` and ``event_time`` where the publisher sends none.

    Attributes:
        url: ``nats://[USER@]HOST:PORT`` or ``tls://…``; never with a password.
        stream: the JetStream stream.
        subject: only messages of this subject, which may hold wildcards.
        columns: names of columns by the path of a field, with dots (``{"amount": "order.total"}``); other fields keep
            their names.
        epoch: the unit of times that are numbers; other times are ISO 8601, in UTC without an offset.
        password_variable: the environment variable that holds the user's password, or a token.
        within: the time from a message's storing until it counts online.
    """

    url: str
    stream: str = ""
    subject: str | None = None
    columns: dict[str, str] = {}
    epoch: EpochUnit = "ms"
    password_variable: str | None = None
    within: str = "2s"

    @property
    def place(self) -> str:
        """Names what is followed; a position belongs to it."""
        return f"nats {_servers(self.url)} {self.stream} {self.subject or '>'}"

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        yield from _text_mistakes(self, ("url", "stream"), ("subject", "password_variable"))
        if isinstance(self.stream, str) and self.stream and not _STREAM.match(self.stream):
            yield f"{self.stream!r} is no name of a JetStream stream; it has no dot, space, star or angle bracket."
        if isinstance(self.subject, str) and not _SUBJECT.match(self.subject):
            yield f"{self.subject!r} is no subject; write names joined by dots, such as orders.*."
        if isinstance(self.url, str):
            parts = urlsplit(self.url)
            if parts.scheme not in ("nats", "tls") or not parts.netloc:
                yield "url must be nats://HOST:PORT or tls://HOST:PORT."
            if holds_secret(self.url):
                yield "url holds a password; name an environment variable in password_variable."
            yield from _port_mistakes(self.url)
        if self.epoch not in ("s", "ms", "us"):
            yield f"epoch must be s, ms or us, not {self.epoch!r}."
        columns: Any = self.columns
        for column, path in columns.items() if isinstance(columns, dict) else ():
            if not isinstance(path, str) or not path or not all(path.split(".")):
                yield f"columns: {column!r} must name a field's path with dots, not {path!r}."
        if not isinstance(columns, dict):
            yield f"columns must be a dictionary of names to paths, not {columns!r}."
        yield from _duration_mistakes("within", self.within)


class FileDrop(msgspec.Struct, frozen=True, tag="files"):
    """Files that another system puts into a folder of this machine, or objects that it puts into a store; each row is
    an event.

    A file is read once it is no longer written, and again after it changed: rows with ids that are known stay as they
    were. Write a file elsewhere and rename it into place, so that it is never seen half. An object is there whole.

    Attributes:
        path: pattern of Parquet, CSV or JSON files; a relative one starts at the project's folder. Of objects
            ``s3://BUCKET/PREFIX/*.jsonl``, with ``?endpoint=URL&region=REGION`` where the store is not that of the
            project's lake.
        settle: a file that has not changed for so long is read.
        within: the time from the end of writing until its rows count online.
        access_key_variable, secret_key_variable: environment variables with the store's credentials, of another store
            than the lake's.
    """

    path: str
    settle: str = "1s"
    within: str = "10s"
    access_key_variable: str | None = None
    secret_key_variable: str | None = None

    @property
    def place(self) -> str:
        """Names what is followed; a position belongs to it."""
        return f"files {self.path}"

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        yield from _text_mistakes(self, ("path",), ("access_key_variable", "secret_key_variable"))
        if is_objects(self.path):
            yield from object_mistakes(self.path)
            if not list(object_mistakes(self.path)) and not ObjectPath.of(self.path).pattern.lower().endswith(_FILES):
                yield f"path must end in one of {', '.join(_FILES)}, such as s3://inbox/*.parquet, not {self.path!r}."
        elif isinstance(self.path, str) and "://" in self.path:
            yield "path is a pattern of files of this machine or s3://BUCKET/KEY, not another URL."
        elif isinstance(self.path, str) and self.path and not self.path.lower().endswith(_FILES):
            yield f"path must end in one of {', '.join(_FILES)}, such as inbox/*.parquet, not {self.path!r}."
        yield from _duration_mistakes("settle", self.settle)
        yield from _duration_mistakes("within", self.within)


Followed = PostgresTable | NatsSubject | FileDrop
"""A place that a stream may follow."""


def within_seconds(followed: Followed) -> float:
    """The declared time from a row's commit until it counts online, in seconds."""
    return parse_duration(followed.within).total_seconds()


def follow_mistakes(follow: object) -> Iterator[str]:
    """Yields the mistakes of a stream's ``follow``, a sentence each."""
    if isinstance(follow, Followed):
        yield from (f"follow: {text}" for text in follow.mistakes())
    else:
        yield f"follow must be a PostgresTable, a NatsSubject or a FileDrop, not {follow!r}."


def database_mistakes(url: str, password_variable: object) -> Iterator[str]:
    """Yields the mistakes of a PostgreSQL database's URL and of the variable of its user's password."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.netloc or len(parts.path) < 2:
        yield "url must be postgresql://USER@HOST:PORT/DATABASE."
    if holds_secret(url):
        yield "url holds a password; name an environment variable in password_variable."
    if password_variable is not None and parts.username is None:
        yield "password_variable needs a user in the url."


def _text_mistakes(followed: Any, needed: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[str]:
    for name in needed:
        value = getattr(followed, name)
        if not isinstance(value, str) or not value:
            what = "the column whose values grow as rows come" if name == "watermark" else "a text"
            yield f"{name} must name {what}." if not value else f"{name} must be a text, not {value!r}."
    for name in optional:
        value = getattr(followed, name)
        if value is not None and (not isinstance(value, str) or not value):
            yield f"{name} must be a text, not {value!r}."


def _duration_mistakes(name: str, text: object) -> Iterator[str]:
    try:
        seconds = parse_duration(text).total_seconds() if isinstance(text, str) else 0.0
    except InvalidInputError:
        seconds = 0.0
    if seconds < _LEAST_SECONDS:
        yield f"{name} must be a duration of 200ms or more, such as 5s, not {text!r}."


def _servers(url: str) -> str:
    """The hosts of a URL with their ports, as they are written, without the user."""
    return urlsplit(url).netloc.rpartition("@")[2] or "localhost"


def _port_mistakes(url: str) -> Iterator[str]:
    for host in _servers(url).split(","):
        port = re.search(r":([^:\]]*)\Z", host)
        if port is not None and not re.fullmatch(r"\d{1,5}", port[1], re.ASCII):
            yield f"url: {port[1]!r} is no port; write HOST:PORT, and several with commas between."
