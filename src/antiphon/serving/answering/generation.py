"""From a prompt to a text: what an engine is asked, and what it gave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from antiphon.catalog.serving.receipt import GuardReceipt
from antiphon.core.clock import parse_duration
from antiphon.core.errors import (
    AntiphonError,
    DeadlineExceededError,
    EngineError,
    UnsatisfiableSchemaError,
    UnservableReleaseError,
)
from antiphon.core.ids import canonical, new_id
from antiphon.core.telemetry import GENAI, Attributes, traceparent
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
from antiphon.serving.answering import prompts
from antiphon.serving.answering.context import AnswerContext, Generation
from antiphon.serving.answering.tools import Tool, Tools, schema, tagged, words, writes_tools
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


class GuardedText(msgspec.Struct, frozen=True):
    """The text of all attempts together, and the actions of the guards.

    Attributes:
        resumed: a guard acted after a part was shown, so that another request may get another text.
        first_byte: seconds from arrival to the first part that was shown; ``None`` for none.
    """

    text: str
    finish_reason: str
    attempts: tuple[Generation, ...]
    actions: tuple[GuardReceipt, ...]
    resumed: bool = False
    first_byte: float | None = None

    @property
    def attributes(self) -> Attributes:
        """The attributes of its span."""
        used = [attempt.finished.usage for attempt in self.attempts]
        return {
            GENAI["finish_reasons"]: [attempt.finished.reason for attempt in self.attempts],
            GENAI["input_tokens"]: sum(one.prompt_tokens for one in used),
            GENAI["output_tokens"]: sum(one.completion_tokens for one in used),
        }


def specify(context: AnswerContext, model: ModelDescription) -> GenerationSpec:
    """The request's prompt and decoding for a model: as text, or as turns when the engine has its own template.

    A raw prompt, text or tokens, goes to the engine as it is. Raises ``InvalidInputError`` when a template fails.
    """
    request, application = context.request, context.application
    overrides, output_schema = request.overrides, application.schema
    raw: str | tuple[int, ...] | None = None
    if application.prompt.template or application.versions:
        conversation = request_turns(context)
    else:
        conversation = list(request.messages)
        raw = request.prompt_ids or request.prompt
    tools, grammar = overrides.tools, None
    own_template = not model.chat_template and raw is None
    prompt = raw if isinstance(raw, str) else ""
    if raw is None and not own_template:
        prompt = prompts.chat(model, conversation, tools or offered(application))
        if tools is not None and writes_tools(model.chat_template):
            grammar = tagged(tools)
        elif tools is not None:
            output_schema = schema(tools)
        elif application.tools and output_schema is None:
            grammar = words()
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


def unservable(context: AnswerContext, error: UnsatisfiableSchemaError) -> AntiphonError:
    """The error where no text can meet a schema: of the release, which pins schema and length; else of the request."""
    release, name = context.assigned.release, context.application.name
    if release.number == 0:
        return error
    return UnservableReleaseError(
        f"The release of {name} cannot answer: {error.what}",
        where=f"application {name}",
        next_step=f"Roll the release of {name} back, or give its answers more tokens, or mend their schema, and apply.",
    )


def request_turns(context: AnswerContext) -> list[ChatTurn]:
    """The turns of an application's request, with the calls of its tools and their results."""
    application = context.application
    question = prompts.question_text(application, context.template_names)
    return [*prompts.turns(application, question, context.history), *context.exchanged]


def offered(application: ApplicationSpec) -> Tools | None:
    """The tools that an application offers its model, if it has any."""
    if not application.tools:
        return None
    tools = (Tool(one.name, one.description, json.loads(one.parameters)) for one in application.tools)
    return Tools(tuple(tools), chosen_before=True)


def choosing(context: AnswerContext, model: ModelDescription) -> GenerationSpec:
    """The generation in which a model chooses tools, with the prompt that the answer's begins with."""
    tools, conversation = offered(context.application), request_turns(context)
    assert tools is not None
    own_template = not model.chat_template
    native = not own_template and writes_tools(model.chat_template)
    return GenerationSpec(
        model=model.name,
        fingerprint=model.fingerprint,
        prompt="" if own_template else prompts.chat(model, conversation, tools),
        messages=tuple(conversation) if own_template else (),
        decoding=context.application.decoding,
        json_schema=None if own_template or native else json.dumps(schema(tools)),
        branches=False,
        cache_salt=context.request.scope.tenant,
        tools=canonical(tools.openai).decode() if own_template else None,
        grammar=tagged(tools) if native else None,
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
    spec: GenerationSpec,
    request: AnswerRequest,
    slo: SLO,
    attempt: int = 0,
    warmth: float = 0.0,
    *,
    continues: bool = False,
) -> GenerationRequest:
    """The engine's request for one attempt; a retry has another seed and is sampled at least at ``warmth``. The next
    turn of a conversation ``continues`` its prompt."""
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
        continues=continues,
        spare=request.spare,
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
