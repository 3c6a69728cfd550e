"""From an engine's texts to one that passed its guards: generate, guard, retry, then the guards' action.

Invariants:
- What is shown has passed every guard, whatever follows it (``guards/check.py``). The whole is judged at its end, by
  the same check that a text in one piece gets.
- What was shown stays. A free text that began to be shown is not generated again: the action follows. A structured
  output is, with the shown properties as its schema's only values, and counts when it begins with what was shown.
- The steps after the engine are pure, so that a replay can take them again from the recorded texts.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.catalog.serving.receipt import GuardReceipt
from antiphon.core.errors import GuardRefusedError, InvalidOutputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.guards import AnyGuard
from antiphon.engine.api.messages import Delta
from antiphon.serving.answering import prompts
from antiphon.serving.answering.context import AnswerContext, Generation
from antiphon.serving.answering.generation import (
    EngineCall,
    GenerationSpec,
    GuardedText,
    engine_request,
    generate,
)
from antiphon.serving.answering.guards.check import OutputCheck, StreamGate, Violation
from antiphon.serving.answering.guards.outputs import PropertyReader, parsed
from antiphon.serving.request import TextDelta

OUTPUT = "output"
"""Name of the output schema in receipts."""


class _Attempt(msgspec.Struct, frozen=True):
    """One attempt with everything that was found wrong with it."""

    generation: Generation
    violations: tuple[Violation, ...]

    @property
    def text(self) -> str:
        return self.generation.finished.text


async def generate_guarded(
    call: EngineCall,
    spec: GenerationSpec,
    context: AnswerContext,
    check: OutputCheck,
    deadline: float | None = None,
    *,
    streaming: bool = False,
) -> AsyncGenerator[TextDelta | GuardedText, None]:
    """Generate until the guards pass, or take their action when retries are used up.

    Yields:
        With ``streaming`` the beginning of the text, part by part; then the whole of it.

    Raises:
        DeadlineExceededError: the attempts together took too long.
        GuardRefusedError: a guard refuses the text.
        InvalidOutputError: the text does not meet the schema (it was cut off, say) and no fallback mends it.
    """
    application = context.application
    warmth = max((guard.retry_temperature for guard in application.guards), default=0.0)
    attempts: list[_Attempt] = []
    actions: list[GuardReceipt] = []
    shown, first_byte = "", None
    while True:
        number = len(attempts)
        request = engine_request(
            _continued(spec, shown), context.request, application.slo, number, warmth, continues=context.continues
        )
        holding = tuple(one for one in application.guards if one.outcome != "flag" or one.retries > number)
        gate = StreamGate(check, application, holding)
        text, generated = "", None
        async with aclosing(generate(call, request, deadline)) as events:
            async for event in events:
                if not isinstance(event, Delta):
                    generated = event
                elif streaming:
                    text += event.text
                    await gate.feed(event.text)
                    if gate.end > len(shown) and text.startswith(shown):
                        first_byte = first_byte or context.arrival.seconds
                        part, shown = text[len(shown) : gate.end], text[: gate.end]
                        yield TextDelta(part)
        assert generated is not None
        finished = generated.finished
        wrong = await check.violations(finished.text, finished.reason)
        if not finished.text.startswith(shown):
            wrong = (Violation(None, "it does not go on with what was shown"),)
        attempts.append(_Attempt(generated, wrong))
        pending = [one for one in wrong if _outcome(one) != "flag" or _retries(one, application) > number]
        may_retry = not shown or application.output_schema is not None
        if not pending:
            text, reason, acted = finished.text, finished.reason, _passed(wrong, application)
            break
        if may_retry and all(_retries(one, application) > number for one in pending):
            actions += [GuardReceipt(_label(one), "retry", one.reason) for one in pending]
            continue
        text, acted = await _acted(attempts, context, check, shown)
        reason = "stop"
        break
    yield GuardedText(
        text=text,
        finish_reason=reason,
        attempts=tuple(attempt.generation for attempt in attempts),
        actions=(*actions, *acted),
        resumed=bool(shown) and (len(attempts) > 1 or any(one.action == "template" for one in acted)),
        first_byte=first_byte,
    )


async def _acted(
    attempts: Sequence[_Attempt], context: AnswerContext, check: OutputCheck, shown: str
) -> tuple[str, list[GuardReceipt]]:
    """The templates' text beside the first attempt that nothing but they keep from being served; raises the refusal."""
    application = context.application
    for number, attempt in enumerate(attempts):
        if not attempt.text.startswith(shown) or any(_outcome(one) == "refuse" for one in attempt.violations):
            continue
        replaced = [one for one in attempt.violations if _outcome(one) == "template"]
        if not replaced:
            continue
        guards = [one.guard for one in replaced if one.guard is not None]
        text = fall_back(attempt.text, guards, application, context.template_names, len(shown))
        left = await check.violations(text, "stop")
        wrong = [one for one in left if one.guard not in guards and _outcome(one) != "flag"]
        if wrong:
            raise _refusal(application, wrong)
        done = [GuardReceipt(_label(one), "template", one.reason, number, len(shown)) for one in replaced]
        flags = [one for one in left if _outcome(one) == "flag"]
        return text, [*done, *(GuardReceipt(_label(one), "flag", one.reason) for one in flags)]
    last = next(attempt for attempt in reversed(attempts) if attempt.text.startswith(shown))
    raise _refusal(application, last.violations)


def fall_back(
    text: str, replaced: Sequence[AnyGuard], application: ApplicationSpec, names: Mapping[str, Any], shown: int = 0
) -> str:
    """The text with fallbacks in place of what may not be served. So many characters of it were shown and stay: the
    fallback of a free text follows them."""
    output = parsed(text) if application.output_schema is not None else {}
    names = {**names, "output": output}
    written = {
        guard.property: prompts.render(guard.fallback, names, f"guard {guard.property}, fallback").strip()
        for guard in replaced
    }
    if application.output_schema is None:
        return text[:shown] + " ".join(written.values())
    whole = {**output, **written}
    if not shown:
        return json.dumps(whole, ensure_ascii=False)
    stays = _properties(text[:shown])
    rest = {name: value for name, value in whole.items() if name not in stays}
    return f"{text[:shown]} {json.dumps(rest, ensure_ascii=False)[1:]}"


def replaced_guards(application: ApplicationSpec, actions: Sequence[GuardReceipt]) -> list[AnyGuard]:
    """The guards whose templates a receipt says were taken."""
    labels = {action.guard for action in actions if action.action == "template"}
    return [guard for guard in application.guards if guard.label in labels]


def _continued(spec: GenerationSpec, shown: str) -> GenerationSpec:
    """The generation of a text that begins with what was shown: its schema permits no other values of those."""
    if not shown or spec.json_schema is None:
        return spec
    schema: dict[str, Any] = json.loads(spec.json_schema)
    held = {name: {"enum": [value]} for name, value in _properties(shown).items()}
    properties = {**schema.get("properties", {}), **held}
    required = list(dict.fromkeys([*held, *schema.get("required", ())]))
    continued = json.dumps({**schema, "properties": properties, "required": required})
    return msgspec.structs.replace(spec, json_schema=continued)


def _properties(shown: str) -> dict[str, Any]:
    reader = PropertyReader()
    reader.feed(shown)
    return {one.name: one.value for one in reader.properties}


def _passed(flagged: Sequence[Violation], application: ApplicationSpec) -> list[GuardReceipt]:
    reasons = {one.guard.label: one.reason for one in flagged if one.guard is not None}
    return [
        GuardReceipt(guard.label, "flag", reasons[guard.label])
        if guard.label in reasons
        else GuardReceipt(guard.label, "pass")
        for guard in application.guards
    ]


def _outcome(violation: Violation) -> str:
    return "refuse" if violation.guard is None else violation.guard.outcome


def _retries(violation: Violation, application: ApplicationSpec) -> int:
    """Retries of its guard; what the schema refuses has as many as any guard."""
    if violation.guard is not None:
        return violation.guard.retries
    return max((guard.retries for guard in application.guards), default=0)


def _label(violation: Violation) -> str:
    return OUTPUT if violation.guard is None else violation.guard.label


def _refusal(application: ApplicationSpec, wrong: Sequence[Violation]) -> InvalidOutputError:
    where = f"application {application.name}"
    refusing = [one for one in wrong if one.guard is not None and _outcome(one) == "refuse"]
    if refusing and all(one.guard is not None for one in wrong if _outcome(one) == "refuse"):
        # Reasons may quote the text, of which nothing is to be shown.
        said = ", ".join(dict.fromkeys(map(_label, refusing)))
        return GuardRefusedError(
            f"A guard refuses the model's text: {said}.",
            where=where,
            next_step="Ask in other words; whoever declares the application may give the guard retries or a fallback.",
        )
    problem = "; ".join(one.reason for one in wrong if one.guard is None) or "; ".join(one.reason for one in wrong)
    return InvalidOutputError(
        f"The model's text does not meet the output schema: {problem}.",
        where=where,
        next_step="Raise decoding.max_tokens or shorten what the schema asks for.",
    )
