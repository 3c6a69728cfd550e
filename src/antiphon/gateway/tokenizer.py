"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``, as vLLM's server has them beside ``/v1``.

Clients that count a prompt's tokens, such as lm-eval with ``tokenizer_backend=remote``, ask here instead of fetching a
tokenizer. They name no model where there is but one.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import new_id
from antiphon.definitions.granted import model_owner
from antiphon.engine.api.messages import ModelDescription, Tokenization, TokenizationRequest
from antiphon.engine.execution.tokenization import MOST_TEXT_BYTES, require_size
from antiphon.gateway import limits
from antiphon.gateway.http import incoming
from antiphon.gateway.http.bounds import TokenId
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.services import GatewayServices

MOST_BODY_BYTES = 6 * MOST_TEXT_BYTES + 4_096
"""Largest body: the longest text, each byte of it in JSON's longest escape, and the names around it. Larger ones are
refused by their declared length."""
T = TypeVar("T")

_WHICH = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class TokenizeBody(msgspec.Struct, frozen=True):
    """Body of ``POST /tokenize``. Nothing is added to the prompt, so ``add_special_tokens`` may only be false."""

    prompt: str
    model: _WHICH | None = None
    add_special_tokens: bool = False


class TokenizationResponse(msgspec.Struct, frozen=True):
    """Answer of ``POST /tokenize``."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]


class DetokenizeBody(msgspec.Struct, frozen=True):
    """Body of ``POST /detokenize``."""

    tokens: list[TokenId]
    model: _WHICH | None = None


class DetokenizationResponse(msgspec.Struct, frozen=True):
    """Answer of ``POST /detokenize``."""

    prompt: str


class TokenizerQuery(msgspec.Struct, frozen=True):
    """Selects a model's tokenizer."""

    model: _WHICH | None = None


class TokenizerInfo(msgspec.Struct, frozen=True):
    """Answer of ``GET /tokenizer_info``."""

    model: str
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
    model_max_length: int


async def tokenize(request: Request) -> Response:
    """``POST /tokenize``."""
    body = await _body(request, TokenizeBody)
    if body.add_special_tokens:
        raise InvalidInputError(
            "No special tokens are added to a prompt.", where="add_special_tokens", next_step="Send false."
        )
    model = await _model_of(request, body.model)
    read = await _read(request, TokenizationRequest(new_id("tok"), model.name, body.prompt))
    return JsonResponse(TokenizationResponse(len(read.tokens), model.context_tokens, read.tokens))


async def detokenize(request: Request) -> Response:
    """``POST /detokenize``."""
    body = await _body(request, DetokenizeBody)
    model = await _model_of(request, body.model)
    read = await _read(request, TokenizationRequest(new_id("tok"), model.name, tokens=tuple(body.tokens)))
    return JsonResponse(DetokenizationResponse(read.text))


async def tokenizer_info(request: Request) -> Response:
    """``GET /tokenizer_info``."""
    query = incoming.typed(incoming.query(request), TokenizerQuery, from_text=True)
    model = await _model_of(request, query.model)
    return JsonResponse(
        TokenizerInfo(
            model.name, model.bos or None, model.eos or None, model.chat_template or None, model.context_tokens
        )
    )


async def _body(request: Request, shape: type[T]) -> T:
    services: GatewayServices = request.app.state.services
    await incoming.principal(request, services)  # before the body is read
    limit, next_step = services.settings.gateway.max_body_bytes, incoming.SEND_LESS
    if limit > MOST_BODY_BYTES:
        limit, next_step = MOST_BODY_BYTES, "Send it in parts."
    return incoming.typed(incoming.json_object(await incoming.body(request, limit, next_step)), shape)


async def _read(request: Request, question: TokenizationRequest) -> Tokenization:
    """The engine's answer, counted as a request of the key.

    Raises:
        TooLargeError: the text or the list is too long. RateLimitError: the key's requests are used up.
    """
    require_size(question)
    services: GatewayServices = request.app.state.services
    principal = await incoming.principal(request, services)
    await limits.count_request(services, principal)
    return await services.generation.engine.tokenize(msgspec.structs.replace(question, tenant=principal.tenant))


async def _model_of(request: Request, named: str | None) -> ModelDescription:
    """The plain model that is asked about, which the principal may ask.

    Raises:
        InvalidInputError: none is named and there are several.
        NotFoundError: there is no such plain model.
        ForbiddenError: policy says no.
    """
    services: GatewayServices = request.app.state.services
    principal = await incoming.principal(request, services)
    names = services.generation.models(services.scope(principal))
    # A trained model has its base model's vocabulary, which no owner needs to grant.
    plain = {name for name in names if model_owner(name) is None}
    described = await services.generation.engine.describe()
    served = {model.name: model for model in described.models if model.name in plain}
    if named is None and len(served) != 1:
        raise InvalidInputError(
            "No model is named.", where="model", next_step=f"Name one of {', '.join(sorted(served)) or 'none'}."
        )
    name = named if named is not None else next(iter(served))
    if name not in served:
        raise NotFoundError(f"There is no plain model {name!r}.", where="model", next_step="GET /v1/models lists them.")
    await run_in_threadpool(services.access.authorize, principal, "answer", f"application/{name}")
    return served[name]
