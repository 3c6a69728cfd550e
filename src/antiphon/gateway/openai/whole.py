"""A whole answer in OpenAI's shape, the same for one that is asked online and for a line of a batch."""

from __future__ import annotations

from antiphon.gateway.openai import shapes
from antiphon.gateway.openai.parameters import ChatParameters, CompletionParameters
from antiphon.serving.request import Answer


def chat_completion(created: int, read: ChatParameters, answer: Answer) -> shapes.ChatCompletion:
    """Answer of ``/v1/chat/completions``; ``created`` is in seconds since 1970."""
    return shapes.ChatCompletion(
        id=answer.prediction,
        created=created,
        model=read.model,
        choices=(
            shapes.ChatChoice(
                shapes.AssistantMessage(answer.text),
                answer.finish_reason,
                shapes.chat_logprobs(answer.tokens) if read.logprobs else None,
            ),
        ),
        usage=shapes.usage(answer),
        system_fingerprint=shapes.fingerprint(answer),
        antiphon=shapes.provenance(answer),
        service_tier=shapes.tier(read.service_tier),
    )


def completion(created: int, read: CompletionParameters, answer: Answer) -> shapes.Completion:
    """Answer of ``/v1/completions``; ``created`` is in seconds since 1970."""
    logprobs = shapes.completion_logprobs(answer.tokens) if read.logprobs is not None else None
    return shapes.Completion(
        id=answer.prediction,
        created=created,
        model=read.model,
        choices=(shapes.CompletionChoice(answer.text, answer.finish_reason, logprobs),),
        usage=shapes.usage(answer),
        system_fingerprint=shapes.fingerprint(answer),
        antiphon=shapes.provenance(answer),
        service_tier=shapes.tier(read.service_tier),
    )
