"""NATS JetStream, spoken to by nats-py: one connection and a bound on every wait.

With ``nats_connection``, which makes connections, the only file that imports ``nats``. Its client is asynchronous and
the log's port is not, so the connection lives on an event loop in a thread of its own. A connection that broke is made
anew by the next call; while the server is away, calls fail at once, and it is tried again every quarter of a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from antiphon.core.errors import AntiphonError, TooLargeError, UnavailableError
from antiphon.features.streaming.nats_access import Access, addresses_of, require_url
from antiphon.features.streaming.nats_connection import acknowledged, connected, kept, translated

TIMEOUT_SECONDS = 2.0
"""Time limit of a connection or of one answer."""

_PAUSE_SECONDS = 0.25
_PART = 500
"""Messages under way at once."""

_IDLE_SECONDS = 20.0
_INACTIVE_SECONDS = 60.0
"""Idle time after which the server removes a reader; it is closed before."""

_READERS = 32

Answer = TypeVar("Answer")


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


class NatsServer:
    """One server or cluster. Safe to share between threads.

    Args:
        url: ``nats://[USER@]HOST:PORT[,HOST:PORT …][?replicas=N]``, ``tls://`` with TLS. No password.
        access: credentials and TLS settings; the user is the URL's.
        timeout: seconds for a connection and for one answer.
    """

    def __init__(self, url: str, access: Access = Access(), *, timeout: float = TIMEOUT_SECONDS) -> None:  # noqa: B008
        self._replicas = require_url(url)
        parts = urlsplit(url)
        if parts.username is not None:
            access = msgspec.structs.replace(access, user=unquote(parts.username))
        access.require(parts.scheme)
        self._access = access
        self._addresses = addresses_of(url)
        self._address = 0
        self.name = ",".join((self._addresses[0], *(each.partition("://")[2] for each in self._addresses[1:])))
        self._timeout = timeout
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._connecting: asyncio.Lock | None = None
        self._away_until = 0.0
        self._readers: dict[tuple[str, int], tuple[Any, float]] = {}

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

    def describe(self) -> str:
        """Name the server that answers, for ``antiphon doctor``."""

        async def ask() -> str:
            client = await self._connected()
            await client.jetstream(timeout=self._timeout).account_info()
            version = client.connected_server_version
            return f"NATS {version.major}.{version.minor}.{version.patch} at {self.name}"

        return self._call(ask)

    def close(self) -> None:
        """Close the connection and end its thread."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        # What does not close in time is ended with the loop.
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._closed(), loop).result(self._timeout)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(self._timeout)

    async def _closed(self) -> None:
        client, self._client = self._client, None
        self._readers.clear()
        if client is not None:
            await client.close()

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
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        client = await self._connected()
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_INACTIVE_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        made = await client.jetstream(timeout=self._timeout).pull_subscribe(">", stream=stream, config=config)
        state = await self._state(stream)
        if state is None or state.log != log:
            raise UnavailableError(
                f"The stream {stream} was replaced a moment ago.", where="event log", next_step="Try again."
            )
        return made

    async def _connected(self) -> Any:
        assert self._connecting is not None
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._readers.clear()
                self._client = await self._any_node()
            return self._client

    async def _any_node(self) -> Any:
        """A connection to the node of the last one, or to the next that takes one."""
        number, failed = len(self._addresses), list[Exception]()
        for place in [(self._address + step) % number for step in range(number)]:
            try:
                made = await connected(self._addresses[place], self._access, self._timeout / min(number, 3))
            except Exception as error:
                failed.append(error)
            else:
                self._address = place
                return made
        # What a node says of us is worth more than another one's silence.
        raise next((each for each in failed if isinstance(each, AntiphonError)), failed[0])

    async def _abandon(self) -> None:
        """Let go of a connection that is open and does not answer; the next call begins with the next node."""
        client, self._client = self._client, None
        self._readers.clear()
        self._address = (self._address + 1) % len(self._addresses)
        if client is not None:
            with suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await client.close()

    def _call(self, ask: Callable[[], Awaitable[Answer]], within: float | None = None) -> Answer:
        """Run on the loop's thread; the server's errors come out as ours.

        Raises:
            UnavailableError: it does not answer, or refuses. SetupError: it refuses access, or has no JetStream.
        """
        if time.monotonic() < self._away_until:
            raise self._away("did not answer a moment ago")
        future = asyncio.run_coroutine_threadsafe(_awaited(ask), self._running())
        try:
            return future.result((within or self._timeout) + 2 * self._timeout)
        except AntiphonError:
            raise
        except Exception as error:
            future.cancel()
            problem = translated(error, self.name, self._access)
            if problem is None:
                self._away_until = time.monotonic() + _PAUSE_SECONDS
                asyncio.run_coroutine_threadsafe(self._abandon(), self._running())
                problem = self._away("does not answer")
            raise problem from error

    def _away(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.name} {why}.",
            where="event log",
            next_step="Start it, or correct [features] log; `antiphon doctor` checks it."
            + (" If it asks for a certificate, check log_client_certificate." if "tls:" in self.name else ""),
        )

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._connecting = asyncio.Lock()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="nats", daemon=True)
                self._thread.start()
            return self._loop


_LOG = "antiphon-log"


async def _let_go(reader: Any) -> None:
    """End a subscription; the server forgets one by itself that it hears nothing more of."""
    with suppress(Exception):
        await reader.unsubscribe()


async def _awaited(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    return await ask()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


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
