"""The client of an engine process: one connection, many requests; it reconnects after the engine has restarted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from antiphon.core.errors import AntiphonError, CorruptionError, EngineError, UnavailableError
from antiphon.core.ids import new_id
from antiphon.engine.api import frames
from antiphon.engine.api.failures import error_of
from antiphon.engine.api.frames import is_same_user
from antiphon.engine.api.messages import (
    PROTOCOL,
    Cancellation,
    Delta,
    DescriptionRequest,
    EngineDescription,
    FromEngine,
    GenerationRequest,
    GenerationResult,
    Hello,
    ModelDeclaration,
    RequestFailure,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
)

_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)

T = TypeVar("T", TextEmbeddings, Tokenization)
_Answer = Delta | GenerationResult | TextEmbeddings | Tokenization | RequestFailure | EngineDescription | AntiphonError


class EngineClient:
    """Implements :class:`~antiphon.engine.api.port.Engine`.

    Args:
        path: the engine's socket.
        peer: name of this side in the engine's log.
        connect_seconds: time limit of connecting and greeting.
    """

    def __init__(self, path: Path, *, peer: str = "client", connect_seconds: float = 5.0) -> None:
        self._path = path
        self._peer = peer
        self._connect_seconds = connect_seconds
        self._connection: _ClientConnection | None = None
        self._connecting = asyncio.Lock()

    async def describe(self) -> EngineDescription:
        return await self._described(DescriptionRequest(new_id("describe")))

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        return await self._described(ModelDeclaration(new_id("serve"), tuple(models)))

    async def _described(self, question: DescriptionRequest | ModelDeclaration) -> EngineDescription:
        connection = await self._connected()
        answers = connection.ask(question.id, question)
        try:
            answer = await answers.get()
        finally:
            connection.forget(question.id)
        if isinstance(answer, AntiphonError):
            raise UnavailableError("The engine went away.", where=str(self._path)) from answer
        if isinstance(answer, RequestFailure):
            raise error_of(answer)
        if not isinstance(answer, EngineDescription):
            raise UnavailableError("The engine did not describe itself.", where=str(self._path))
        return answer

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        connection = await self._connected()
        # Ids on the wire are this side's own: a late frame of a cancelled request must not reach its namesake.
        wire = replace(request, id=new_id("wire"))
        answers = connection.ask(wire.id, wire)
        ended = False
        try:
            while True:
                answer = await answers.get()
                ended = not isinstance(answer, Delta)
                if isinstance(answer, AntiphonError):
                    raise answer
                if isinstance(answer, RequestFailure):
                    raise error_of(answer)
                if isinstance(answer, EngineDescription | TextEmbeddings | Tokenization):
                    raise EngineError("The engine answered another question.", where=str(self._path))
                yield replace(answer, id=request.id)
                if ended:
                    return
        finally:
            connection.forget(wire.id)
            if not ended:
                connection.send(Cancellation(wire.id))

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        return replace(await self._request(request, TextEmbeddings), id=request.id)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        return replace(await self._request(request, Tokenization), id=request.id)

    async def _request(self, request: TextEmbeddingRequest | TokenizationRequest, kind: type[T]) -> T:
        """Send a request and return its one answer; a cancelled task cancels it."""
        connection = await self._connected()
        wire = replace(request, id=new_id("wire"))
        answers = connection.ask(wire.id, wire)
        ended = False
        try:
            answer = await answers.get()
            ended = True
        finally:
            connection.forget(wire.id)
            if not ended:
                connection.send(Cancellation(wire.id))
        if isinstance(answer, AntiphonError):
            raise answer
        if isinstance(answer, RequestFailure):
            raise error_of(answer)
        if not isinstance(answer, kind):
            raise EngineError("The engine answered another question.", where=str(self._path))
        return answer

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connected(self) -> _ClientConnection:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                if self._connection is not None:
                    await self._connection.close()
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> _ClientConnection:
        where = str(self._path)
        try:
            async with asyncio.timeout(self._connect_seconds):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    if not is_same_user(writer.get_extra_info("socket")):
                        raise UnavailableError(
                            "The socket is served by a process of another user; nothing was sent to it.",
                            where=where,
                            next_step="Find out who made it, remove it, and start the engine again.",
                        )
                    writer.write(frames.encode(Hello(PROTOCOL, self._peer)))
                    hello = await frames.read(reader, _decoder)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError) as error:
            raise UnavailableError(
                "The engine cannot be reached.",
                where=where,
                next_step="`antiphon up` starts it; `antiphon status` shows which processes run.",
            ) from error
        if not isinstance(hello, Hello):
            writer.close()
            raise UnavailableError("The engine hung up without greeting.", where=where)
        if hello.protocol != PROTOCOL:
            writer.close()
            raise UnavailableError(
                f"The engine speaks protocol {hello.protocol}, this side {PROTOCOL}.",
                where=where,
                next_step="Run both from the same version of Antiphon.",
            )
        return _ClientConnection(reader, writer, where)


class _ClientConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str) -> None:
        self._reader = reader
        self._writer = writer
        self._where = where
        self._waiting: dict[str, asyncio.Queue[_Answer]] = {}
        self.lost = False
        self._receiving = asyncio.get_running_loop().create_task(self._receive())

    def ask(
        self,
        request: str,
        message: GenerationRequest | TextEmbeddingRequest | TokenizationRequest | DescriptionRequest | ModelDeclaration,
    ) -> asyncio.Queue[_Answer]:
        """Send a message; the answers to it come in the returned queue."""
        answers: asyncio.Queue[_Answer] = asyncio.Queue()
        self._waiting[request] = answers
        self.send(message)
        return answers

    def forget(self, request: str) -> None:
        self._waiting.pop(request, None)

    def send(
        self,
        message: GenerationRequest
        | TextEmbeddingRequest
        | TokenizationRequest
        | DescriptionRequest
        | ModelDeclaration
        | Cancellation,
    ) -> None:
        if self.lost:
            return
        try:
            self._writer.write(frames.encode(message))
        except (OSError, RuntimeError):
            # uvloop raises RuntimeError for a transport that closed before the reader has heard of it.
            self._hang_up("The connection to the engine broke.")

    async def close(self) -> None:
        self._receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiving
        self._hang_up("The connection to the engine was closed.")
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self) -> None:
        reason = "The engine died in the middle of an answer."
        try:
            while (message := await frames.read(self._reader, _decoder)) is not None:
                if not isinstance(message, Hello) and (answers := self._waiting.get(message.id)) is not None:
                    answers.put_nowait(message)
        except (CorruptionError, OSError) as error:
            reason = str(error) or reason
        finally:
            self._hang_up(reason)

    def _hang_up(self, reason: str) -> None:
        self.lost = True
        self._writer.close()
        for answers in self._waiting.values():
            answers.put_nowait(EngineError(reason, where=self._where, next_step="Ask again; the engine is restarted."))
        self._waiting.clear()
