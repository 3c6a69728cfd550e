"""A whole answer in OpenAI's shape, the same for one that is asked online and for a line of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antiphon.engine.api import tool_text
from antiphon.gateway.openai import shapes
from antiphon.gateway.openai.parameters import ChatParameters, Common, CompletionParameters
from antiphon.gateway.openai.tools import called
from antiphon.serving.request import Answer


def chat_completion(created: int, read: ChatParameters, answers: Sequence[Answer]) -> shapes.ChatCompletion:
    """Answer of ``/v1/chat/completions``; ``created`` is in seconds since 1970."""
    return shapes.ChatCompletion(
        created=created,
        model=read.model,
        choices=tuple(
            shapes.ChatChoice(
                *_turn(read, answer),
                shapes.chat_logprobs(answer.tokens) if read.logprobs else None,
                index,
                **_each(answer, answers),
            )
            for index, answer in enumerate(answers)
        ),
        **_common(read, answers),
    )


def completion(created: int, read: CompletionParameters, answers: Sequence[Answer]) -> shapes.Completion:
    """Answer of ``/v1/completions``; ``created`` is in seconds since 1970."""
    return shapes.Completion(
        created=created,
        model=read.model,
        choices=tuple(
            shapes.CompletionChoice(
                f"{echoed(read, index, answer)}{answer.text}",
                answer.finish_reason,
                shapes.completion_logprobs(answer.tokens, answer.prompt) if read.logprobs is not None else None,
                index,
                **_each(answer, answers),
            )
            for index, answer in enumerate(answers)
        ),
        **_common(read, answers),
    )


def echoed(read: CompletionParameters, index: int, answer: Answer) -> str:
    """The prompt of a choice as ``echo`` gives it back: as it came, or the texts of its tokens."""
    if not read.echo:
        return ""
    prompt = read.prompts[index // (read.n or 1)]
    return prompt if isinstance(prompt, str) else "".join(token.text for token in answer.prompt)


def finish_reason(answer: Answer, calls: int) -> str:
    """Returns the reason a turn ended; one that called did so for its calls."""
    return "tool_calls" if calls and answer.finish_reason == "stop" else answer.finish_reason


def _turn(read: ChatParameters, answer: Answer) -> tuple[shapes.AssistantMessage, str]:
    if not read.calls:
        return shapes.AssistantMessage(answer.text), answer.finish_reason
    content, calls = tool_text.read(answer.text)
    message = shapes.AssistantMessage(content)
    if calls:
        message = shapes.AssistantMessage(content, tool_calls=tuple(called(call) for call in calls))
    return message, finish_reason(answer, len(calls))


def _each(answer: Answer, answers: Sequence[Answer]) -> dict[str, Any]:
    return {"antiphon": shapes.provenance(answer)} if len(answers) > 1 else {}


def _common(read: Common, answers: Sequence[Answer]) -> dict[str, Any]:
    first = answers[0]
    return {
        "id": first.prediction,
        "usage": shapes.usage(answers, read.n or 1),
        "system_fingerprint": shapes.fingerprint(first),
        "antiphon": shapes.provenance(first),
        "service_tier": shapes.tier(read.service_tier),
    }
