"""A TCP proxy between the project and a server, that delays, resets, holds or answers what passes it.

Invariants: bytes arrive unchanged and in their order, or the connection is reset; without a fault they are passed on at
once. A fault is that of a control connection (``proxy_control.py``) and ends with it. By the first bytes of a client
it tells HTTP and TLS from other protocols, since only their faults can be told in their own words; what the project
makes of them is the project's own matter.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.paths import socket_path
from antiphon.core.settings_processes import ProxySettings
from antiphon.engine.api.address import parse_host_port
from antiphon.operations.chaos.expired_certificate import ExpiredCertificate
from antiphon.operations.chaos.faults import (
    ProxyExpiredCertificate,
    ProxyFault,
    ProxyHttpError,
    ProxyLatency,
    ProxyPartition,
    ProxyReset,
    Spoken,
    seconds_of,
)
from antiphon.operations.chaos.http_answers import REQUEST_LINE, HttpExchange
from antiphon.operations.chaos.proxy_control import SOCKET, ProxyAnswer, ProxyOrder, ProxyQuery

_CHUNK = 65_536
_TLS_REQUESTS = (b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30")
"""PostgreSQL's requests for TLS and GSSAPI, which the server answers in clear text before a handshake begins
(https://www.postgresql.org/docs/current/protocol-message-formats.html)."""

_MOST_WAITING = 64
"""Chunks of one direction that are on their way; then nothing more is read."""


class TcpProxy:
    """One proxy. At one time it has one fault at most. ``spoken``: by the client that connected last.

    Args:
        root: the folder that its files are named relative to.
    """

    def __init__(self, name: str, address: ProxySettings, root: Path) -> None:
        self.name = name
        where = f"antiphon.toml, [proxies.{name}]"
        self._listen = parse_host_port(address.listen, where)
        self._server = parse_host_port(address.server, where)
        self._fault: ProxyFault | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._expired = ExpiredCertificate(
            {self._listen[0], self._server[0], "localhost", "127.0.0.1"}, _authority(address, root, where), where=where
        )
        self.spoken: Spoken = ""
        self._ends: dict[asyncio.StreamWriter, Spoken] = {}
        self._counts: Counter[str] = Counter()
        self._random = random.Random()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def fault(self) -> ProxyFault | None:
        """The fault of now."""
        return self._fault

    def begin(self, fault: ProxyFault) -> None:
        """Break what passes from now on, and what is connected already."""
        self._fault = fault
        self._counts.clear()
        match fault:
            case ProxyReset():
                for end in list(self._ends):
                    if self._random.random() < fault.share:
                        _reset(end)
            case ProxyExpiredCertificate():
                for end in [one for one, spoken in self._ends.items() if spoken == "tls"]:
                    _reset(end)
            case ProxyPartition():
                self._flows.clear()

    def end(self) -> str:
        """Pass everything through again; what came of the fault, in words."""
        fault, self._fault = self._fault, None
        self._flows.set()
        match fault:
            case ProxyHttpError():
                return f"{self._counts['replaced']} of {self._counts['answers']} answers replaced"
            case ProxyExpiredCertificate():
                return f"{self._counts['refused']} handshakes refused, {self._counts['accepted']} accepted"
        return ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen while the block lasts; raises ``SetupError`` when the address is taken."""
        try:
            server = await asyncio.start_server(self._connected, *self._listen)
        except OSError as error:
            raise SetupError(
                f"The proxy {self.name} cannot listen: {error.strerror}.", where=f"[proxies.{self.name}] listen",
                next_step="Choose another port.",
            ) from None  # fmt: skip
        try:
            yield
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except asyncio.CancelledError:
            return  # The proxy ends; asyncio would log it.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._fault, ProxyReset) and self._random.random() < self._fault.share:
            _reset(writer)
            return
        await self._flows.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
        except OSError:
            _reset(writer)
            return
        pair = (writer, server_writer)
        self._ends[writer] = ""
        exchange = HttpExchange(self._retry_after)

        async def request(received: bytes) -> bytes:
            """Tell the protocol by what a client says first, and end TLS here while a fault says so."""
            if received and not self._ends[writer] and received not in _TLS_REQUESTS:
                self.spoken = self._ends[writer] = _protocol(received)
                if self.spoken == "tls" and isinstance(self._fault, ProxyExpiredCertificate):
                    accepted = await self._expired.met(reader, writer, received)
                    self._counts["accepted" if accepted else "refused"] += 1
                    raise ConnectionAbortedError
            return exchange.request(received) if self._ends[writer] == "http" else received

        async def answer(received: bytes) -> bytes:
            return exchange.answer(received) if self._ends[writer] == "http" else received

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, server_writer, request))
                both.create_task(self._pass(server_reader, writer, answer))
        except* ConnectionAbortedError:
            _reset(server_writer)
        except* OSError:
            for end in pair:  # A reset on one side is one on the other.
                _reset(end)
        finally:
            del self._ends[writer]
            server_writer.close()

    def _retry_after(self) -> int | None:
        """Decide on an answer: the seconds that are told with the 503 in its place; ``None``: it passes."""
        fault = self._fault
        if not isinstance(fault, ProxyHttpError):
            return None
        self._counts["answers"] += 1
        if self._random.random() >= fault.share:
            return None
        self._counts["replaced"] += 1
        return math.ceil(parse_duration(fault.retry_after).total_seconds())

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        through: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        """Pass on what becomes of one direction, each chunk at its time, until its end."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_WAITING)
        now = asyncio.get_running_loop().time

        async def read() -> None:
            chunk = b"."
            while chunk:
                chunk = await reader.read(_CHUNK)
                due, passed = now() + self._delay(), await through(chunk)
                if passed:
                    await waiting.put((due, passed))
            await waiting.put((now() + self._delay(), b""))

        async def write() -> None:
            while True:
                due, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due - now()))
                await self._flows.wait()
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
            with suppress(OSError):
                writer.write_eof()

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())

    def _delay(self) -> float:
        fault = self._fault
        if not isinstance(fault, ProxyLatency):
            return 0.0
        jitter = 0.0 if fault.jitter is None else parse_duration(fault.jitter).total_seconds()
        return parse_duration(fault.delay).total_seconds() + jitter * self._random.random()


@asynccontextmanager
async def serving(addresses: Mapping[str, ProxySettings], run: Path, root: Path) -> AsyncIterator[None]:
    """Serve proxies and their control socket while the block lasts.

    Args:
        root: the project's folder, which files of the settings are named relative to.

    Raises:
        InvalidInputError: there are none. SetupError: an address is taken.
    """
    if not addresses:
        raise InvalidInputError(
            "No proxy is declared.", where="antiphon.toml, [proxies]",
            next_step='Write [proxies.redis] with listen = "127.0.0.1:7001" and server = "127.0.0.1:6379".',
        )  # fmt: skip
    proxies = {name: TcpProxy(name, address, root) for name, address in addresses.items()}
    control = socket_path(run, SOCKET)
    control.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if control.parent.stat().st_uid != os.getuid():
        raise SetupError(
            "The socket's folder belongs to another user, who could put a socket of their own there.",
            where=str(control.parent),
            next_step="Remove it, or move the project to a shorter path.",
        )
    with suppress(FileNotFoundError):
        control.unlink()
    async with AsyncExitStack() as stack:
        for proxy in proxies.values():
            await stack.enter_async_context(proxy.serving())
        server = await asyncio.start_unix_server(
            lambda reader, writer: _controlled(proxies, reader, writer), str(control)
        )
        os.chmod(control, 0o600)
        try:
            yield
        finally:
            server.close()
            with suppress(FileNotFoundError):
                control.unlink()


async def _controlled(
    proxies: Mapping[str, TcpProxy], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one control connection: a query, or a fault for as long as it lasts."""
    broken: TcpProxy | None = None
    try:
        order = msgspec.json.decode(await reader.readline(), type=ProxyQuery | ProxyOrder)
        if isinstance(order, ProxyQuery):
            answer = ProxyAnswer("done", spoken={name: one.spoken for name, one in proxies.items()})
            writer.write(msgspec.json.encode(answer) + b"\n")
            return
        proxy = proxies.get(order.fault.proxy)
        if proxy is None or proxy.fault is not None:
            why = (
                f"There is no proxy {order.fault.proxy!r}."
                if proxy is None
                else f"{order.fault.proxy} is broken already."
            )
            writer.write(msgspec.json.encode(ProxyAnswer("refused", reason=why)) + b"\n")
            return
        broken = proxy
        proxy.begin(order.fault)
        writer.write(msgspec.json.encode(ProxyAnswer("done", (f"proxy {proxy.name}",))) + b"\n")
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_of(order.fault)):
                await reader.read(1)  # Only its end says something.
    except (msgspec.DecodeError, OSError, asyncio.CancelledError):
        return
    finally:
        if broken is not None:
            answer = ProxyAnswer("done", counted=broken.end())
            with suppress(OSError):
                writer.write(msgspec.json.encode(answer) + b"\n")
        writer.close()


def _protocol(first: bytes) -> Spoken:
    """The protocol of a client by its first bytes: a request's line, or TLS's record of a handshake (RFC 8446)."""
    if REQUEST_LINE.match(first):
        return "http"
    return "tls" if first[:2] == b"\x16\x03" else "other"


def _authority(address: ProxySettings, root: Path, where: str) -> tuple[Path, Path] | None:
    if address.authority is None and address.authority_key is None:
        return None
    if address.authority is None or address.authority_key is None:
        raise InvalidInputError(
            "An authority signs with its key, and one of both is missing.", where=where,
            next_step="Name both `authority` and `authority_key`, or neither.",
        )  # fmt: skip
    return root / address.authority, root / address.authority_key


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST, as a host that lost it does."""
    plain = writer.get_extra_info("socket")
    if plain is not None:
        with suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
