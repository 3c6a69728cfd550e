"""The client of an engine process: one connection, many requests; it reconnects after the engine has restarted."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from antiphon.core.errors import AntiphonError, CorruptionError, EngineError, InvalidInputError, UnavailableError
from antiphon.core.ids import new_id
from antiphon.core.tls import problem_of
from antiphon.engine.api import closing, frames
from antiphon.engine.api.address import EngineAddress, connect
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

CONNECT_SECONDS = 5.0
"""Time limit of connecting and greeting."""

_RETRY_SECONDS = 0.05
_MOST_ENDED = 2
"""Processes that may end under one request."""
_MOST_HANDOVERS = 8
"""Times that a request goes from one process to another at one socket."""

_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)

T = TypeVar("T", GenerationResult, TextEmbeddings, Tokenization, EngineDescription)
_Question = GenerationRequest | TextEmbeddingRequest | TokenizationRequest | DescriptionRequest | ModelDeclaration
_Answer = Delta | GenerationResult | TextEmbeddings | Tokenization | RequestFailure | EngineDescription | AntiphonError


class EngineClient:
    """Implements :class:`~antiphon.engine.api.port.Engine` over a connection; the engine logs this side as ``peer``.

    With ``patience`` a request waits for so many seconds while one process takes the place of another behind a socket:
    one of which nothing was shown goes on in the successor. Under a second process that ends it fails: it may be the
    cause. With ``activator`` the engine behind a socket may be stopped, and another process answers there meanwhile
    (``engine.activator``): a request that one of the two hands over goes on in the other.
    """

    def __init__(
        self, address: EngineAddress, *, peer: str = "client", patience: float = 0.0, activator: bool = False
    ) -> None:
        self._address = address
        self._peer = peer
        self._patience = patience
        self._activator = activator
        self._follows = activator or bool(patience)
        self._connection: _ClientConnection | None = None
        self._left: list[_ClientConnection] = []
        self._connecting = asyncio.Lock()

    @property
    def on_this_machine(self) -> bool:
        """True where it is reached by a socket file."""
        return isinstance(self._address, Path)

    @property
    def connected(self) -> bool:
        """True while the engine's process is there: an error that it answers is its own word."""
        return self._connection is not None and not self._connection.lost

    @property
    def silent_seconds(self) -> float:
        """Time since the engine said anything; infinite without a connection."""
        if self._connection is None or self._connection.lost:
            return math.inf
        return asyncio.get_running_loop().time() - self._connection.heard_at

    async def describe(self) -> EngineDescription:
        return await self._describe(DescriptionRequest(""))

    async def describe_when_online(self, seconds: float) -> EngineDescription:
        """Like :meth:`describe`, as soon as an online request is in the engine, at the latest after so many seconds."""
        return await self._describe(DescriptionRequest("", seconds))

    async def hold_batch(self, seconds: float) -> EngineDescription:
        """Like :meth:`describe`, once batch generations are held for so many seconds; 0 lets them go on."""
        return await self._describe(DescriptionRequest("", hold_batch=seconds))

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        return await self._describe(ModelDeclaration("", tuple(models)))

    async def _describe(self, question: DescriptionRequest | ModelDeclaration) -> EngineDescription:
        answer = await self._ask_again_after_handover(question)
        if isinstance(answer, AntiphonError):
            raise UnavailableError("The engine went away.", where=str(self._address)) from answer
        return self._require(answer, EngineDescription)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        attempts = _Attempts(self._patience)
        loop, held_since, start_seconds = asyncio.get_running_loop(), 0.0, 0.0
        while True:
            connection = await self._connected(attempts.until)
            shown = False
            unseen: list[Delta | GenerationResult] = []
            try:
                async with aclosing(self._generated(connection, request)) as events:
                    async for event in events:
                        if isinstance(event, Delta) and event.starting is not None:
                            held_since = held_since or loop.time()
                            yield event
                            continue
                        if start_seconds and isinstance(event, GenerationResult):
                            event = replace(event, usage=replace(event.usage, start_seconds=start_seconds))
                        unseen.append(event)
                        # Tokens without a text yet are held back: they would come again from the successor.
                        if not self._patience or isinstance(event, GenerationResult) or event.text or event.prompt:
                            shown = True
                            for one in unseen:
                                yield one
                            unseen.clear()
                return
            except (UnavailableError, EngineError):
                if shown or not self._goes_on(attempts, connection):
                    raise
                if held_since:
                    start_seconds, held_since = start_seconds + loop.time() - held_since, 0.0
                    yield Delta(request.id, "", starting=0.0)

    async def _generated(
        self, connection: _ClientConnection, request: GenerationRequest
    ) -> AsyncGenerator[Delta | GenerationResult, None]:
        wire, answers = connection.ask(request)
        ended = False
        try:
            while not ended:
                answer = await answers.get()
                if not isinstance(answer, Delta):
                    ended = True
                    answer = self._require(answer, GenerationResult)
                yield replace(answer, id=request.id)
        finally:
            connection.end(wire, cancel=not ended)

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        return replace(self._require(await self._ask_patiently(request), TextEmbeddings), id=request.id)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        return replace(self._require(await self._ask_patiently(request), Tokenization), id=request.id)

    async def _ask_patiently(self, question: _Question) -> _Answer:
        """As :meth:`_ask`, of the successor too where the process ends."""
        attempts = _Attempts(self._patience)
        while True:
            connection = await self._connected(attempts.until)
            answer = await self._ask(question, connection)
            if not _is_away(answer) or not self._goes_on(attempts, connection):
                return answer

    async def _ask_again_after_handover(self, question: _Question) -> _Answer:
        """As :meth:`_ask`, of the process that took the socket over where the one before hands the question over."""
        attempts = _Attempts(0.0)
        while True:
            connection = await self._connected()
            answer = await self._ask(question, connection)
            if not _is_away(answer) or not self._goes_on(attempts, connection):
                return answer

    async def _ask(self, question: _Question, connection: _ClientConnection | None = None) -> _Answer:
        """Send a question and return its one answer; a cancelled task cancels it."""
        connection = connection or await self._connected()
        wire, answers = connection.ask(question)
        answered = False
        try:
            answer = await answers.get()
            answered = True
        finally:
            connection.end(wire, cancel=not answered)
        return answer

    def _require(self, answer: _Answer, kind: type[T]) -> T:
        """The answer, if it is one of this kind; otherwise raises the error that it tells about."""
        if isinstance(answer, AntiphonError):
            raise answer
        if isinstance(answer, RequestFailure):
            raise answer.error
        if not isinstance(answer, kind):
            raise EngineError("The engine answered another question.", where=str(self._address))
        return answer

    def hang_up(self) -> None:
        """End a connection that nothing comes from any more: what is under way there fails now."""
        if self._connection is not None:
            self._connection.hang_up("The engine has said nothing for a while.")

    async def close(self) -> None:
        opened, self._left = [*self._left, *(() if self._connection is None else (self._connection,))], []
        self._connection = None
        for connection in opened:
            await connection.close()

    async def _connected(self, until: float = -math.inf) -> _ClientConnection:
        """The connection, made when there is none. While nothing listens at a socket it is tried again ``until`` then
        (seconds of the event loop)."""
        if (present := self._connection) is not None and not self._is_left(present):
            return present
        while True:
            place = _place(self._address) if self._activator else None
            try:
                async with self._connecting:
                    return await self._connection_now()
            except UnavailableError as error:
                if self._has_moved(place):
                    continue
                # One that accepts and says nothing is not away: it would be waited for once a request.
                unheard = isinstance(error.__cause__, FileNotFoundError | ConnectionError)
                if not unheard or asyncio.get_running_loop().time() >= until:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)  # Without the lock: those that do not wait are told at once.

    async def _connection_now(self) -> _ClientConnection:
        present = self._connection
        if present is not None and not present.lost and not self._is_left(present):
            return present
        if present is not None and not present.lost:  # It finishes what it has.
            self._left = [*(one for one in self._left if not one.lost), present]
        elif present is not None:
            await present.close()
        self._connection = None
        self._connection = await self._connect()
        return self._connection

    def _is_left(self, connection: _ClientConnection) -> bool:
        """Tells whether the process of a connection has ended, or ends: its socket is gone or a successor's."""
        return connection.lost or (self._follows and connection.place != _place(self._address))

    def _goes_on(self, attempts: _Attempts, connection: _ClientConnection) -> bool:
        """Tells whether to ask again what the process of a connection did not answer."""
        if attempts.again(self._is_left(connection), connection.lost):
            return True
        # Nobody waits here for a process that died: only another one that has the socket now is asked.
        return self._has_moved(connection.place) and attempts.handed_over()

    def _has_moved(self, place: tuple[int, int] | None) -> bool:
        """Tells whether another process, of the engine and its activator, has the socket since."""
        return self._activator and _place(self._address) not in (None, place)

    async def _connect(self) -> _ClientConnection:
        where = str(self._address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                place = _place(self._address)
                reader, writer = await connect(self._address, CONNECT_SECONDS)
                try:
                    await self._greet(reader, writer)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError, CorruptionError, InvalidInputError) as error:
            raise _unreachable(self._address, error) from error
        return _ClientConnection(reader, writer, where, place)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = str(self._address)
        if isinstance(self._address, Path) and not is_same_user(writer.get_extra_info("socket")):
            raise UnavailableError(
                "The socket is served by a process of another user; nothing was sent to it.",
                where=where,
                next_step="Find out who made it, remove it, and start the engine again.",
            )
        writer.write(frames.encode(Hello(PROTOCOL, self._peer)))
        hello = await frames.read(reader, _decoder)
        if not isinstance(hello, Hello):
            raise UnavailableError("The engine hung up without greeting.", where=where)
        if hello.protocol != PROTOCOL:
            raise UnavailableError(
                f"The engine speaks protocol {hello.protocol}, this side {PROTOCOL}.",
                where=where,
                next_step="Run both from the same version of Antiphon.",
            )


def _is_away(answer: _Answer) -> bool:
    error = answer.error if isinstance(answer, RequestFailure) else answer
    return isinstance(error, UnavailableError | EngineError)


def _unreachable(address: EngineAddress, error: Exception) -> UnavailableError:
    """The error of a connection that was not made."""
    where = str(address)
    if isinstance(error, CorruptionError):
        return UnavailableError(
            "Something else than an engine listens there.", where=where, next_step="Look at the address."
        )
    if isinstance(error, InvalidInputError):
        return UnavailableError(error.what, where=error.where, next_step=error.next_step)
    if isinstance(address, Path):
        return UnavailableError(
            "The engine cannot be reached.",
            where=where,
            next_step="`antiphon up` starts it; `antiphon status` shows which processes run.",
        )
    problem = problem_of(
        error, "the engine", where=where, authority="[engine] authority", certificate="[engine] client_certificate"
    )
    if problem is not None:
        return UnavailableError(problem.what, where=where, next_step=problem.next_step)
    reason = "it does not answer in time" if isinstance(error, TimeoutError) else _reason(error)
    return UnavailableError(
        f"The engine cannot be reached: {reason}.",
        where=where,
        next_step="See whether `antiphon engine` listens there, and whether the network lets this machine through.",
    )


def _reason(error: Exception) -> str:
    """The system's word for a failure, without addresses."""
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return "there is no host of this name"
    return os.strerror(number).lower() if number is not None and number > 0 else "the connection ended"


class _Attempts:
    """Bounds how often, and for how long, a request is given to the successor of a process."""

    def __init__(self, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.until = self._loop.time() + patience if patience else -math.inf
        self._ended = self._handovers = 0

    def again(self, left: bool, ended: bool) -> bool:
        """Tells whether to ask the successor; ``ended``: the process went away with the request in it."""
        self._ended += ended
        return left and self._ended < _MOST_ENDED and self._loop.time() < self.until

    def handed_over(self) -> bool:
        """Tells whether it may be asked once more of a process that took the socket over."""
        self._handovers += 1
        return self._ended < _MOST_ENDED and self._handovers <= _MOST_HANDOVERS


def _place(address: EngineAddress) -> tuple[int, int] | None:
    """Names the socket that is at a path now; ``None`` where there is none, or of an address."""
    try:
        found = address.stat() if isinstance(address, Path) else None
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_ctime_ns)


class _ClientConnection:
    """One connection; ``place`` names the socket that it was made at."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        where: str,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.place = place
        self._reader = reader
        self._writer = writer
        self._where = where
        self._waiting: dict[str, asyncio.Queue[_Answer]] = {}
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._receiving = self._loop.create_task(self._receive())

    def ask(self, question: _Question) -> tuple[str, asyncio.Queue[_Answer]]:
        """Send a question; returns its id on the wire, and the queue into which its answers come."""
        # Ids on the wire are this side's own: a late frame of a cancelled request must not reach its namesake.
        wire = replace(question, id=new_id("wire"))
        answers = self._waiting[wire.id] = asyncio.Queue()
        self._send(wire)
        return wire.id, answers

    def end(self, wire: str, *, cancel: bool) -> None:
        """Wait for no more answers to a question, and cancel it if it has not ended."""
        self._waiting.pop(wire, None)
        if cancel:
            self._send(Cancellation(wire))

    def _send(self, message: _Question | Cancellation) -> None:
        if self.lost:
            return
        try:
            self._writer.write(frames.encode(message))
        except (OSError, RuntimeError):
            # uvloop raises RuntimeError for a transport that closed before the reader has heard of it.
            self.hang_up("The connection to the engine broke.")

    async def close(self) -> None:
        lost = self.lost
        self._receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiving
        self.hang_up("The connection to the engine was closed.")
        await closing.close(self._writer, lost=lost)

    async def _receive(self) -> None:
        reason = "The engine died in the middle of an answer."
        try:
            while (message := await frames.read(self._reader, _decoder)) is not None:
                self.heard_at = self._loop.time()
                if not isinstance(message, Hello) and (answers := self._waiting.get(message.id)) is not None:
                    answers.put_nowait(message)
        except (CorruptionError, OSError) as error:
            reason = str(error) or reason
        finally:
            self.hang_up(reason)

    def hang_up(self, reason: str) -> None:
        """Take no more answers; whoever waits for one gets an error."""
        self.lost = True
        self._writer.close()
        for answers in self._waiting.values():
            answers.put_nowait(EngineError(reason, where=self._where, next_step="Ask again; the engine is restarted."))
        self._waiting.clear()
