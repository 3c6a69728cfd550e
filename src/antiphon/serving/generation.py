"""From a prompt to a text that passed its guards: generate, guard, retry, template.

The steps after the engine are pure, so that a replay can take them again from the recorded texts.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.catalog.receipts import GuardReceipt, Path, UsageReceipt
from antiphon.core.errors import OutputInvalid
from antiphon.core.ids import new_id
from antiphon.definitions.application import ApplicationSpec, Decoding, FigureGuard
from antiphon.engine.messages import Branch, Delta, Finished, Generate, ModelDescription, TokenOut
from antiphon.serving import guards, prompts
from antiphon.serving.ports import Engine


class Asked(msgspec.Struct, frozen=True):
    """Everything that decides a text: the same value gives the same text inside one fingerprint."""

    model: str
    fingerprint: str
    prompt: str
    messages: tuple[tuple[str, str], ...]
    decoding: Decoding
    json_schema: str | None
    branches: bool
    logprobs: int | None = None


class Generated(msgspec.Struct, frozen=True):
    """One attempt: what was sent and what came back."""

    sent: Generate
    finished: Finished
    tokens: tuple[TokenOut, ...]


class Guarded(msgspec.Struct, frozen=True):
    """The text to serve and what the guards did on the way."""

    text: str
    actions: tuple[GuardReceipt, ...]


class Written(msgspec.Struct, frozen=True):
    """The outcome of all attempts together."""

    text: str
    finish_reason: str
    attempts: tuple[Generated, ...]
    actions: tuple[GuardReceipt, ...]

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Of the first attempt: a retry is sampled, so its branch says less about the model."""
        return self.attempts[0].finished.branches

    @property
    def usage(self) -> UsageReceipt:
        """Tokens and engine seconds of every attempt."""
        usages = [attempt.finished.usage for attempt in self.attempts]
        return UsageReceipt(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            forced_tokens=sum(usage.forced_tokens for usage in usages),
            engine_seconds=sum(usage.engine_seconds for usage in usages),
            attempts=len(usages),
        )


def ask(
    model: ModelDescription,
    conversation: list[tuple[str, str]],
    decoding: Decoding,
    json_schema: Mapping[str, Any] | None,
    *,
    raw_prompt: str | None = None,
    classes: bool = False,
    logprobs: int | None = None,
) -> Asked:
    """Render the conversation for a model: as text, or as turns when the engine has its own template."""
    own_template = not model.chat_template and raw_prompt is None
    return Asked(
        model=model.name,
        fingerprint=model.fingerprint,
        prompt=raw_prompt if raw_prompt is not None else ("" if own_template else prompts.chat(model, conversation)),
        messages=tuple(conversation) if own_template else (),
        decoding=decoding,
        json_schema=json.dumps(json_schema) if json_schema is not None else None,
        branches=classes,
        logprobs=logprobs,
    )


def to_engine(asked: Asked, path: Path, attempt: int, warmth: float, traceparent: str | None) -> Generate:
    """The engine's request for one attempt; a retry has another seed and is sampled at least at ``warmth``."""
    decoding = asked.decoding
    return Generate(
        id=new_id("gen"),
        model=asked.model,
        prompt=asked.prompt,
        messages=asked.messages,
        max_tokens=decoding.max_tokens,
        temperature=max(decoding.temperature, warmth) if attempt else decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed + attempt,
        stop=decoding.stop,
        json_schema=asked.json_schema,
        logprobs=asked.logprobs,
        branches=asked.branches and attempt == 0,
        priority=path,
        traceparent=traceparent,
    )


async def stream(engine: Engine, request: Generate) -> AsyncGenerator[Delta | Generated, None]:
    """One generation: its deltas, then the whole of it."""
    tokens: list[TokenOut] = []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                tokens.extend(event.tokens)
                yield event
            else:
                yield Generated(sent=request, finished=event, tokens=tuple(tokens))


async def write(
    engine: Engine, asked: Asked, application: ApplicationSpec, names: Mapping[str, Any],
    prints: Mapping[str, str | None], path: Path, traceparent: str | None,
) -> Written:  # fmt: skip
    """Generate until the guards pass, or take the fallback when the retries are used up.

    Raises:
        OutputInvalid: the text does not meet the schema (it was cut off) and there is no fallback.
    """
    guard = application.guards[0] if application.guards else None
    attempts: list[Generated] = []
    actions: list[GuardReceipt] = []
    for number in range(1 + (guard.retries if guard else 0)):
        request = to_engine(asked, path, number, guard.retry_temperature if guard else 0.0, traceparent)
        async for event in stream(engine, request):
            if isinstance(event, Generated):
                attempts.append(event)
        generated = attempts[-1].finished
        verdict = check(generated.text, generated.reason, application, prints, names)
        if verdict is None:
            if guard:
                actions.append(GuardReceipt(guard=f"figures:{guard.property}", action="pass"))
            return Written(generated.text, generated.reason, tuple(attempts), tuple(actions))
        if guard is None:
            raise OutputInvalid(
                f"The model's text does not meet the output schema: {verdict}.",
                where=f"application {application.name}",
                next_step="Raise decoding.max_tokens or shorten what the schema asks for.",
            )
        last = number == guard.retries
        actions.append(
            GuardReceipt(guard=f"figures:{guard.property}", action="template" if last else "retry", reason=verdict)
        )
    assert guard is not None
    text = fall_back([attempt.finished.text for attempt in attempts], guard, application, names)
    return Written(text, "stop", tuple(attempts), tuple(actions))


def check(
    text: str,
    reason: str,
    application: ApplicationSpec,
    prints: Mapping[str, str | None],
    names: Mapping[str, Any],
) -> str | None:
    """Why this text may not be served, or ``None``."""
    if application.output_schema is None and not application.guards:
        return None
    output: Any = None
    if application.output_schema is not None:
        output = _parsed(text)
        if output is None:
            return "it was cut off" if reason == "length" else "it is not JSON"
    for guard in application.guards:
        stated = output.get(guard.property) if isinstance(output, dict) else text
        if not isinstance(stated, str):
            return f"it has no {guard.property}"
        found = guards.violations(stated, application.figures, prints, names["entity"].values())
        if found:
            return "; ".join(found[:3])
    return None


def fall_back(texts: list[str], guard: FigureGuard, application: ApplicationSpec, names: Mapping[str, Any]) -> str:
    """The fallback in place of the guarded property; the other properties are the first attempt's that parses.

    Raises:
        OutputInvalid: no attempt gave JSON to stand beside the fallback.
    """
    outputs = [output for output in map(_parsed, texts) if isinstance(output, dict)]
    if application.output_schema is None:
        return prompts.render(guard.fallback, {**names, "output": {}}, f"guard {guard.property}, fallback")
    if not outputs:
        raise OutputInvalid(
            "No attempt was valid JSON.",
            where=f"application {application.name}",
            next_step="Raise decoding.max_tokens or shorten what the schema asks for.",
        )
    output = outputs[0]
    text = prompts.render(guard.fallback, {**names, "output": output}, f"guard {guard.property}, fallback")
    return json.dumps({**output, guard.property: text.strip()}, ensure_ascii=False)


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
