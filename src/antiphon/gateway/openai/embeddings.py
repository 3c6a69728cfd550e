"""``POST /v1/embeddings``: vectors of texts, in OpenAI's shape."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from math import ceil
from typing import Annotated, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.gateway import limits
from antiphon.gateway.http.bounds import Count
from antiphon.gateway.http.responses import JsonResponse
from antiphon.gateway.openai.asking import GenerationCall
from antiphon.governance.identity.principal import Principal
from antiphon.serving.embedding import Embedding, EmbeddingRequest


class EmbeddingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/embeddings``.

    ``input`` is a text or a list of texts; lists of token ids are refused. ``service_tier`` ``flex`` embeds in time
    that online work leaves.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    service_tier: Literal["auto", "default", "flex"] = "auto"
    user: str | None = None

    def texts(self) -> tuple[str, ...]:
        """Raises ``InvalidInputError`` for token ids."""
        if isinstance(self.input, str):
            return (self.input,)
        texts = tuple(text for text in self.input if isinstance(text, str))
        if len(texts) != len(self.input):
            raise InvalidInputError(
                "Token ids are not taken: a client makes them of another model's vocabulary.",
                where="input",
                next_step="Send texts (LangChain: check_embedding_ctx_length=False).",
            )
        return texts


class EmbeddingObject(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of one text: numbers, or base64 of float32 in little-endian order."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Tokens of all the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingProvenance(msgspec.Struct, frozen=True):
    """The receipt, what made the vectors, and what they took."""

    prediction: str
    release: str
    fingerprint: str
    usage: UsageReceipt


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``POST /v1/embeddings``."""

    object: Literal["list"] = "list"
    data: tuple[EmbeddingObject, ...]
    model: str
    usage: EmbeddingUsage
    antiphon: EmbeddingProvenance


def embedding_request(
    read: EmbeddingParameters, scope: Scope, principal: Principal, request: str, user: str | None = None
) -> EmbeddingRequest:
    """Translates the body into a request for vectors.

    Raises:
        InvalidInputError: token ids instead of texts.
    """
    return EmbeddingRequest(
        scope=scope,
        principal=principal,
        model=read.model,
        texts=read.texts(),
        dimensions=read.dimensions,
        priority="batch" if read.service_tier == "flex" else "online",
        originating_user=user,
        request_id=request,
    )


def embedding_list(created: int, read: EmbeddingParameters, embedding: Embedding) -> EmbeddingList:
    """The answer in OpenAI's shape, which has no ``created``."""
    spent, receipt = embedding.usage, embedding.receipt
    vectors: Iterable[list[float] | str] = (
        _encoded(embedding) if read.encoding_format == "base64" else _numbers(embedding)
    )
    return EmbeddingList(
        data=tuple(EmbeddingObject(index=place, embedding=vector) for place, vector in enumerate(vectors)),
        model=read.model,
        usage=EmbeddingUsage(spent.prompt_tokens, spent.prompt_tokens),
        antiphon=EmbeddingProvenance(embedding.prediction, receipt.release, receipt.attempts[0].fingerprint, spent),
    )


async def embeddings(request: Request) -> Response:
    """``POST /v1/embeddings``."""
    call = GenerationCall(request)
    read, question = await call.read(EmbeddingParameters, embedding_request)
    tokens = ceil(sum(len(text.encode()) / limits.BYTES_PER_TOKEN + 1 for text in question.texts))
    if (refusal := await call.let_in(limits.reserve_tokens(call.services, call.principal, tokens))) is not None:
        return refusal
    traced = msgspec.structs.replace(question, traceparent=call.trace)
    embedding = await call.waited_for(call.services.generation.embeddings.embed(traced))
    if isinstance(embedding, Response):
        return embedding
    call.answered(embedding)
    provenance = {"x-antiphon-prediction": embedding.prediction, "x-antiphon-release": embedding.receipt.release}
    response = JsonResponse(embedding_list(call.created, read, embedding), headers=call.headers | provenance)
    call.first_byte()
    call.ended(None)
    return response


def _numbers(embedding: Embedding) -> list[list[float]]:
    import numpy

    rows: list[list[float]] = numpy.frombuffer(embedding.vectors, "<f4").reshape(-1, embedding.dimensions).tolist()
    return rows


def _encoded(embedding: Embedding) -> list[str]:
    size = 4 * embedding.dimensions
    starts = range(0, len(embedding.vectors), size)
    return [base64.b64encode(embedding.vectors[start : start + size]).decode() for start in starts]
