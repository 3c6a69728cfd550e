"""Messages of a followed NATS JetStream stream, in the order of its sequence.

Invariants: the position is the stream's sequence, and the moment at which the stream was made: one that was made anew
is read from its beginning. Messages are read by a consumer that acknowledges nothing, so that none is taken from others
that read the stream. A message that the server removed before it was read is counted.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from antiphon.core.clock import Clock, microseconds
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.definitions.following import NatsSubject
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.payloads import RowRefusal, decoded, sorted_out
from antiphon.features.ports import FollowedPage
from antiphon.features.streaming.nats_access import Access
from antiphon.features.streaming.nats_client import NatsClient, reading_after

_PART = 500
_IDLE_SECONDS = 20.0
"""Idle time after which a consumer is made anew, and after which the server removes it."""


class _SubjectPosition(msgspec.Struct, frozen=True):
    """The last sequence that was read of a stream, and when the stream was made (microseconds)."""

    created: int
    sequence: int


class _Consumer(msgspec.Struct):
    """A consumer on the server: what it has delivered, by the stream's sequence and by its own."""

    subscription: Any
    sequence: int
    delivered: int
    used_at: float


_decode_position = msgspec.json.Decoder(_SubjectPosition).decode
_decode_message = msgspec.json.Decoder().decode


class NatsSubjectReader(NatsClient):
    """Reads the messages of one followed stream, in one thread at a time.

    Args:
        source: follows a :class:`NatsSubject`.

    Raises:
        SetupError: the environment variable of the password is not set.
    """

    def __init__(self, source: SourceSpec, clock: Clock) -> None:
        assert isinstance(source.follow, NatsSubject)
        self._source = source
        self._follow = source.follow
        self._clock = clock
        self._consumer: _Consumer | None = None
        try:
            super().__init__(self._follow.url, Access(password=self._password()))
        except AntiphonError as error:
            self._name_source(error)
            raise

    def read(self, position: str | None, limit: int) -> FollowedPage:
        """The messages after a position, at most ``limit``.

        Raises:
            UnavailableError: the server is away. SetupError: it refuses access, or has no JetStream.
            InvalidInputError: there is no such stream, or it is a queue that reading takes from.
        """
        at = None if position is None else _decode_position(position)
        try:
            return self._call(lambda: self._page(at, limit), self._timeout * (2 + limit // _PART))
        except AntiphonError as error:
            self._name_source(error)
            raise

    def _name_source(self, error: AntiphonError) -> None:
        """Name this source in an error of the client, which speaks of the project's own event log."""
        error.where = f"source {self._source.name}"
        if "[features]" in (error.next_step or ""):
            error.next_step = (
                "It is tried again; see that the server runs, and that url is right."
                if isinstance(error, UnavailableError)
                else "Correct url, user and password_variable of the source's follow."
            )

    def abandon(self) -> None:
        """End a reading that hangs, from another thread; every wait of this reader has a bound of its own."""

    def _forget(self) -> None:
        self._consumer = None

    def _password(self) -> str | None:
        variable = self._follow.password_variable
        password = None if variable is None else os.environ.get(variable)
        if variable is not None and not password:
            raise SetupError(
                f"The environment variable {variable} is not set.",
                where=f"source {self._source.name}",
                next_step="Set it where the worker starts, or correct password_variable.",
            )
        return password

    async def _page(self, at: _SubjectPosition | None, limit: int) -> FollowedPage:
        began = self._clock.now()
        found = await self._stream()
        created, first, last = microseconds(found.created), found.state.first_seq, found.state.last_seq
        if at is None or at.created != created:
            at, lost = _SubjectPosition(created, max(0, first - 1)), 0
        else:
            lost = max(0, first - 1 - at.sequence)
            at = _SubjectPosition(created, at.sequence + lost)
        messages, waiting = list[Any](), 0
        if last > at.sequence:
            try:
                messages, waiting = await self._messages(at.sequence, limit)
            except BaseException:
                await self._drop()  # The server may have removed it.
                raise
        # What is not of the subject is passed over.
        sequence = messages[-1].metadata.sequence.stream if messages else max(last, at.sequence)
        if self._consumer is not None:
            self._consumer.sequence = sequence
        payloads = [self._payload(message, created) for message in messages]
        events, refused, refusal = sorted_out(self._source, payloads, self._follow.epoch)
        return FollowedPage(
            events=events,
            position=msgspec.json.encode(_SubjectPosition(created, sequence)).decode(),
            more=waiting > 0,
            refused=refused,
            refusal=refusal,
            lost=lost,
            waiting=waiting,
            caught_up_at=None if waiting else began,
        )

    async def _stream(self) -> Any:
        from nats.js.errors import NotFoundError

        client = await self._connected()
        try:
            found = await client.jetstream(timeout=self._timeout).stream_info(self._follow.stream)
        except NotFoundError:
            raise InvalidInputError(
                f"The server has no JetStream stream {self._follow.stream!r}.",
                where=f"source {self._source.name}",
                next_step="Correct its name, or have it made by those who publish to it; it is looked for again.",
            ) from None
        if found.config.retention == "workqueue":
            raise InvalidInputError(
                f"The stream {self._follow.stream} is a work queue: what is read from it is taken from others.",
                where=f"source {self._source.name}",
                next_step="Follow a stream that has it as its source, with retention `limits`.",
            )
        return found

    async def _messages(self, after: int, limit: int) -> tuple[list[Any], int]:
        """Messages in order, and how many come after them."""
        consumer = await self._consumer_after(after)
        waiting = (await consumer.subscription.consumer_info()).num_pending
        found: list[Any] = []
        while waiting > 0 and len(found) < limit:
            part = await consumer.subscription.fetch(min(_PART, waiting, limit - len(found)), timeout=self._timeout)
            for message in part:
                consumer.delivered += 1
                if message.metadata.sequence.consumer != consumer.delivered:
                    raise UnavailableError("Messages were lost on the way.", where="NATS", next_step="Read again.")
            found += part
            waiting -= len(part)
        consumer.used_at = time.monotonic()
        return found, waiting

    async def _consumer_after(self, after: int) -> _Consumer:
        known = self._consumer
        if known is not None and known.sequence == after and time.monotonic() - known.used_at < _IDLE_SECONDS:
            return known
        await self._drop()
        client = await self._connected()
        config = reading_after(after)
        made = await client.jetstream(timeout=self._timeout).pull_subscribe(
            self._follow.subject or ">", stream=self._follow.stream, config=config
        )
        self._consumer = _Consumer(made, after, 0, time.monotonic())
        return self._consumer

    async def _drop(self) -> None:
        """Let go of the consumer; the server forgets one by itself that it hears nothing more of."""
        known, self._consumer = self._consumer, None
        if known is not None:
            with suppress(Exception):
                await known.subscription.unsubscribe()

    def _payload(self, message: Any, created: int) -> dict[str, Any] | RowRefusal:
        payload = decoded(message.data, _decode_message)
        if isinstance(payload, RowRefusal):
            return payload
        about = message.metadata
        stored_at: datetime = about.timestamp
        named = {column: _field(payload, path) for column, path in self._follow.columns.items()}
        # Sequences begin again in a stream that is made anew.
        own = {"_sequence": f"{created}-{about.sequence.stream}", "_subject": message.subject}
        return {**payload, **named, **own, "_stored_at": stored_at.isoformat()}


def _field(payload: dict[str, Any], path: str) -> Any:
    """The field at a path with dots; ``None`` where there is none."""
    found: Any = payload
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
