"""The streams of an event log on NATS JetStream: made, written and read.

With ``nats_client`` and ``nats_connection`` the only file that imports ``nats`` for the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from antiphon.core.errors import TooLargeError, UnavailableError
from antiphon.features.streaming.nats_access import Access
from antiphon.features.streaming.nats_client import TIMEOUT_SECONDS, NatsClient, reading_after
from antiphon.features.streaming.nats_connection import acknowledged, kept

_PART = 500
"""Messages under way at once."""

_IDLE_SECONDS = 20.0
"""Idle time after which the server removes a reader; it is closed before."""

_READERS = 32


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


class NatsServer(NatsClient):
    """The streams of an event log on one server or cluster."""

    def __init__(self, url: str, access: Access = Access(), *, timeout: float = TIMEOUT_SECONDS) -> None:  # noqa: B008
        super().__init__(url, access, timeout=timeout)
        self._readers: dict[tuple[str, int], tuple[Any, float]] = {}

    def _forget(self) -> None:
        self._readers.clear()

    def state(self, stream: str) -> StreamState | None:
        """State of a stream; ``None`` when it does not exist."""
        return self._call(lambda: self._state(stream))

    def make(self, stream: str, subjects: str, log: str) -> StreamState:
        """Make a stream that keeps every message and refuses a second one of a subject. One that is there stays."""
        return self._call(lambda: self._make(stream, subjects, log))

    def remove(self, stream: str) -> bool:
        """Delete a stream with every message; tell whether there was one."""
        return self.state(stream) is not None and self._call(lambda: self._remove(stream))

    def publish(self, stream: str, messages: Sequence[tuple[str, bytes]]) -> int:
        """Store messages in order, but for those whose subject has one already; the highest sequence that one has.

        In a cluster a message is refused as a second one as soon as the first is under way, and that one may still be
        lost with its leader: what is refused is looked for, and counts once a majority has it.

        Raises:
            TooLargeError: one is larger than the server takes; none is stored.
            UnavailableError: it does not answer. Some may be stored: the same ones again are right.
        """
        parts = 1 + len(messages) // _PART
        return self._call(lambda: self._publish(stream, messages), self._timeout * (1 + 2 * parts))

    def read(self, stream: str, log: str, after: int, number: int) -> list[StoredMessage]:
        """So many messages from ``after + 1`` on, which must be there; ``UnavailableError`` when they do not come."""
        parts = 1 + number // _PART
        return self._call(lambda: self._read(stream, log, after, number), self._timeout * (2 + parts))

    async def _state(self, stream: str) -> StreamState | None:
        from nats.js.errors import NotFoundError

        client = await self._connected()
        try:
            return _state_of(await client.jetstream(timeout=self._timeout).stream_info(stream))
        except NotFoundError:
            return None

    async def _make(self, stream: str, subjects: str, log: str) -> StreamState:
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
        from nats.js.errors import BadRequestError

        client = await self._connected()
        config = StreamConfig(
            name=stream,
            description="Source events of Antiphon; written by it alone.",
            subjects=[subjects],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            num_replicas=self._replicas,
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            deny_delete=True,
            deny_purge=True,
            metadata={_LOG: log},
        )
        try:
            return _state_of(await client.jetstream(timeout=self._timeout).add_stream(config))
        except BadRequestError:
            found = await self._state(stream)
            if found is None:
                raise
            return found

    async def _remove(self, stream: str) -> bool:
        return bool(await (await self._connected()).jetstream(timeout=self._timeout).delete_stream(stream))

    async def _publish(self, stream: str, messages: Sequence[tuple[str, bytes]]) -> int:
        client = await self._connected()
        for _, content in messages:
            if len(content) > client.max_payload - 512:
                raise TooLargeError(
                    f"An event takes {len(content)} bytes and {self.name} takes at most {client.max_payload}.",
                    where="event log",
                    next_step="Send less of it, or raise the server's max_payload.",
                )
        given = await self._exchange(client, messages, acknowledged)
        refused = [messages[number][0] for number, sequence in given.items() if sequence == 0]
        searches = [
            (f"$JS.API.STREAM.MSG.GET.{stream}", msgspec.json.encode({"last_by_subj": subject})) for subject in refused
        ]
        found = await self._exchange(client, searches, partial(kept, name=self.name)) if searches else {}
        return max([*given.values(), *found.values()], default=0)

    async def _exchange(
        self, client: Any, requests: Sequence[tuple[str, bytes]], read: Callable[[Any], int]
    ) -> dict[int, int]:
        """Send requests, so many at once, and read what is answered to each, by its number.

        The library's own publish_async never hears of a refusal (2.16).
        """
        inbox, found = client.new_inbox(), dict[int, int]()
        answers = await client.subscribe(f"{inbox}.*")
        try:
            for start in range(0, len(requests), _PART):
                part = requests[start : start + _PART]
                for number, (subject, content) in enumerate(part, start):
                    await client.publish(subject, content, reply=f"{inbox}.{number}")
                for _ in part:
                    answer = await answers.next_msg(timeout=self._timeout)
                    found[int(answer.subject.rpartition(".")[2])] = read(answer)
            return found
        finally:
            await _let_go(answers)

    async def _read(self, stream: str, log: str, after: int, number: int) -> list[StoredMessage]:
        known, found = self._readers.pop((stream, after), None), list[StoredMessage]()
        if known is not None:
            reader, request = known
            if time.monotonic() - request < _IDLE_SECONDS:
                with suppress(Exception):
                    found = await self._fetched(reader, number)
            # What was sent to a reader and lost on the way is not sent to it again.
            if not found or found[0].sequence != after + 1:
                found = []
                await _let_go(reader)
        if not found:
            reader = await self._reader(stream, log, after)
            try:
                found = await self._fetched(reader, number)
            except Exception:
                await _let_go(reader)
                raise
        while len(self._readers) >= _READERS:
            forgotten, _ = self._readers.pop(next(iter(self._readers)))
            await _let_go(forgotten)
        self._readers[stream, found[-1].sequence] = (reader, time.monotonic())
        return found

    async def _fetched(self, reader: Any, number: int) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        while len(found) < number:
            part = await reader.fetch(min(_PART, number - len(found)), timeout=self._timeout)
            found.extend(_message(each) for each in part)
        return found

    async def _reader(self, stream: str, log: str, after: int) -> Any:
        client = await self._connected()
        config = reading_after(after)
        made = await client.jetstream(timeout=self._timeout).pull_subscribe(">", stream=stream, config=config)
        state = await self._state(stream)
        if state is None or state.log != log:
            raise UnavailableError(
                f"The stream {stream} was replaced a moment ago.", where="event log", next_step="Try again."
            )
        return made


_LOG = "antiphon-log"


async def _let_go(reader: Any) -> None:
    """End a subscription; the server forgets one by itself that it hears nothing more of."""
    with suppress(Exception):
        await reader.unsubscribe()


def _message(message: Any) -> StoredMessage:
    about = message.metadata
    return StoredMessage(about.sequence.stream, message.subject, message.data, about.timestamp)


def _state_of(found: Any) -> StreamState:
    config, state = found.config, found.state
    metadata: Mapping[str, str] = config.metadata or {}
    faults = {
        "max_msgs_per_subject is not 1": config.max_msgs_per_subject != 1,
        "discard is not `new`, per subject": config.discard != "new" or not config.discard_new_per_subject,
        "max_age is set": bool(config.max_age),
        "retention is not `limits`": config.retention != "limits",
        "storage is not `file`": config.storage != "file",
    }
    missing = state.num_deleted if state.num_deleted is not None else len(state.deleted or ())
    return StreamState(
        metadata.get(_LOG),
        state.first_seq,
        state.last_seq,
        missing,
        tuple(fault for fault, found_so in faults.items() if found_so),
    )
