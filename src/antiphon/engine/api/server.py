"""The engine process: a Unix socket in front of an engine, and a port of the network beside it.

A client that disconnects cancels its own requests and no other's. SIGTERM drains: no new connection, no new
request, what is in flight finishes (within a bound).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core import telemetry
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, SetupError, UnavailableError
from antiphon.engine.api import closing, frames
from antiphon.engine.api.frames import is_same_user
from antiphon.engine.api.listener import NetworkListener
from antiphon.engine.api.messages import (
    PROTOCOL,
    Cancellation,
    Delta,
    DescriptionRequest,
    GenerationRequest,
    GenerationResult,
    Hello,
    ModelDeclaration,
    RequestFailure,
    TextEmbeddingRequest,
    TextEmbeddings,
    ToEngine,
    TokenizationRequest,
)
from antiphon.engine.api.port import EngineCore, Event, Sink

_log = logging.getLogger("antiphon.engine")
_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)

MOST_UNREAD = 32 << 20
"""Bytes a client may leave unread before it is cut off."""

LOOK_SECONDS = 3.0
"""So often the socket is looked for."""

GREETING_SECONDS = 5.0
"""A client that has not greeted by then is cut off."""


async def serve(
    engine: EngineCore,
    path: Path,
    stop: asyncio.Event,
    *,
    network: NetworkListener | None = None,
    drain_seconds: float = 30.0,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until ``stop`` is set, then drain and close the engine. The socket exists only while it answers; one that
    somebody removes meanwhile is made again.

    Raises:
        SetupError: another process answers on the socket, or the path or the network's address cannot be used.
    """
    _claim(path)
    connections: set[_ServerConnection] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not is_same_user(writer.get_extra_info("socket")):
            _log.warning("A client was refused: it is a process of another user.")
            writer.close()
            return
        await converse(reader, writer)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _ServerConnection(engine, reader, writer, stop)
        connections.add(connection)
        try:
            await connection.run()
        finally:
            connections.discard(connection)

    servers = [await _listen(accept, path)]
    try:
        if network is not None:
            servers.append(await network.start(converse))
        if ready is not None:
            ready()
        while not await _is_set(stop, LOOK_SECONDS):
            if not os.path.lexists(path):
                with contextlib.suppress(OSError):  # Its folder may be gone as well: at the next look, then.
                    servers.append(await _listen(accept, path))
                    _log.warning("The socket had been removed; it is there again.")
        for server in servers:
            server.close()
        path.unlink(missing_ok=True)  # Clients see that it leaves, and a successor may bind while it drains.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(engine.drain(), drain_seconds)
    finally:
        for server in servers:
            server.close()
        await engine.close()
        await asyncio.gather(*(connection.close() for connection in connections))
        if not stop.is_set():
            path.unlink(missing_ok=True)


async def _listen(accept: Callable[..., Awaitable[None]], path: Path) -> asyncio.Server:
    # By the mask, not by a mode set afterwards: there is no moment at which others may connect.
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    return await asyncio.start_unix_server(accept, sock=listener)


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _claim(path: Path) -> None:
    """Make the path free for binding: a socket without an answer was left by a process that died."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = path.parent.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise SetupError(
            "The socket's folder belongs to another user, who could put a socket of their own there.",
            where=str(path.parent),
            next_step="Use a folder of your own.",
        )
    if len(os.fsencode(path)) > 100:
        raise SetupError("The socket's path is too long for a Unix socket.", where=str(path))
    if not path.exists():
        path.unlink(missing_ok=True)  # A link to a socket that is gone.
        return
    if not path.is_socket():
        raise SetupError("The path exists and is no socket.", where=str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SetupError(
        "An engine serves this socket already.", where=str(path), next_step="Stop it, or use another path."
    )


class _ServerConnection:
    def __init__(
        self,
        engine: EngineCore,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stopping: asyncio.Event,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._stopping = stopping
        self._outbox = bytearray()
        self._tickets: dict[str, int | None] = {}
        self._cancelled: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Read frames until the client leaves, then cancel its requests."""
        try:
            if await self._greet():
                while (message := await frames.read(self._reader, _decoder)) is not None:
                    self._receive(message)
        except CorruptionError as error:
            _log.warning("A client was cut off: %s", error)
        except OSError:  # It vanished: the kernel, or TLS, says so.
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            for ticket in self._tickets.values():
                if ticket is not None:
                    self._engine.cancel(ticket)
            await self.close()

    async def close(self) -> None:
        self._flush()
        await closing.close(self._writer)

    async def _greet(self) -> bool:
        self._send(Hello(PROTOCOL, "engine"))
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                hello = await frames.read(self._reader, _decoder)
        except TimeoutError:
            _log.warning("A client was cut off: it did not greet within %g s.", GREETING_SECONDS)
            return False
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            _log.warning("A client was refused: it does not speak protocol %d.", PROTOCOL)
            return False
        return True

    def _receive(self, message: ToEngine) -> None:
        if isinstance(message, GenerationRequest | TextEmbeddingRequest):
            if message.id in self._tickets:
                self._send(
                    RequestFailure.of(message.id, ConflictError(f"The request id {message.id!r} is in flight already."))
                )
                return
            self._tickets[message.id] = None
            self._begin(self._submit(message))
        elif isinstance(message, Cancellation):
            ticket = self._tickets.get(message.id)
            if ticket is not None:
                self._engine.cancel(ticket)
            elif message.id in self._tickets:
                self._cancelled.add(message.id)
        elif isinstance(message, DescriptionRequest):
            self._begin(self._describe(message))
        elif isinstance(message, ModelDeclaration):
            self._begin(self._serve(message))
        elif isinstance(message, TokenizationRequest):
            self._begin(self._tokenize(message))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _describe(self, request: DescriptionRequest) -> None:
        if request.hold_batch is not None:
            self._engine.hold_batch(request.hold_batch)
        if request.online_within > 0:
            await self._engine.online(request.online_within)
        try:
            self._send(msgspec.structs.replace(await self._engine.describe(), id=request.id))
        except AntiphonError as error:
            self._send(RequestFailure.of(request.id, error))

    async def _serve(self, declaration: ModelDeclaration) -> None:
        try:
            self._require_staying()
            served = await self._engine.serve(declaration.models)
        except AntiphonError as error:
            if not self._stopping.is_set():  # A process that leaves has another one asked.
                _log.warning("Not all declared models are served: %s", error)
            self._send(RequestFailure.of(declaration.id, error))
            return
        self._send(msgspec.structs.replace(served, id=declaration.id))

    async def _tokenize(self, request: TokenizationRequest) -> None:
        try:
            self._send(await self._engine.tokenize(request))
        except AntiphonError as error:
            self._send(RequestFailure.of(request.id, error))

    def _require_staying(self) -> None:
        if self._stopping.is_set():
            raise UnavailableError("The engine is shutting down.", next_step="Try again in a moment.")

    async def _submit(self, request: GenerationRequest | TextEmbeddingRequest) -> None:
        arrived = time.time_ns()
        try:
            self._require_staying()
            submit: Callable[[Any, Sink], Awaitable[int]] = (
                self._engine.submit if isinstance(request, GenerationRequest) else self._engine.submit_texts
            )
            ticket = await submit(request, lambda event: self._deliver(request, event, arrived))
        except AntiphonError as error:
            self._end(request.id)
            self._send(RequestFailure.of(request.id, error))
            return
        if request.id in self._tickets:
            self._tickets[request.id] = ticket
        if request.id in self._cancelled:
            self._engine.cancel(ticket)

    def _deliver(self, request: GenerationRequest | TextEmbeddingRequest, event: Event, arrived: int) -> None:
        if not isinstance(event, Delta):
            self._end(request.id)
            if not event.id:
                event = msgspec.structs.replace(event, id=request.id)
        self._send(event)
        if isinstance(event, GenerationResult | TextEmbeddings):
            attributes = _attributes(request, event)
            name = f"{attributes[telemetry.GENAI['operation']]} {request.model}"
            telemetry.record(name, arrived, attributes, request.traceparent)

    def _end(self, request: str) -> None:
        self._tickets.pop(request, None)
        self._cancelled.discard(request)

    def _send(self, message: msgspec.Struct) -> None:
        # What one step produced leaves in one write.
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox += frames.encode(message)

    def _flush(self) -> None:
        if not self._outbox or self._writer.is_closing():
            return
        outbox, self._outbox = bytes(self._outbox), bytearray()
        self._writer.write(outbox)
        if self._writer.transport.get_write_buffer_size() > MOST_UNREAD:
            _log.warning("A client was cut off: it does not read.")
            self._writer.transport.abort()


def _attributes(
    request: GenerationRequest | TextEmbeddingRequest, ended: GenerationResult | TextEmbeddings
) -> dict[str, telemetry.AttributeValue]:
    named: dict[str, telemetry.AttributeValue] = {
        telemetry.GENAI["provider"]: telemetry.PROVIDER,
        telemetry.GENAI["model"]: request.model,
        telemetry.GENAI["response_model"]: request.model,
        "antiphon.path": request.priority,
    }
    if isinstance(ended, TextEmbeddings):
        return named | {
            telemetry.GENAI["operation"]: "embeddings",
            telemetry.GENAI["input_tokens"]: sum(ended.tokens),
            "antiphon.texts": len(ended.tokens),
            "antiphon.queue_seconds": ended.queue_seconds,
            "antiphon.engine_seconds": ended.engine_seconds,
        }
    usage = ended.usage
    return named | {
        telemetry.GENAI["operation"]: "text_completion",
        telemetry.GENAI["input_tokens"]: usage.prompt_tokens,
        telemetry.GENAI["cached_tokens"]: usage.cached_prompt_tokens,
        telemetry.GENAI["output_tokens"]: usage.completion_tokens,
        telemetry.GENAI["finish_reasons"]: (ended.reason,),
        "antiphon.queue_seconds": usage.queue_seconds,
        "antiphon.prefill_seconds": usage.prefill_seconds,
        "antiphon.decode_seconds": usage.decode_seconds,
        "antiphon.engine_seconds": usage.engine_seconds,
    }
