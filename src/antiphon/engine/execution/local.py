"""The engine in this process: checks requests, hands them to the step loop's thread, and brings the results back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Sequence as Several
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from antiphon.core.child_process import name_thread
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    EngineError,
    NotFoundError,
    OverloadedError,
    SetupError,
    UnavailableError,
    UnsupportedParameterError,
)
from antiphon.core.ids import new_id
from antiphon.core.memory import LARGE_BYTES, MemoryRelease
from antiphon.core.supervision import STEP_LOOP
from antiphon.engine.api.failures import error_of
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
from antiphon.engine.declared_models import validated
from antiphon.engine.execution import preparation as preparing
from antiphon.engine.execution.embedding import EmbeddingLane, Encoder
from antiphon.engine.execution.executor import Emission, Lane
from antiphon.engine.execution.runtime import Runtime
from antiphon.engine.execution.step_loop import ServedLane, StepLoop
from antiphon.engine.execution.swap_space import KeptStates
from antiphon.engine.execution.tokenization import TextReader, give_way
from antiphon.engine.scheduling.scheduler import Budget, Planner, plan

_log = logging.getLogger("antiphon.engine")

Event = Delta | GenerationResult | TextEmbeddings | RequestFailure
Sink = Callable[[Event], None]
Loading = Callable[[ServedModel], Runtime]
"""Loads a model from its checked file; called in a thread, one at a time."""

_LOOKED_SECONDS = 15.0


@dataclass(eq=False, slots=True)
class _Served:
    """A model under its name. ``declared``: not one that the engine was started with."""

    lane: Lane
    sha256: str | None
    declared: bool
    leaving: bool = False
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class _Recipient:
    """The sink of a request in flight. ``held``: bytes that are free once it has ended."""

    priority: str
    sink: Sink
    held: int


class LocalEngine:
    """Implements :class:`~antiphon.engine.api.port.Engine` over runtimes that it then owns.

    Args:
        runtimes: by the model name callers use.
        digests: SHA-256 of the weights of those, where known.
        load: how a declared model is loaded; without it none can be declared.
        keep: told the whole declaration before anything is done about it.
        encoders: embedding models by the name callers use.
        missing: configured models that could not be loaded, and why.
        most_waiting: requests of one priority that may wait for a slot; beyond it ``OverloadedError``.
        kept: where sequences are whose slot somebody online has taken.
        share_prefixes: reuse the computed beginnings of prompts; results are the same either way.
        rest_after: seconds without a request after which a model's weights are let go, until the next one; ``None``
            keeps them.
        planner: decides what each step does, ``lane`` carries it out.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        *,
        digests: Mapping[str, str] | None = None,
        load: Loading | None = None,
        keep: Callable[[Several[ServedModel]], None] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        missing: Mapping[str, str] | None = None,
        budget: Budget | None = None,
        most_waiting: Mapping[str, int] | None = None,
        share_prefixes: bool = True,
        kept: KeptStates | None = None,
        rest_after: float | None = None,
        planner: Planner = plan,
        lane: type[Lane] = Lane,
        monotonic: Callable[[], float] = time.monotonic,
        memory: MemoryRelease | None = None,
    ) -> None:
        self._share_prefixes = share_prefixes
        self._kept = kept or KeptStates()
        self._planner = planner
        self._made = lane
        self._monotonic = monotonic
        self._served = {
            name: _Served(self._lane(runtime), (digests or {}).get(name), declared=False)
            for name, runtime in runtimes.items()
        }
        self._embedding = {
            name: EmbeddingLane(encoder, monotonic, lambda: self._step_loop.awaited())
            for name, encoder in (encoders or {}).items()
        }
        lanes: list[ServedLane] = [*(served.lane for served in self._served.values()), *self._embedding.values()]
        self._step_loop = StepLoop(lanes, budget or Budget(), self._emit)
        self._not_loaded = dict(missing or {})
        self._load = load
        self._keep = keep
        self._rest_after = rest_after
        self._resting: asyncio.Task[None] | None = None
        self._most_waiting = {"online": 256, "batch": 4096, **(most_waiting or {})}
        self._sinks: dict[int, _Recipient] = {}
        self._tickets = 0
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run_steps, name="antiphon-step-loop", daemon=True)
        self._drained = asyncio.Event()
        self._drained.set()
        self._declaring = asyncio.Lock()
        self._declarations: set[asyncio.Future[None]] = set()
        self._preparing: dict[asyncio.Future[Any], _Served] = {}
        self._closed = False
        self._reader = TextReader()
        self._text_preparation = ThreadPoolExecutor(1, "antiphon-text-preparation", initializer=give_way)
        self._memory = memory or MemoryRelease()

    def _run_steps(self) -> None:
        name_thread(STEP_LOOP)
        self._step_loop.run()

    async def start(self) -> LocalEngine:
        """Start the step loop; results come back on the running asyncio loop. Returns the engine itself."""
        self._asyncio = asyncio.get_running_loop()
        self._thread.start()
        if self._rest_after is not None:
            self._resting = self._asyncio.create_task(self._let_rest(self._rest_after))
        return self

    async def describe(self) -> EngineDescription:
        return self.described(new_id("describe"))

    def described(self, request: str) -> EngineDescription:
        """The answer to a question, by its id, about what is served and what is missing."""
        return EngineDescription(request, self.models(), self.load(), self.embedders(), self._not_loaded)

    def models(self) -> tuple[ModelDescription, ...]:
        """The served models."""
        return tuple(served.lane.runtime.description for served in self._served.values())

    def embedders(self) -> tuple[EmbedderDescription, ...]:
        """The served embedding models."""
        return tuple(lane.encoder.description for lane in self._embedding.values())

    def load(self) -> EngineLoad:
        """How busy the engine is now."""
        return self._step_loop.load()

    @property
    def turn_seconds(self) -> float:
        """How long the step loop's present turn has lasted so far; 0 while it has nothing to do."""
        return self._step_loop.turn_seconds

    async def serve(self, models: Several[ServedModel]) -> EngineDescription:
        wanted = validated(models)
        # A caller who goes away in the middle must not leave a model half loaded.
        task = asyncio.get_running_loop().create_task(self._declare(wanted))
        self._declarations.add(task)
        task.add_done_callback(self._declarations.discard)
        await asyncio.shield(task)
        return await self.describe()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = await self.submit(request, events.put_nowait)
        try:
            while True:
                event = await events.get()
                if isinstance(event, RequestFailure):
                    raise error_of(event)
                assert not isinstance(event, TextEmbeddings)
                yield event
                if isinstance(event, GenerationResult):
                    return
        finally:
            self.cancel(ticket)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        served = self._named(request.model)
        # Its thread reads the model's vocabulary, which must not be freed meanwhile.
        reading = self._reader.begin(served.lane.runtime, request)
        self._preparing[reading] = served
        reading.add_done_callback(self._prepared)
        held = len(request.text or "") + 8 * len(request.tokens)
        reading.add_done_callback(lambda _: self._memory.used(held))
        return await asyncio.shield(reading)

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = await self.submit_texts(request, events.put_nowait)
        try:
            event = await events.get()
        finally:
            self.cancel(ticket)
        if isinstance(event, RequestFailure):
            raise error_of(event)
        assert isinstance(event, TextEmbeddings)
        return event

    async def submit_texts(self, request: TextEmbeddingRequest, sink: Sink) -> int:
        """Take texts; ``sink`` is told an Embedded or Failed on the asyncio loop.

        Returns:
            A ticket for :meth:`cancel`.

        Raises:
            What :meth:`~antiphon.engine.api.port.Engine.embed` raises before anything is embedded.
        """
        self._require_open()
        lane = self._embedding.get(request.model)
        if lane is None:
            self._require_present(request.model)
            served = ", ".join(sorted(self._embedding)) or "none"
            raise NotFoundError(
                f"The engine does not serve the embedding model {request.model!r}.",
                where="model",
                next_step=f"Embedding models that it serves: {served}.",
            )
        self._require_room(request.priority, 0)
        ticket = self._tickets = self._tickets + 1
        # In a thread of its own: the default ones prepare requests that generate.
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(self._text_preparation, lane.prepared, ticket, request)
        self._require_open()
        held = sum(map(len, request.texts))
        self._sinks[ticket] = _Recipient(request.priority, sink, held)
        self._drained.clear()
        self._step_loop.submit(lane, work)
        return ticket

    async def submit(self, request: GenerationRequest, sink: Sink) -> int:
        """Take a request; its events go to ``sink`` on the asyncio loop, the last one a Finished or Failed.

        Returns:
            A ticket for :meth:`cancel`.

        Raises:
            What :meth:`Engine.generate` raises before anything is generated.
        """
        served = self._admit(request)
        held = len(request.prompt) + 8 * len(request.prompt_ids)
        if request.prompt_logprobs is not None:
            held += LARGE_BYTES
        ticket = self._tickets = self._tickets + 1
        # A new grammar may take a hundred milliseconds to compile, and others' frames must not wait for it.
        prepared = asyncio.to_thread(preparing.prepared, served.lane, ticket, request, self._monotonic())
        under_way = asyncio.ensure_future(prepared)
        self._preparing[under_way] = served
        try:
            sequence = await asyncio.shield(under_way)
            self._require_open()
            self._sinks[ticket] = _Recipient(request.priority, sink, held)
            self._drained.clear()
            self._step_loop.submit(served.lane, sequence)
        finally:
            # The thread of a caller who went away still reads the model's vocabulary.
            if ticket not in self._sinks:
                self._memory.used(held)
            if under_way.done():
                self._prepared(under_way)
            else:
                under_way.add_done_callback(self._prepared)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Cancel a request; one that has ended already is left alone."""
        if ticket in self._sinks:
            self._step_loop.cancel(ticket)

    async def drain(self) -> None:
        """Wait until nothing is in flight."""
        await self._drained.wait()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._resting is not None:
            self._resting.cancel()
        while running := self._declarations | self._preparing.keys():
            await asyncio.wait(running)
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
        # Its thread reads the vocabularies that the lanes free.
        await asyncio.to_thread(self._text_preparation.shutdown)
        for lane in self._step_loop.lanes:
            lane.close()
        self._reader.close()
        await asyncio.to_thread(self._kept.close)

    async def _let_rest(self, after: float) -> None:
        while True:
            await asyncio.sleep(min(after / 4, _LOOKED_SECONDS))
            now = self._monotonic()
            for served in self._served.values():
                runtime = served.lane.runtime
                if not served.lane.idle or served in self._preparing.values() or runtime.resting:
                    served.used = now
                elif now - served.used >= after:
                    self._step_loop.rest(served.lane)

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
                self._memory.used(recipient.held)
            recipient.sink(event)
        if not self._sinks:
            self._drained.set()

    def _lane(self, runtime: Runtime) -> Lane:
        return self._made(
            runtime,
            self._monotonic,
            share_prefixes=self._share_prefixes,
            kept=self._kept,
            planner=self._planner,
            awaited=lambda: self._step_loop.awaited(),
        )

    async def _declare(self, wanted: tuple[ServedModel, ...]) -> None:
        async with self._declaring:
            self._require_open()
            missing = self._missing(wanted)
            if missing and self._load is None:
                raise UnsupportedParameterError(
                    f"The engine cannot be told to serve {', '.join(model.name for model in missing)}.", where="models"
                )
            if self._keep is not None:
                await asyncio.to_thread(self._keep, wanted)
            names = {model.name for model in wanted}
            for name in [name for name, served in self._served.items() if served.declared and name not in names]:
                self._dismiss(self._served.pop(name))
            failures = [failure for model in missing if (failure := await self._take_in(model)) is not None]
            if failures:
                raise failures[0]

    def _missing(self, wanted: tuple[ServedModel, ...]) -> list[ServedModel]:
        missing = []
        for model in wanted:
            served = self._served.get(model.name)
            if served is None:
                missing.append(model)
            elif served.sha256 not in (None, model.sha256):
                raise ConflictError(
                    f"The engine serves other weights under this name: {served.sha256}, not {model.sha256}.",
                    where=model.name,
                    next_step="Give the new weights a name of their own.",
                )
        return missing

    async def _take_in(self, model: ServedModel) -> AntiphonError | None:
        """Load a model and serve it, or say why not."""
        assert self._load is not None
        try:
            self._require_open()
            lane = await asyncio.to_thread(self._loaded, self._load, model)
        except AntiphonError as error:
            failure = error
        except (OSError, MemoryError) as error:
            failure = SetupError(f"The model cannot be loaded: {error or 'memory does not suffice'}.", where=model.name)
        else:
            self._served[model.name] = _Served(lane, model.sha256, declared=True)
            self._step_loop.join(lane)
            _log.info("Model %s is loaded: fingerprint %s.", model.name, lane.runtime.description.fingerprint)
            return None
        _log.error("Model %s is left out: %s", model.name, failure)
        return failure

    def _loaded(self, load: Loading, model: ServedModel) -> Lane:
        runtime = load(model)
        try:
            return self._lane(runtime)
        except BaseException:
            runtime.close()
            raise

    def _dismiss(self, served: _Served) -> None:
        served.leaving = True
        if served not in self._preparing.values():
            self._step_loop.leave(served.lane)

    def _prepared(self, preparing: asyncio.Future[Any]) -> None:
        served = self._preparing.pop(preparing)
        if served.leaving:
            self._dismiss(served)

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The engine is shutting down.")

    def _named(self, model: str) -> _Served:
        self._require_open()
        served = self._served.get(model)
        if served is None:
            self._require_present(model)
            raise NotFoundError(
                f"The engine does not serve the model {model!r}.",
                where="model",
                next_step=f"It serves {', '.join(sorted(self._served))}.",
            )
        return served

    def _require_present(self, model: str) -> None:
        if (why := self._not_loaded.get(model)) is not None:
            raise UnavailableError(
                f"The model {model!r} is configured and could not be loaded: {why}",
                where="model",
                next_step=f"Fetch it (`antiphon models pull {model}`) and restart `antiphon up`; other models answer.",
            )

    def _admit(self, request: GenerationRequest) -> _Served:
        served = self._named(request.model)
        self._require_room(request.priority, served.lane.slots)
        preparing.check(request)
        return served

    def _require_room(self, priority: Priority, slots: int) -> None:
        waiting = sum(1 for recipient in self._sinks.values() if recipient.priority == priority)
        if waiting >= slots + self._most_waiting[priority]:
            raise OverloadedError(f"{waiting} {priority} requests are in the engine already.")
