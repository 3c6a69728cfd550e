"""What ``/v1`` answers: OpenAI's shapes, with an ``antiphon`` object that says what the answer was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from antiphon.catalog.receipts import GuardReceipt, UsageReceipt
from antiphon.engine.messages import Alternative, TokenOut
from antiphon.serving.request import Answer, Tier


class Provenance(msgspec.Struct, frozen=True):
    """The ``antiphon`` object: where to find the receipt, and the parts of it a caller acts upon.

    ``role`` is the capacity in which the release answered: ``live``, or ``canary`` or ``control`` of a ``rollout``.
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


class PromptDetails(msgspec.Struct, frozen=True):
    """Tokens whose work was shared with an earlier prompt."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
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
    """The answer's turn."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """The one choice."""

    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None
    index: int = 0


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``POST /v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage
    system_fingerprint: str | None
    antiphon: Provenance
    service_tier: Tier | msgspec.UnsetType = msgspec.UNSET


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """The one choice of a chunk."""

    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None
    index: int = 0


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed chat completion; the last before ``[DONE]`` carries ``antiphon``."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    system_fingerprint: str | msgspec.UnsetType | None = msgspec.UNSET
    antiphon: Provenance | msgspec.UnsetType = msgspec.UNSET
    service_tier: Tier | msgspec.UnsetType = msgspec.UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """The older endpoint's parallel lists."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class CompletionChoice(msgspec.Struct, frozen=True):
    """The one choice."""

    text: str
    finish_reason: str | None
    logprobs: CompletionLogprobs | None = None
    index: int = 0


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer, and streamed event, of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    system_fingerprint: str | msgspec.UnsetType | None = msgspec.UNSET
    antiphon: Provenance | msgspec.UnsetType = msgspec.UNSET
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


def provenance(answer: Answer) -> Provenance:
    receipt = answer.receipt
    return Provenance(
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
    )


def usage(answer: Answer) -> Usage:
    spent = answer.usage
    return Usage(
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        total_tokens=spent.prompt_tokens + spent.completion_tokens,
        prompt_tokens_details=PromptDetails(spent.cached_prompt_tokens),
    )


def tier(asked: str | None) -> Tier | msgspec.UnsetType:
    """The tier that answered, for who asked for one."""
    if asked is None:
        return msgspec.UNSET
    return "flex" if asked == "flex" else "priority" if asked == "priority" else "default"


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


def completion_logprobs(tokens: Sequence[TokenOut], start: int = 0) -> CompletionLogprobs:
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return CompletionLogprobs(
        tokens=tuple(token.text for token in tokens),
        token_logprobs=tuple(_logprob(token) for token in tokens),
        top_logprobs=tuple(
            {alternative.text: alternative.logprob for alternative in token.alternatives} for token in tokens
        ),
        text_offset=tuple(offsets),
    )


def _top(alternative: Alternative) -> TopLogprob:
    return TopLogprob(alternative.text, alternative.logprob, tuple(alternative.text.encode()))


def _logprob(token: TokenOut) -> float:
    # A forced token cost no step and has no measured probability: the schema left it none but one.
    return token.logprob if token.logprob is not None else 0.0
