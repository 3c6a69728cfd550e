"""A client of a NATS server: one connection, on an event loop in a thread of its own, and a bound on every wait.

The library is asynchronous and the ports are not. A connection that broke is made anew by the next call; while the
server is away, calls fail at once, and it is tried again every quarter of a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.features.streaming.nats_access import Access, addresses_of, require_url
from antiphon.features.streaming.nats_connection import connected, translated

TIMEOUT_SECONDS = 2.0
"""Time limit of a connection or of one answer."""

_INACTIVE_SECONDS = 60.0
_PAUSE_SECONDS = 0.25

Answer = TypeVar("Answer")


class NatsClient:
    """A connection to one server or cluster. Safe to share between threads.

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
        self._forget()
        if client is not None:
            await client.close()

    def _forget(self) -> None:
        """Forget what belongs to a connection that is gone."""

    async def _connected(self) -> Any:
        assert self._connecting is not None
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._forget()
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
        self._forget()
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


def reading_after(sequence: int) -> Any:
    """The configuration of a consumer that reads what comes after a sequence: it acknowledges nothing, and the server
    forgets it by itself once it is used no more."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=sequence + 1,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=_INACTIVE_SECONDS,
        mem_storage=True,
        num_replicas=1,
    )
