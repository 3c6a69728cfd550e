"""Responses of ``/v1``: OpenAI's shapes, with an ``antiphon`` object that says what the answer was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from antiphon.catalog.serving.receipt import (
    Degradation,
    GuardReceipt,
    RetrievalReceipt,
    SkippedEngine,
    UsageReceipt,
)
from antiphon.engine.api.messages import Alternative, TokenOut
from antiphon.gateway.openai.tools import CalledDelta, OpenAIToolCall
from antiphon.serving.embedding import Embedding
from antiphon.serving.request import Answer, Tier


class ConversationProvenance(msgspec.Struct, frozen=True):
    """The conversation that an answer belongs to: ``id`` goes on with it (``null``: its turn was not kept), ``turn`` is
    its number in it, and ``previous`` the prediction before."""

    id: str | None
    turn: int
    previous: str | None


class AnswerProvenance(msgspec.Struct, frozen=True):
    """The ``antiphon`` object: where to find the receipt, and the parts of it a caller acts upon.

    ``role`` is the capacity in which the release answered: ``live``, or ``canary`` or ``control`` of a ``rollout``;
    ``fallback`` or ``degraded`` when something stood in for it. ``engine`` wrote it (``null``: it is from store) after
    those in ``fallback`` did not. ``retrievals`` are the chunks of documents in the prompt, by their ids; the first one
    has the number 1. ``start_seconds``: how long the answer waited for an engine that was stopped.
    """

    prediction: str
    release: str
    role: str
    rollout: str | None
    publication: int | None
    origin: str
    origin_prediction: str | None
    origin_path: str | None
    as_of: str
    classes: dict[str, dict[str, float]]
    guards: tuple[GuardReceipt, ...]
    usage: UsageReceipt
    engine: str | None = None
    fallback: tuple[SkippedEngine, ...] = ()
    degraded: Degradation | None = None
    retrievals: tuple[RetrievalReceipt, ...] = ()
    conversation: ConversationProvenance | None = None
    start_seconds: float = 0.0


class PromptDetails(msgspec.Struct, frozen=True):
    """Tokens whose work was shared with an earlier prompt."""

    cached_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True):
    """Tokens of this answer; zero when it was served from store."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(msgspec.Struct, frozen=True):
    """A candidate token."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A sampled token and the candidates beside it."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Per token of the content."""

    content: tuple[TokenLogprob, ...]
    refusal: None = None


class AssistantMessage(msgspec.Struct, frozen=True):
    """The answer's turn; ``content`` is null where it calls functions and says nothing beside."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: tuple[OpenAIToolCall, ...] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One choice; of several, each says what it was made from."""

    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None
    index: int = 0
    antiphon: AnswerProvenance | msgspec.UnsetType = msgspec.UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``POST /v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: CompletionUsage
    system_fingerprint: str | None
    antiphon: AnswerProvenance
    service_tier: Tier | msgspec.UnsetType = msgspec.UNSET


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The addition of a chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: tuple[CalledDelta, ...] | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """The addition of a chunk to one choice."""

    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None
    index: int = 0


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed chat completion.

    The last before ``[DONE]`` carries ``antiphon``; of several choices, the last chunk of each.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: CompletionUsage | msgspec.UnsetType | None = msgspec.UNSET
    system_fingerprint: str | msgspec.UnsetType | None = msgspec.UNSET
    antiphon: AnswerProvenance | msgspec.UnsetType = msgspec.UNSET
    service_tier: Tier | msgspec.UnsetType = msgspec.UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """The older endpoint's parallel lists; null stands where a prompt's first token has nothing before it.

    ``top_logprobs`` has the token itself too, so that there may be one more than was asked for.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...]
    text_offset: tuple[int, ...]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One choice; of several, each says what it was made from."""

    text: str
    finish_reason: str | None
    logprobs: CompletionLogprobs | None = None
    index: int = 0
    antiphon: AnswerProvenance | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer, and streamed event, of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: CompletionUsage | msgspec.UnsetType | None = msgspec.UNSET
    system_fingerprint: str | msgspec.UnsetType | None = msgspec.UNSET
    antiphon: AnswerProvenance | msgspec.UnsetType = msgspec.UNSET
    service_tier: Tier | msgspec.UnsetType = msgspec.UNSET


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A name that may be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "antiphon"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def provenance(answer: Answer) -> AnswerProvenance:
    receipt = answer.receipt
    return AnswerProvenance(
        prediction=answer.prediction,
        release=receipt.release,
        role=receipt.role,
        rollout=receipt.rollout,
        publication=answer.publication,
        origin=receipt.cache.origin,
        origin_prediction=receipt.cache.prediction,
        origin_path=receipt.cache.origin_path,
        as_of=receipt.as_of.isoformat(),
        classes=receipt.classes,
        guards=receipt.guards,
        usage=answer.usage,
        engine=receipt.engine,
        fallback=receipt.fallback,
        degraded=receipt.degraded,
        retrievals=receipt.retrievals,
        conversation=None
        if receipt.conversation is None
        else ConversationProvenance(receipt.conversation.id, receipt.conversation.turn, receipt.conversation.previous),
        start_seconds=round(receipt.timing.start, 3),
    )


def usage(answers: Sequence[Answer | Embedding], choices: int) -> CompletionUsage:
    """Tokens of all answers together; a prompt that so many of them share counts once, as the first of them met it."""
    prompts = [answer.usage for answer in answers[::choices]]
    prompt = sum(spent.prompt_tokens for spent in prompts)
    completion = sum(answer.usage.completion_tokens for answer in answers)
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(sum(spent.cached_prompt_tokens for spent in prompts)),
    )


def tier(requested: str | None) -> Tier | msgspec.UnsetType:
    """The tier that answered, for who asked for one."""
    if requested is None:
        return msgspec.UNSET
    return "flex" if requested == "flex" else "priority" if requested == "priority" else "default"


def fingerprint(answer: Answer) -> str | None:
    """The engine's fingerprint: the same text for the same request as long as it is the same."""
    return answer.receipt.attempts[-1].fingerprint if answer.receipt.attempts else None


def chat_logprobs(tokens: Sequence[TokenOut]) -> ChatLogprobs:
    return ChatLogprobs(
        tuple(
            TokenLogprob(
                token.text,
                _logprob(token),
                tuple(token.text.encode()),
                tuple(_top(alternative) for alternative in token.alternatives),
            )
            for token in tokens
        )
    )


def completion_logprobs(
    tokens: Sequence[TokenOut], prompt: Sequence[TokenOut] = (), start: int = 0
) -> CompletionLogprobs:
    """Of the prompt's tokens, if any, and the completion's; the first of them begins at ``start`` of the text."""
    offsets = []
    for token in (*prompt, *tokens):
        offsets.append(start)
        start += len(token.text)
    first = prompt[:1]
    measured = (*prompt[1:], *tokens)
    return CompletionLogprobs(
        tokens=tuple(token.text for token in (*prompt, *tokens)),
        token_logprobs=(*(None for _ in first), *(_logprob(token) for token in measured)),
        top_logprobs=(*(None for _ in first), *(_candidates(token) for token in measured)),
        text_offset=tuple(offsets),
    )


def _candidates(token: TokenOut) -> dict[str, float]:
    candidates: dict[str, float] = {}
    for alternative in token.alternatives:  # the most probable first; parts of characters may look alike
        candidates.setdefault(alternative.text, alternative.logprob)
    if token.logprob is not None:
        candidates[token.text] = max(token.logprob, candidates.get(token.text, token.logprob))
    return candidates


def _top(alternative: Alternative) -> TopLogprob:
    return TopLogprob(alternative.text, alternative.logprob, tuple(alternative.text.encode()))


def _logprob(token: TokenOut) -> float:
    # A forced token cost no step and has no measured probability: the schema left it none but one.
    return token.logprob if token.logprob is not None else 0.0
