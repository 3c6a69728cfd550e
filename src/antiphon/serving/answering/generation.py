"""From a prompt to a text that passed its guards: generate, guard, retry, fall back to the guard's template.

The steps after the engine are pure, so that a replay can take them again from the recorded texts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.catalog.serving.receipts import GuardReceipt
from antiphon.core.clock import parse_duration
from antiphon.core.errors import DeadlineExceededError, EngineError, InvalidOutputError
from antiphon.core.ids import canonical, new_id
from antiphon.core.telemetry import traceparent
from antiphon.definitions.application import SLO, ApplicationSpec, Decoding
from antiphon.engine.api import parameters
from antiphon.engine.api.messages import (
    ChatTurn,
    Delta,
    GenerationRequest,
    GenerationResult,
    ModelDescription,
    Penalties,
    TokenOut,
)
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.serving.answering import guards, prompts
from antiphon.serving.answering.context import AnswerContext
from antiphon.serving.answering.guards import mismatches, parsed
from antiphon.serving.answering.tools import schema, tagged, writes_tools
from antiphon.serving.request import AnswerRequest

EngineCall = Callable[[GenerationRequest], AsyncGenerator[Delta | GenerationResult, None]]
"""An engine's ``generate``."""


class GenerationSpec(msgspec.Struct, frozen=True):
    """Prompt, decoding and constraints: the same value gives the same text inside one fingerprint.

    Attributes:
        parameters: unset for none, so that stored answers are found by the key that they had before there were any.
    """

    model: str
    fingerprint: str
    prompt: str
    messages: tuple[ChatTurn, ...]
    decoding: Decoding
    json_schema: str | None
    branches: bool
    logprobs: int | None = None
    cache_salt: str = ""
    prompt_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    penalties: Penalties = Penalties()
    tools: str | None = None
    grammar: str | None = None
    parameters: str | msgspec.UnsetType = msgspec.UNSET


class Generation(msgspec.Struct, frozen=True):
    """One attempt: the engine's request and its result; ``prompt`` are the prompt's own tokens, if requested."""

    sent: GenerationRequest
    finished: GenerationResult
    tokens: tuple[TokenOut, ...]
    prompt: tuple[TokenOut, ...] = ()


class GuardedText(msgspec.Struct, frozen=True):
    """The text of all attempts together, and the actions of the guards."""

    text: str
    finish_reason: str
    attempts: tuple[Generation, ...]
    actions: tuple[GuardReceipt, ...]


def specify(context: AnswerContext, model: ModelDescription) -> GenerationSpec:
    """The request's prompt and decoding for a model: as text, or as turns when the engine has its own template.

    A raw prompt, text or tokens, goes to the engine as it is. Raises ``InvalidInputError`` when a template fails.
    """
    request, application = context.request, context.application
    overrides, output_schema = request.overrides, application.schema
    raw: str | tuple[int, ...] | None = None
    if application.prompt.template or application.versions:
        where = f"application {application.name}, prompt"
        conversation = prompts.turns(
            application, prompts.render(application.prompt.template, context.template_names, where)
        )
    else:
        conversation = list(request.messages)
        raw = request.prompt_ids or request.prompt
    tools, grammar = overrides.tools, None
    own_template = not model.chat_template and raw is None
    prompt = raw if isinstance(raw, str) else ""
    if raw is None and not own_template:
        prompt = prompts.chat(model, conversation, tools)
        if tools is not None and writes_tools(model.chat_template):
            grammar = tagged(tools)
        elif tools is not None:
            output_schema = schema(tools)
    return GenerationSpec(
        model=model.name,
        fingerprint=model.fingerprint,
        prompt=prompt,
        messages=tuple(conversation) if own_template else (),
        decoding=application.decoding,
        json_schema=json.dumps(output_schema) if output_schema is not None else None,
        branches=bool(application.classes),
        cache_salt=request.scope.tenant,
        logprobs=overrides.logprobs,
        prompt_ids=raw if isinstance(raw, tuple) else (),
        prompt_logprobs=overrides.prompt_logprobs,
        penalties=overrides.penalties or Penalties(),
        tools=canonical(tools.openai).decode() if tools is not None and own_template else None,
        grammar=grammar,
        parameters=overrides.engine or msgspec.UNSET,
    )


def service_level(slo: SLO) -> ServiceLevel:
    """The service level that batch work in the engine must leave to an application's answers."""
    return ServiceLevel(
        ttft=parse_duration(slo.ttft_p99).total_seconds(),
        tpot=None if slo.tpot_p99 is None else parse_duration(slo.tpot_p99).total_seconds(),
        latency=parse_duration(slo.latency_p99).total_seconds(),
        slowdown=slo.slowdown,
    )


def engine_request(
    spec: GenerationSpec, request: AnswerRequest, slo: SLO, attempt: int = 0, warmth: float = 0.0
) -> GenerationRequest:
    """The engine's request for one attempt; a retry has another seed and is sampled at least at ``warmth``."""
    decoding = spec.decoding
    priority = "batch" if request.tier == "flex" else request.path
    fields = parameters.fields(spec.parameters or "")
    ignore_end = bool(fields.pop("ignore_eos", False))
    return GenerationRequest(
        id=new_id("gen"),
        model=spec.model,
        prompt=spec.prompt,
        messages=spec.messages,
        max_tokens=decoding.max_tokens,
        temperature=max(decoding.temperature, warmth) if attempt else decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed + attempt,
        stop=decoding.stop,
        json_schema=spec.json_schema,
        logprobs=spec.logprobs,
        branches=spec.branches and attempt == 0,
        priority=priority,
        traceparent=traceparent(),
        cache_salt=spec.cache_salt,
        level=None if priority == "batch" else service_level(slo),
        ahead=request.tier == "priority",
        prompt_ids=spec.prompt_ids,
        prompt_logprobs=spec.prompt_logprobs,
        penalties=spec.penalties,
        tools=spec.tools,
        grammar=spec.grammar,
        ignore_end=ignore_end,
        parameters=canonical(fields).decode() if fields else "",
    )


async def generate(
    call: EngineCall, request: GenerationRequest, deadline: float | None = None
) -> AsyncGenerator[Delta | Generation, None]:
    """One generation: its deltas, then the whole of it. ``deadline`` is a time of the event loop's clock.

    Raises:
        EngineError: the engine ended without finishing the text, so what there is may not be served.
        DeadlineExceededError: the text was not finished in time; the engine's slot is free again.
    """
    tokens: list[TokenOut] = []
    prompt: tuple[TokenOut, ...] = ()
    async with aclosing(call(request)) as events:
        while (event := await _next(events, deadline)) is not None:
            if isinstance(event, Delta):
                tokens.extend(event.tokens)
                prompt = event.prompt or prompt
                yield event
            elif event.reason == "cancelled":
                break
            else:
                yield Generation(sent=request, finished=event, tokens=tuple(tokens), prompt=prompt)
                return
    raise EngineError("The engine gave the text up before its end.", where="engine", next_step="Try again.")


async def _next(
    events: AsyncGenerator[Delta | GenerationResult, None], deadline: float | None
) -> Delta | GenerationResult | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(events, None)
    except TimeoutError:
        raise DeadlineExceededError(
            "The answer was not finished in time.",
            where="engine",
            next_step="Try again when it is less busy, ask for fewer tokens, or raise [gateway] request_timeout.",
        ) from None


async def generate_guarded(
    call: EngineCall, spec: GenerationSpec, context: AnswerContext, deadline: float | None = None
) -> GuardedText:
    """Generate until the guards pass, or take the guard's fallback when the retries are used up.

    Raises:
        DeadlineExceededError: the attempts together took too long.
        InvalidOutputError: the text does not meet the schema (it was cut off, say) and no fallback mends it.
    """
    application, prints, names = context.application, context.reading.prints, context.template_names
    retries = max((guard.retries for guard in application.guards), default=0)
    warmth = max((guard.retry_temperature for guard in application.guards), default=0.0)
    attempts: list[Generation] = []
    actions: list[GuardReceipt] = []
    for number in range(1 + retries):
        request = engine_request(spec, context.request, application.slo, number, warmth)
        async with aclosing(generate(call, request, deadline)) as events:
            async for event in events:
                if isinstance(event, Generation):
                    attempts.append(event)
        generated = attempts[-1].finished
        wrong = check(generated.text, generated.reason, application, prints, names)
        if not wrong:
            actions += [GuardReceipt(guard=_name(guard.property), action="pass") for guard in application.guards]
            return GuardedText(generated.text, generated.reason, tuple(attempts), tuple(actions))
        if not application.guards:
            raise _invalid(application, "; ".join(wrong.values()))
        if number < retries:
            actions += [GuardReceipt(_name(place), "retry", reason) for place, reason in wrong.items()]
    text, replaced = fall_back([attempt.finished.text for attempt in attempts], application, prints, names)
    actions += [GuardReceipt(_name(place), "template", reason) for place, reason in replaced.items()]
    return GuardedText(text, "stop", tuple(attempts), tuple(actions))


def check(
    text: str,
    reason: str,
    application: ApplicationSpec,
    prints: Mapping[str, str | None],
    names: Mapping[str, Any],
) -> dict[str, str]:
    """Find what keeps a text from being served: guarded property (``""``: the output as a whole) to a reason."""
    output: Any = None
    wrong: dict[str, str] = {}
    if application.output_schema is not None:
        output = parsed(text)
        if output is None:
            return {"": "it was cut off" if reason == "length" else "it is not JSON"}
        guarded = {guard.property for guard in application.guards}
        for place, mismatch in mismatches(application.schema or {}, output).items():
            wrong.setdefault(place if place in guarded else "", mismatch)
    for guard in application.guards:
        guarded_text = output.get(guard.property) if isinstance(output, dict) else text
        if not isinstance(guarded_text, str):
            wrong.setdefault(guard.property, f"it has no {guard.property}")
            continue
        found = guards.violations(guarded_text, application.figures, prints, names["entity"].values())
        if found:
            wrong.setdefault(guard.property, "; ".join(found[:3]))
    return wrong


def fall_back(
    texts: list[str], application: ApplicationSpec, prints: Mapping[str, str | None], names: Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    """Fallbacks in place of the guarded properties that may not be served; the other properties are those of the
    first attempt that is otherwise whole.

    Returns:
        The text, and the replaced properties with the reason each was replaced for.

    Raises:
        InvalidOutputError: no attempt gave an output to stand beside the fallback.
    """
    problem = "no attempt was made"
    for text in texts:
        wrong = check(text, "stop", application, prints, names)
        if "" in wrong:
            problem = wrong[""]
            continue
        output = parsed(text) if application.output_schema is not None else {}
        written = {
            guard.property: prompts.render(
                guard.fallback, {**names, "output": output}, f"guard {guard.property}, fallback"
            ).strip()
            for guard in application.guards
            if guard.property in wrong
        }
        if application.output_schema is None:
            return " ".join(written.values()), wrong
        return json.dumps({**output, **written}, ensure_ascii=False), wrong
    raise _invalid(application, problem)


def _name(place: str) -> str:
    return f"figures:{place}" if place else "output"


def _invalid(application: ApplicationSpec, problem: str) -> InvalidOutputError:
    return InvalidOutputError(
        f"The model's text does not meet the output schema: {problem}.",
        where=f"application {application.name}",
        next_step="Raise decoding.max_tokens or shorten what the schema asks for.",
    )
