"""The engine in this process: checks requests, hands them to the step loop's thread, and delivers the results."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Sequence as Several
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from msgspec.structs import replace

from antiphon.core.child_process import name_thread
from antiphon.core.errors import EngineError, NotFoundError, OverloadedError, UnavailableError
from antiphon.core.ids import new_id
from antiphon.core.memory import LARGE_BYTES, MemoryRelease, resident_bytes
from antiphon.core.supervision import STEP_LOOP
from antiphon.engine.api.messages import (
    Delta,
    EmbedderDescription,
    EngineDescription,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    ModelDescription,
    Priority,
    RequestFailure,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
)
from antiphon.engine.api.port import Event, Sink
from antiphon.engine.execution import preparation
from antiphon.engine.execution.embedding_executor import EmbeddingExecutor, Encoder
from antiphon.engine.execution.model_executor import ModelExecutor
from antiphon.engine.execution.models import EngineModels, LoadModel, ModelEntry
from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.step_executor import Emission
from antiphon.engine.execution.step_loop import StepLoop
from antiphon.engine.execution.swap_space import SwapSpace
from antiphon.engine.execution.tokenization import TokenizationQueue, lower_thread_priority
from antiphon.engine.scheduling.scheduler import plan
from antiphon.engine.scheduling.state import Planner, StepBudget


@dataclass(frozen=True, slots=True)
class _Recipient:
    """The sink of a request in flight. ``held_bytes`` are free once it has ended."""

    priority: str
    sink: Sink
    held_bytes: int
    spare: bool = False


class LocalEngine:
    """Implements :class:`~antiphon.engine.api.port.Engine` over runtimes that it then owns.

    Args:
        runtimes: by the model name callers use.
        digests: SHA-256 of the weights of those, where known.
        load: loads a declared model; without it none can be declared.
        save_declaration: saves the whole declaration before it is carried out.
        encoders: embedding models by the name callers use.
        missing: configured models that could not be loaded, and why.
        most_waiting: requests of one priority that may wait for a slot; beyond it ``OverloadedError``.
        share_prefixes: reuse the computed beginnings of prompts; results are the same either way.
        swap_space: holds sequences whose slot an online request has taken.
        rest_after: seconds without a request after which a model's weights are freed, until the next one; ``None``
            keeps them.
        planner: decides each step; ``executor`` carries it out.
        gpus: that it is declared to use.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        *,
        digests: Mapping[str, str] | None = None,
        load: LoadModel | None = None,
        save_declaration: Callable[[Several[ServedModel]], None] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        missing: Mapping[str, str] | None = None,
        budget: StepBudget | None = None,
        most_waiting: Mapping[str, int] | None = None,
        share_prefixes: bool = True,
        swap_space: SwapSpace | None = None,
        rest_after: float | None = None,
        planner: Planner = plan,
        executor: type[ModelExecutor] = ModelExecutor,
        monotonic: Callable[[], float] = time.monotonic,
        memory: MemoryRelease | None = None,
        gpus: int = 0,
    ) -> None:
        self._gpus = gpus
        self._swap_space = space = swap_space or SwapSpace()
        self._monotonic = monotonic
        self._process, self._began = new_id("engine"), monotonic()

        def online_waiting() -> bool:
            return self._step_loop.online_waiting()

        def make_executor(runtime: Runtime) -> ModelExecutor:
            return executor(
                runtime,
                monotonic,
                share_prefixes=share_prefixes,
                swap_space=space,
                planner=planner,
                online_waiting=online_waiting,
            )

        executors = {name: make_executor(runtime) for name, runtime in runtimes.items()}
        self._embedding = {
            name: EmbeddingExecutor(encoder, monotonic, online_waiting) for name, encoder in (encoders or {}).items()
        }
        self._step_loop = StepLoop([*executors.values(), *self._embedding.values()], budget or StepBudget(), self._emit)
        self._models = EngineModels(
            self._step_loop,
            executors,
            digests=digests or {},
            missing=missing or {},
            make_executor=make_executor,
            load=load,
            save_declaration=save_declaration,
            monotonic=monotonic,
        )
        self._rest_after = rest_after
        self._freeing: asyncio.Task[None] | None = None
        self._most_waiting = {"online": 256, "batch": 4096, **(most_waiting or {})}
        self._sinks: dict[int, _Recipient] = {}
        self._tickets = self._taken = 0
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run_steps, name="antiphon-step-loop", daemon=True)
        self._drained = asyncio.Event()
        self._drained.set()
        self._online = asyncio.Event()
        self._closed = False
        self._tokenization = TokenizationQueue()
        self._text_preparation = ThreadPoolExecutor(1, "antiphon-text-preparation", initializer=lower_thread_priority)
        self._memory = memory or MemoryRelease()

    def _run_steps(self) -> None:
        name_thread(STEP_LOOP)
        self._step_loop.run()

    async def start(self) -> LocalEngine:
        """Start the step loop; results come back on the running asyncio loop. Returns the engine itself."""
        self._asyncio = asyncio.get_running_loop()
        self._thread.start()
        if self._rest_after is not None:
            self._freeing = self._asyncio.create_task(self._models.free_idle(self._rest_after))
        return self

    async def describe(self) -> EngineDescription:
        return EngineDescription(
            new_id("describe"),
            self.models(),
            self.load(),
            self.embedders(),
            self._models.missing,
            host=socket.gethostname(),
            process=self._process,
        )

    def models(self) -> tuple[ModelDescription, ...]:
        """The served models."""
        return tuple(executor.runtime.description for executor in self._models.executors)

    def embedders(self) -> tuple[EmbedderDescription, ...]:
        """The served embedding models."""
        return tuple(executor.encoder.description for executor in self._embedding.values())

    def load(self) -> EngineLoad:
        """The present load of the engine."""
        needing = sum(not recipient.spare for recipient in list(self._sinks.values()))
        up, resident = self._monotonic() - self._began, resident_bytes(os.getpid()) or 0
        load = self._step_loop.load()
        return replace(
            load, needing=needing, taken=self._taken, up_seconds=up, resident_bytes=resident, gpus=self._gpus
        )

    @property
    def turn_seconds(self) -> float:
        """Seconds since the step loop's present turn began; 0 while it has no work."""
        return self._step_loop.turn_seconds

    async def serve(self, models: Several[ServedModel]) -> EngineDescription:
        await self._models.declare(models)
        return await self.describe()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = await self.submit(request, events.put_nowait)
        try:
            while True:
                event = await events.get()
                if isinstance(event, RequestFailure):
                    raise event.error
                assert not isinstance(event, TextEmbeddings)
                yield event
                if isinstance(event, GenerationResult):
                    return
        finally:
            self.cancel(ticket)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        entry = self._find(request.model)
        self._taken += 1
        tokenizing = self._tokenization.begin(entry.executor.runtime, request)
        # Its thread reads the model's vocabulary, which must not be freed meanwhile.
        self._models.hold(entry, tokenizing)
        tokenizing.add_done_callback(self._models.release)
        held_bytes = len(request.text or "") + 8 * len(request.tokens)
        tokenizing.add_done_callback(lambda _: self._memory.used(held_bytes))
        return await asyncio.shield(tokenizing)

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = await self.submit_texts(request, events.put_nowait)
        try:
            event = await events.get()
        finally:
            self.cancel(ticket)
        if isinstance(event, RequestFailure):
            raise event.error
        assert isinstance(event, TextEmbeddings)
        return event

    async def submit_texts(self, request: TextEmbeddingRequest, sink: Sink) -> int:
        """See :class:`~antiphon.engine.api.port.EngineCore`."""
        self._require_open()
        executor = self._embedding.get(request.model)
        if executor is None:
            self._models.require_loaded(request.model)
            served = ", ".join(sorted(self._embedding)) or "none"
            raise NotFoundError(
                f"The engine does not serve the embedding model {request.model!r}.",
                where="model",
                next_step=f"Embedding models that it serves: {served}.",
            )
        self._require_room(request.priority, 0)
        self._taken += 1
        ticket = self._tickets = self._tickets + 1
        # In a thread of its own: the default ones prepare requests that generate.
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(self._text_preparation, executor.prepare, ticket, request)
        self._require_open()
        self._sinks[ticket] = _Recipient(request.priority, sink, sum(map(len, request.texts)))
        self._drained.clear()
        self._step_loop.submit(executor, work)
        self._submitted(request.priority)
        return ticket

    async def submit(self, request: GenerationRequest, sink: Sink) -> int:
        """See :class:`~antiphon.engine.api.port.EngineCore`."""
        entry = self._find(request.model)
        self._require_room(request.priority, entry.executor.slots)
        preparation.check(request)
        self._taken += not request.spare
        held_bytes = len(request.prompt) + 8 * len(request.prompt_ids)
        if request.prompt_logprobs is not None:
            held_bytes += LARGE_BYTES
        ticket = self._tickets = self._tickets + 1
        # A new grammar may take a hundred milliseconds to compile, and others' frames must not wait for it.
        prepared = asyncio.to_thread(preparation.prepare, entry.executor, ticket, request, self._monotonic())
        preparing = asyncio.ensure_future(prepared)
        self._models.hold(entry, preparing)
        try:
            sequence = await asyncio.shield(preparing)
            self._require_open()
            self._sinks[ticket] = _Recipient(request.priority, sink, held_bytes, request.spare)
            self._drained.clear()
            self._step_loop.submit(entry.executor, sequence)
            self._submitted(request.priority)
        finally:
            if ticket not in self._sinks:
                self._memory.used(held_bytes)
            # After the submission, which the executor must not leave before. The thread of a caller who went away still
            # reads the model's vocabulary.
            if preparing.done():
                self._models.release(preparing)
            else:
                preparing.add_done_callback(self._models.release)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Cancel a request; a ticket of one that has ended is ignored."""
        if ticket in self._sinks:
            self._step_loop.cancel(ticket)

    async def online(self, seconds: float) -> None:
        """Return once an online request is in flight, at the latest after so many seconds."""
        if any(recipient.priority == "online" for recipient in self._sinks.values()):
            return
        self._online.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._online.wait()

    def hold_batch(self, seconds: float) -> None:
        """See :class:`~antiphon.engine.api.port.EngineCore`."""
        self._step_loop.hold_batch(seconds)

    def _submitted(self, priority: Priority) -> None:
        if priority == "online":
            self._online.set()

    async def drain(self) -> None:
        """Wait until no request is in flight."""
        await self._drained.wait()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._freeing is not None:
            self._freeing.cancel()
        await self._models.close()
        for ticket in list(self._sinks):
            self._step_loop.cancel(ticket)
        self._step_loop.stop()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
        # The loop's last emissions were scheduled before it ended; let them arrive.
        await asyncio.sleep(0)
        for recipient in self._sinks.values():
            recipient.sink(RequestFailure("", EngineError.code, "The engine was closed."))
        self._sinks.clear()
        # Its thread reads the vocabularies that the executors free.
        await asyncio.to_thread(self._text_preparation.shutdown)
        for executor in self._step_loop.executors:
            executor.close()
        self._tokenization.close()
        await asyncio.to_thread(self._swap_space.close)

    def _emit(self, emissions: list[Emission]) -> None:
        assert self._asyncio is not None
        self._asyncio.call_soon_threadsafe(self._dispatch, emissions)

    def _dispatch(self, emissions: list[Emission]) -> None:
        for ticket, event in emissions:
            recipient = self._sinks.get(ticket)
            if recipient is None:
                continue
            if not isinstance(event, Delta):
                del self._sinks[ticket]
                self._memory.used(recipient.held_bytes)
            recipient.sink(self._with_gpus(event) if self._gpus else event)
        if not self._sinks:
            self._drained.set()

    def _with_gpus(self, event: Event) -> Event:
        """An end with the GPUs whose time it took."""
        if isinstance(event, GenerationResult):
            return replace(event, usage=replace(event.usage, gpus=self._gpus))
        return replace(event, gpus=self._gpus) if isinstance(event, TextEmbeddings) else event

    def _find(self, model: str) -> ModelEntry:
        self._require_open()
        return self._models.find(model)

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The engine is shutting down.")

    def _require_room(self, priority: Priority, slots: int) -> None:
        waiting = sum(1 for recipient in self._sinks.values() if recipient.priority == priority)
        if waiting >= slots + self._most_waiting[priority]:
            raise OverloadedError(f"{waiting} {priority} requests are in the engine already.")
