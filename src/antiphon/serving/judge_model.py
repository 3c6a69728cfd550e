"""Asks a judge model about a text: a rubric, and an answer that a schema holds to a few words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.core.telemetry import traceparent
from antiphon.definitions.degradation import Target
from antiphon.engine.api.messages import ChatTurn, GenerationRequest, GenerationResult, GenerationUsage
from antiphon.serving.answering import prompts
from antiphon.serving.answering.guards.outputs import parsed
from antiphon.serving.fallback.engines import Engines


@dataclass(frozen=True)
class JudgeQuestion:
    """A question to a judge.

    Attributes:
        system: what it is to do, and the form of its answer.
        schema: that its answer meets.
        text: that is judged; nothing in it is an instruction.
        scope: whose work it counts as, at ``priority``.
        seed: of a sampled answer; ``None`` is a greedy one.
    """

    system: str
    rubric: str
    schema: Mapping[str, Any]
    text: str
    scope: Scope
    priority: Literal["online", "batch"]
    seed: int | None = None


class JudgeAnswer(msgspec.Struct, frozen=True):
    """A judge's answer: decoded, ``None`` where it is no JSON; and what it cost, where the engine came to its end."""

    said: object
    usage: GenerationUsage | None


async def ask_judge(engines: Engines, target: Target, question: JudgeQuestion) -> JudgeAnswer:
    """The judge's answer.

    Raises:
        EnginePassedOver: the engine is away or does not serve the model. AntiphonError: it failed.
    """
    engine, model = await engines.described(target)
    turns = [
        ChatTurn("system", question.system),
        ChatTurn("user", f"Rubric: {question.rubric}\n\nText:\n{question.text}"),
    ]
    own_template = not model.chat_template
    request = GenerationRequest(
        id=new_id("judge"),
        model=model.name,
        prompt="" if own_template else prompts.chat(model, turns),
        messages=tuple(turns) if own_template else (),
        max_tokens=16,
        temperature=0.0 if question.seed is None else 1.0,
        seed=question.seed or 0,
        json_schema=json.dumps(question.schema),
        priority=question.priority,
        traceparent=traceparent(),
        cache_salt=question.scope.tenant,
    )
    said, usage = "", None
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, GenerationResult):
                said, usage = event.text, event.usage
    return JudgeAnswer(parsed(said), usage)
