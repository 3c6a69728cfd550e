"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``, as vLLM's server has them beside ``/v1``.

Clients that count a prompt's tokens, such as lm-eval with ``tokenizer_backend=remote``, ask here instead of fetching a
tokenizer. They name no model where there is but one.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import new_id
from antiphon.engine.api.messages import ModelDescription, Tokenization, TokenizationRequest
from antiphon.engine.api.port import Engine
from antiphon.engine.execution.tokenization import MOST_TEXT_BYTES, require_size
from antiphon.gateway import incoming, limits
from antiphon.gateway.bounds import TokenId
from antiphon.gateway.services import GatewayServices

MOST_BODY_BYTES = 6 * MOST_TEXT_BYTES + 4_096
"""Largest body: the longest text, each byte of it in JSON's longest escape, and the names around it. Larger ones are
refused by their declared length."""
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
    services: GatewayServices = request.app.state.services
    asking = await incoming.principal(request, services)  # before the body is read
    body = incoming.typed(incoming.json_object(await _body(request, services)), TokenizeBody)
    if body.add_special_tokens:
        raise InvalidInputError(
            "No special tokens are added to a prompt.", where="add_special_tokens", next_step="Send false."
        )
    engine, model = await _model_of(request, services, body.model)
    question = TokenizationRequest(new_id("tok"), model.name, body.prompt, tenant=asking.tenant)
    read = await _read(request, services, engine, question)
    return _json(TokenizationResponse(len(read.tokens), model.context_tokens, read.tokens))


async def detokenize(request: Request) -> Response:
    """``POST /detokenize``."""
    services: GatewayServices = request.app.state.services
    asking = await incoming.principal(request, services)  # before the body is read
    body = incoming.typed(incoming.json_object(await _body(request, services)), DetokenizeBody)
    engine, model = await _model_of(request, services, body.model)
    question = TokenizationRequest(new_id("tok"), model.name, tokens=tuple(body.tokens), tenant=asking.tenant)
    read = await _read(request, services, engine, question)
    return _json(DetokenizationResponse(read.text))


async def tokenizer_info(request: Request) -> Response:
    """``GET /tokenizer_info``."""
    services: GatewayServices = request.app.state.services
    query = incoming.typed(incoming.query(request), TokenizerQuery, from_text=True)
    _, model = await _model_of(request, services, query.model)
    return _json(
        TokenizerInfo(
            model.name, model.bos or None, model.eos or None, model.chat_template or None, model.context_tokens
        )
    )


async def _body(request: Request, services: GatewayServices) -> bytes:
    if services.settings.gateway.max_body_bytes <= MOST_BODY_BYTES:
        return await incoming.body(request, services.settings.gateway.max_body_bytes)
    return await incoming.body(request, MOST_BODY_BYTES, "Send it in parts.")


async def _read(
    request: Request, services: GatewayServices, engine: Engine, question: TokenizationRequest
) -> Tokenization:
    """The engine's answer, counted as a request of the key.

    Raises:
        TooLargeError: the text or the list is too long. RateLimitError: the key's requests are used up.
    """
    require_size(question)
    await limits.count_request(services, await incoming.principal(request, services))
    return await engine.tokenize(question)


async def _model_of(request: Request, services: GatewayServices, named: str | None) -> tuple[Engine, ModelDescription]:
    """The plain model that is asked about, which the principal may ask.

    Raises:
        InvalidInputError: none is named and there are several.
        NotFoundError: there is no such plain model.
        ForbiddenError: policy says no.
    """
    principal = await incoming.principal(request, services)
    engine = services.generation.engine
    plain = services.generation.models(services.scope(principal))
    served = {
        model.name: model for model in (await services.generation.engine.describe()).models if model.name in plain
    }
    if named is None and len(served) != 1:
        raise InvalidInputError(
            "No model is named.", where="model", next_step=f"Name one of {', '.join(sorted(served)) or 'none'}."
        )
    name = named if named is not None else next(iter(served))
    if name not in served:
        raise NotFoundError(f"There is no plain model {name!r}.", where="model", next_step="GET /v1/models lists them.")
    await run_in_threadpool(services.access.authorize, principal, "answer", f"application/{name}")
    return engine, served[name]


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
