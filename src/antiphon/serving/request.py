"""Request and answer, the same for both paths."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from antiphon.catalog.serving.receipt import (
    Path,
    Receipt,
    Role,
    UsageReceipt,
)
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ChatTurn, Penalties, TokenOut
from antiphon.governance.identity.principal import Principal
from antiphon.serving.answering.tools import Tools
from antiphon.serving.history import History

Tier = Literal["default", "priority", "flex"]
"""Of online requests: ``priority`` goes ahead of ``default``; ``flex`` is done in the gaps, like batch work."""

Message = ChatTurn
"""One turn of a conversation."""


class DecodingOverrides(msgspec.Struct, frozen=True):
    """Decoding parameters of a request to a plain model. An application's decoding is pinned by its release.

    Attributes:
        prompt_logprobs: report the prompt's own tokens, each with so many alternatives.
        choices: how many answers the request as a whole asks for; this one is one of them, with a seed of its own.
        penalties: ``None`` for none.
        engine: JSON object of request fields beyond OpenAI's, by vLLM's names, for an engine that knows them.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    json_schema: dict[str, Any] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    choices: int | None = None
    penalties: Penalties | None = None
    tools: Tools | None = None
    engine: str = ""


class MirroredAnswer(msgspec.Struct, frozen=True):
    """An online answer, as the shadow that answers the same request is compared with it.

    Attributes:
        prediction: the online answer's; ``text_blob`` the hash of its text.
        probabilities: those that it gives to the labels of the application's outcome that are scored.
        seconds: how long it took.
    """

    rollout: str
    prediction: str
    text_blob: str
    probabilities: dict[str, float]
    seconds: float


class PresetCall(msgspec.Struct, frozen=True):
    """A call of a tool that counts as made, with its result: evaluations put a text where tools' results stand."""

    tool: str
    result: str


class AnswerRequest(msgspec.Struct, frozen=True):
    """One question to an application or to a plain model.

    Attributes:
        application: an application's name, or a plain model's.
        entity: key columns, for an application.
        inputs: what its on-demand features are made from, as it came; checked against the declared types.
        question: the user's own words, if any; part of what a stored answer is found by.
        messages: a conversation, for a plain model.
        as_of: event time of the question; ``None`` is now. It drives features and freshness only.
        release: a release to answer with instead of the live one.
        refresh: make the stored answer anew (a precomputing job) unless its figures still print alike.
        prompt: raw text instead of messages (plain models only, no chat template).
        prompt_ids: the same as tokens.
        role: ``evaluation`` and ``shadow`` neither read nor leave stored answers; both must name a ``release``.
        only: answer no further than these properties of the output, which is then no whole answer.
        tier: ``flex`` of an online request may wait; ``priority`` goes ahead of others of its path.
        timeout: seconds after which the caller gives up; the gateway's limit holds as well.
        mirrors: the online answer that this request, a shadow, is compared with.
        hints: what its caller says about it and that changes no answer, such as ``metadata``; in the receipt.
        turn: the request in its API's own form, in the receipt too: a conversation goes on from it.
        prediction: the id of the receipt, for a caller who is told it before there is one; ``None``: a new one.
        conversation: id of the conversation that it goes on with; ``previous``: a prediction that it goes on from.
        kept: its turn is kept, so that its conversation can be gone on with.
        history: the earlier turns, of a shadow: as the request that it mirrors found them.
        names: its API's names of parameters that are called otherwise here, for errors that name one.
        preset: of the role ``evaluation``, a tool's result that the model finds before it chooses any call.
        spare: work that nobody needs by itself: no stopped engine is started for it.
    """

    scope: Scope
    principal: Principal
    application: str
    entity: dict[str, str] = {}
    inputs: dict[str, Any] = {}
    question: str | None = None
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    prompt_ids: tuple[int, ...] = ()
    as_of: datetime | None = None
    path: Path = "online"
    release: str | None = None
    minimum_publication: int | None = None
    originating_user: str | None = None
    exposure_unit: str | None = None
    traceparent: str | None = None
    refresh: bool = False
    request_id: str | None = None
    overrides: DecodingOverrides = DecodingOverrides()
    role: Role = "live"
    only: tuple[str, ...] = ()
    mirrors: MirroredAnswer | None = None
    tier: Tier = "default"
    timeout: float | None = None
    hints: dict[str, Any] = {}
    turn: bytes = b""
    prediction: str | None = None
    conversation: str | None = None
    previous: str | None = None
    kept: bool = True
    history: History | None = None
    names: dict[str, str] = {}
    preset: PresetCall | None = None
    spare: bool = False


class TextDelta(msgspec.Struct, frozen=True):
    """Text that may be shown now; ``prompt`` are the prompt's own tokens, once, where they were asked for."""

    text: str
    tokens: tuple[TokenOut, ...] = ()
    prompt: tuple[TokenOut, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """The whole answer; it exists only once its receipt is committed."""

    prediction: str
    request: str
    text: str
    finish_reason: str
    usage: UsageReceipt
    receipt: Receipt
    publication: int | None
    tokens: tuple[TokenOut, ...] = ()
    prompt: tuple[TokenOut, ...] = ()
