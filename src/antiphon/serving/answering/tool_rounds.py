"""Rounds of tools before an answer: the model chooses calls, the platform makes them, until it chooses none.

Invariants: an answer has at most as many calls, and they take at most as long, as the application's bounds say; what
was called and what it gave is in the prompts of the generations that follow, so that a replay calls nothing. A tool
that acts is called for answers that a user gets alone, and a call whose result is in the journal is not made again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from antiphon.core.ids import canonical, keyed_hash
from antiphon.definitions.tools import ToolBounds, ToolSpec
from antiphon.engine.api import tool_text
from antiphon.engine.api.messages import ChatTurn, Delta, ModelDescription, ToolCall
from antiphon.serving.answering.context import AnswerContext, Generation, ToolCallRecord
from antiphon.serving.answering.generation import EngineCall, choosing, engine_request, generate
from antiphon.serving.answering.tool_functions import ToolResult
from antiphon.serving.services import Services

_USED_UP = ToolResult("No more calls are permitted; answer with what is known.", "refused")
_UNSEEN = ToolResult("A tool that acts is not called for an answer that no user gets.", "refused")


class ToolRounds:
    """Has a model choose tools, and calls them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._now = services.clock.monotonic

    async def called(
        self, call: EngineCall, model: ModelDescription, context: AnswerContext, deadline: float | None = None
    ) -> AnswerContext:
        """The request after its tools: with the turns that call them and their results. Unchanged without any tools,
        and where they were called already: for an engine that failed then, say.

        Raises:
            PromptTooLongError: the results do not fit. As for any generation otherwise.
        """
        specs = {one.name: one for one in context.application.tools or ()}
        if not specs or context.chose:
            return context
        bounds = context.application.tool_bounds or ToolBounds()
        if context.request.preset is not None and not context.calls:
            preset = context.request.preset
            made = ToolCallRecord(preset.tool, "{}", preset.result, "done", 0.0)
            context = _followed(context, (ToolCall("", preset.tool, "{}"),), (made,))
        left, ends = bounds.calls, self._now() + bounds.seconds
        while True:
            chosen = await _chosen(call, model, context, deadline)
            calls = tool_text.read(chosen.finished.text)[1]
            context = msgspec.structs.replace(context, decisions=(*context.decisions, chosen))
            if calls:
                context = await self._with_results(context, specs, calls, left, ends)
                left -= len(calls)
            if not calls or left <= 0 or self._now() >= ends:
                return msgspec.structs.replace(context, chose=True)

    async def _with_results(
        self, context: AnswerContext, specs: dict[str, ToolSpec], calls: tuple[ToolCall, ...], left: int, ends: float
    ) -> AnswerContext:
        """The request with these calls, as many as are ``left``, and their results."""
        making = [self._made(context, specs, one, ends) for one in calls[:left]]
        if any(specs[one.name].acts for one in calls if one.name in specs):
            made = [await one for one in making]  # One after another: the second of two alike finds the first's result.
        else:
            made = await asyncio.gather(*making)
        over = [ToolCallRecord(one.name, one.arguments, _USED_UP.text, _USED_UP.status, 0.0) for one in calls[left:]]
        return _followed(context, calls, (*made, *over))

    async def _made(
        self, context: AnswerContext, specs: dict[str, ToolSpec], one: ToolCall, ends: float
    ) -> ToolCallRecord:
        began = self._now()
        spec = specs.get(one.name)
        if spec is None:
            result = ToolResult(f"There is no tool {one.name!r}; there are {', '.join(specs)}.", "failed")
        elif spec.acts and context.request.role != "live":
            result = _UNSEEN
        elif spec.acts:
            result = await self._acted(context, spec, one, ends - began)
        else:
            result = await self._services.tool_functions.call(spec, one.arguments, max(0.0, ends - began))
        return ToolCallRecord(one.name, one.arguments, result.text, result.status, self._now() - began)

    async def _acted(self, context: AnswerContext, spec: ToolSpec, one: ToolCall, seconds: float) -> ToolResult:
        """The result of a call that acts: from the journal, or made and noted there."""
        services, scope = self._services, context.request.scope
        key = self._key(context, one)
        known = await services.commit.submit(partial(_begun, services, scope, key, spec.name))
        if known is not None:
            return ToolResult(known, "done")
        result = await services.tool_functions.call(spec, one.arguments, max(0.0, seconds), key)
        if result.status == "done":
            await services.commit.submit(partial(_finished, services, scope, key, result.text))
        return result

    def _key(self, context: AnswerContext, one: ToolCall) -> str:
        """The key of a call: the same for a turn that is asked again after its answer was lost, and for the same call
        twice in one answer."""
        record = context.history.record
        turn = context.arrival.request_id if record is None else f"{record.id}|{context.history.number}"
        try:
            arguments = msgspec.json.decode(one.arguments or "{}")
        except msgspec.DecodeError:
            arguments = one.arguments
        named = canonical([str(context.request.scope), context.application.name, turn, one.name, arguments])
        return keyed_hash(self._services.subject_key, f"tool|{named.decode()}").hex()


def _followed(
    context: AnswerContext, calls: tuple[ToolCall, ...], records: tuple[ToolCallRecord, ...]
) -> AnswerContext:
    """The request after these calls, with the turns that say so."""
    # Ids follow from the place, so that the same calls are the same prompt.
    begin = len(context.calls)
    numbered = tuple(ToolCall(f"call_{begin + at}", one.name, one.arguments) for at, one in enumerate(calls))
    results = (
        ChatTurn("tool", record.result, tool_call_id=one.id, name=one.name)
        for one, record in zip(numbered, records, strict=True)
    )
    return msgspec.structs.replace(
        context,
        exchanged=(*context.exchanged, ChatTurn("assistant", "", numbered), *results),
        calls=(*context.calls, *records),
    )


def _begun(services: Services, scope: Any, key: str, tool: str, connection: Any) -> str | None:
    return services.tool_journal.begin(scope, key, tool, within=connection)


def _finished(services: Services, scope: Any, key: str, result: str, connection: Any) -> None:
    services.tool_journal.finish(scope, key, result, within=connection)


async def _chosen(
    call: EngineCall, model: ModelDescription, context: AnswerContext, deadline: float | None
) -> Generation:
    request = engine_request(choosing(context, model), context.request, context.application.slo, continues=True)
    made: Generation | None = None
    async with aclosing(generate(call, request, deadline)) as events:
        async for event in events:
            if not isinstance(event, Delta):
                made = event
    assert made is not None
    return made
