"""The engine in this process: checks requests, hands them to the step loop's thread, and brings the results back."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import msgspec

from antiphon.core.errors import (
    EngineFailed,
    InvalidInput,
    NotFound,
    Overloaded,
    PromptTooLong,
    SchemaUnsatisfiable,
    Unavailable,
)
from antiphon.core.ids import new_id
from antiphon.engine.failures import error_of
from antiphon.engine.lane import Emission, Lane
from antiphon.engine.messages import Delta, Described, Failed, Finished, Generate, Load, ModelDescription
from antiphon.engine.prefixes import chain_of
from antiphon.engine.runtime import Runtime
from antiphon.engine.scheduler import Budget
from antiphon.engine.sequence import Sequence
from antiphon.engine.step_loop import StepLoop

Event = Delta | Finished | Failed
Sink = Callable[[Event], None]

MOST_STOPS = 16
MOST_LOGPROBS = 20


class LocalEngine:
    """Implements :class:`~antiphon.engine.port.Engine` over runtimes that it then owns.

    Args:
        runtimes: by the model name callers use.
        most_waiting: requests of one priority that may wait for a slot; beyond it ``Overloaded``.
        share_prefixes: reuse the computed beginnings of prompts; results are the same either way.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        *,
        budget: Budget | None = None,
        most_waiting: Mapping[str, int] | None = None,
        share_prefixes: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtimes = dict(runtimes)
        self._lanes = {
            name: Lane(runtime, monotonic, share_prefixes=share_prefixes) for name, runtime in self._runtimes.items()
        }
        self._step_loop = StepLoop(self._lanes, budget or Budget(), self._emit)
        self._most_waiting = {"online": 256, "batch": 4096, **(most_waiting or {})}
        self._monotonic = monotonic
        self._sinks: dict[int, tuple[str, Sink]] = {}
        self._tickets = 0
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._step_loop.run, name="antiphon-step-loop", daemon=True)
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = False

    async def start(self) -> LocalEngine:
        """Start the step loop; results come back on the running asyncio loop. Returns the engine itself."""
        self._asyncio = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def describe(self) -> Described:
        return Described(new_id("describe"), self.models(), self.load())

    def models(self) -> tuple[ModelDescription, ...]:
        """The served models."""
        return tuple(runtime.description for runtime in self._runtimes.values())

    def load(self) -> Load:
        """How busy the engine is now."""
        return self._step_loop.load()

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = await self.submit(request, events.put_nowait)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Failed):
                    raise error_of(event)
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel(ticket)

    async def submit(self, request: Generate, sink: Sink) -> int:
        """Take a request; its events go to ``sink`` on the asyncio loop, the last one a Finished or Failed.

        Returns:
            A ticket for :meth:`cancel`.

        Raises:
            What :meth:`Engine.generate` raises before anything is generated.
        """
        self._admit(request)
        ticket = self._tickets = self._tickets + 1
        # A new grammar may take a hundred milliseconds to compile, and others' frames must not wait for it.
        sequence = await asyncio.to_thread(self._prepare, ticket, request)
        if self._closed:
            raise Unavailable("The engine is shutting down.")
        self._sinks[ticket] = (request.priority, sink)
        self._drained.clear()
        self._step_loop.submit(request.model, sequence)
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
        for ticket in list(self._sinks):
            self._step_loop.cancel(ticket)
        self._step_loop.stop()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
        # The loop's last emissions were scheduled before it ended; let them arrive.
        await asyncio.sleep(0)
        for _, sink in self._sinks.values():
            sink(Failed("", EngineFailed.code, "The engine was closed."))
        self._sinks.clear()
        for runtime in self._runtimes.values():
            runtime.close()

    def _emit(self, emissions: list[Emission]) -> None:
        assert self._asyncio is not None
        self._asyncio.call_soon_threadsafe(self._dispatch, emissions)

    def _dispatch(self, emissions: list[Emission]) -> None:
        for ticket, event in emissions:
            waiting = self._sinks.get(ticket)
            if waiting is None:
                continue
            if not isinstance(event, Delta):
                del self._sinks[ticket]
            waiting[1](event)
        if not self._sinks:
            self._drained.set()

    def _admit(self, request: Generate) -> None:
        if self._closed:
            raise Unavailable("The engine is shutting down.")
        if request.model not in self._lanes:
            raise NotFound(
                f"The engine does not serve the model {request.model!r}.",
                where="model",
                next_step=f"It serves {', '.join(sorted(self._lanes))}.",
            )
        waiting = sum(1 for priority, _ in self._sinks.values() if priority == request.priority)
        slots = self._runtimes[request.model].layout.slots
        if waiting >= slots + self._most_waiting[request.priority]:
            raise Overloaded(f"{waiting} {request.priority} requests are in the engine already.")
        _check_parameters(request)

    def _prepare(self, ticket: int, request: Generate) -> Sequence:
        arrived = self._monotonic()
        if request.messages:
            raise InvalidInput(
                "This engine has no chat template of its own to apply.",
                where="messages",
                next_step="Render them with the template of its description, and send a prompt.",
            )
        runtime, lane = self._runtimes[request.model], self._lanes[request.model]
        prompt = runtime.tokenize(request.prompt)
        if not prompt:
            raise InvalidInput("The prompt is empty.", where="prompt")
        room = runtime.layout.context_tokens
        if len(prompt) + request.max_tokens > room:
            raise PromptTooLong(
                f"{len(prompt)} prompt tokens and max_tokens {request.max_tokens} exceed the context of {room} tokens.",
                where="prompt",
                next_step="Shorten the prompt, lower max_tokens, or give the engine a larger context.",
            )
        constraint = None
        forced: list[int] = []
        if request.json_schema is not None:
            constraint = lane.grammars.constraint(request.json_schema)
            forced = constraint.forced()
            if len(forced) + (not constraint.complete) > request.max_tokens:
                raise SchemaUnsatisfiable(
                    f"The schema needs more than max_tokens ({request.max_tokens}) tokens: "
                    f"{len(forced)} are fixed from the start.",
                    where="max_tokens",
                )
        return Sequence(
            ticket=ticket,
            request=request,
            prompt=prompt,
            forced=forced,
            constraint=constraint,
            vocabulary=runtime.vocabulary,
            chain=chain_of(prompt + forced, runtime.layout.chunk_tokens),
            arrived=arrived,
        )


def _check_parameters(request: Generate) -> None:
    def require(good: bool, parameter: str, rule: str) -> None:
        if not good:
            value: Any = msgspec.to_builtins(getattr(request, parameter))
            raise InvalidInput(f"{parameter} is {value!r}; it must be {rule}.", where=parameter)

    require(request.max_tokens >= 1, "max_tokens", "at least 1")
    require(math.isfinite(request.temperature) and 0 <= request.temperature <= 10, "temperature", "between 0 and 10")
    require(0 < request.top_p <= 1, "top_p", "above 0 and at most 1")
    require(
        request.logprobs is None or 0 <= request.logprobs <= MOST_LOGPROBS, "logprobs", f"between 0 and {MOST_LOGPROBS}"
    )
    require(
        len(request.stop) <= MOST_STOPS and all(request.stop), "stop", f"at most {MOST_STOPS} texts, none of them empty"
    )
