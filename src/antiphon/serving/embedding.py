"""Vectors of texts by an embedding model's name: decide → embed → receipt, on both paths.

Invariant: an :class:`Embedding` leaves this module only after its receipt is committed, with the texts that it was made
of. The vectors are not kept: a vector is a function of model and text, so the receipt holds their hash, and a replay
makes them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import msgspec

from antiphon.catalog.serving.receipt import (
    Attempt,
    CacheReceipt,
    Path,
    PolicyReceipt,
    Receipt,
    Timing,
    UsageReceipt,
)
from antiphon.core.errors import AntiphonError, DeadlineExceededError, NotFoundError
from antiphon.core.ids import canonical, content_hash, new_id
from antiphon.core.scope import Scope
from antiphon.core.telemetry import GENAI, span, trace_id, traceparent
from antiphon.engine.api.messages import TextEmbeddingRequest, TextEmbeddings
from antiphon.engine.api.port import GenerationEngine
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Decision, Resource
from antiphon.serving.answering.context import Arrival, arrive
from antiphon.serving.answering.policy import policy_context, require_allowed
from antiphon.serving.answering.recorder import committed
from antiphon.serving.builtin import BUILTIN, PLAIN_PURPOSE
from antiphon.serving.features.reading import NO_FEATURES
from antiphon.serving.ports import SpendingReservation
from antiphon.serving.request import AnswerRequest
from antiphon.serving.services import Services

EMBEDDING = "embedding"
"""Finish reason of an attempt that made vectors."""

_DESCRIBE_SECONDS = 5.0


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """Texts to be embedded.

    Attributes:
        dimensions: of the vectors; ``None`` for the model's own.
        priority: ``batch`` embeds in time that online work leaves, whatever path the request came on.
    """

    scope: Scope
    principal: Principal
    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    path: Path = "online"
    priority: Path = "online"
    originating_user: str | None = None
    traceparent: str | None = None
    request_id: str | None = None


class Embedding(msgspec.Struct, frozen=True):
    """Vectors, float32 and little-endian, one row of ``dimensions`` numbers a text; each of length 1."""

    prediction: str
    request: str
    vectors: bytes
    dimensions: int
    usage: UsageReceipt
    receipt: Receipt


class Embeddings:
    """Embeds with the services that answers are made with; ``models`` are those that may be sent for in a scope."""

    def __init__(
        self, services: Services, engine: GenerationEngine, models: Callable[[Scope], Collection[str]]
    ) -> None:
        self._services = services
        self._engine = engine
        self._models = models

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """The vectors of all the texts.

        Raises:
            NotFoundError, ForbiddenError, InvalidInputError, PromptTooLongError, EngineError, DeadlineExceededError,
            UnavailableError, OverloadedError.
        """
        arrived = time.perf_counter()
        with span("embed", {GENAI["model"]: request.model, "antiphon.path": request.path},
                  traceparent=request.traceparent):  # fmt: skip
            async with self._services.admission.enter(request.priority):
                question = AnswerRequest(
                    scope=request.scope,
                    principal=request.principal,
                    application=request.model,
                    path=request.path,
                    originating_user=request.originating_user,
                    request_id=request.request_id,
                )
                arrival = arrive(question, self._services.subject_key, arrived)
                if request.model not in self._models(request.scope):
                    raise NotFoundError(
                        f"There is no embedding model {request.model!r}.",
                        where="model",
                        next_step="`embedding_models` under [engine] in antiphon.toml names those that are served.",
                    )
                resource, now = Resource("application", request.model), self._services.clock.now()
                context = policy_context(request.scope, PLAIN_PURPOSE, request.path, request.originating_user, {}, now)
                decision: Decision = self._services.decide(request.principal, "answer", resource, context)
                require_allowed(decision, request.principal, request.model)
                reservation = self._services.spending(question)
                try:
                    embedded = await self._embedded(request, arrival, reservation)
                    return await self._committed(request, arrival, decision, embedded, reservation)
                finally:
                    if reservation is not None:
                        reservation.end()

    async def _embedded(
        self, request: EmbeddingRequest, arrival: Arrival, reservation: SpendingReservation | None
    ) -> TextEmbeddings:
        limit = self._services.online_seconds
        sent = TextEmbeddingRequest(
            new_id("emb"),
            request.model,
            request.texts,
            request.dimensions,
            request.priority,
            traceparent(),
            request.scope.tenant,
        )
        if reservation is not None:
            await reservation.reserve(sent, await self._gpus())
        try:
            async with asyncio.timeout(None if limit is None or request.path == "batch" else limit - arrival.seconds):
                return await self._engine.embed(sent)
        except TimeoutError:
            raise DeadlineExceededError(
                "The texts were not embedded in time.",
                where="engine",
                next_step="Try again when it is less busy, send fewer texts, or raise [gateway] request_timeout.",
            ) from None

    async def _gpus(self) -> int | None:
        """GPUs of the engine; ``None`` while it does not say."""
        with suppress(AntiphonError, TimeoutError):
            async with asyncio.timeout(_DESCRIBE_SECONDS):
                return (await self._engine.describe()).load.gpus
        return None

    async def _committed(
        self,
        request: EmbeddingRequest,
        arrival: Arrival,
        decision: Decision,
        embedded: TextEmbeddings,
        reservation: SpendingReservation | None,
    ) -> Embedding:
        services = self._services
        texts = [canonical({}), canonical(request.texts), vectors_text(embedded)]
        entity, prompt, made = (content_hash(text) for text in texts)
        seconds = embedded.engine_seconds
        usage = UsageReceipt(
            sum(embedded.tokens), engine_seconds=seconds, attempts=1, gpu_seconds=seconds * embedded.gpus
        )
        moment = services.clock.now()
        receipt = Receipt(
            prediction=new_id("pred"),
            request=arrival.request_id,
            trace=trace_id(),
            scope=request.scope,
            application=request.model,
            release=f"{BUILTIN}{content_hash([EMBEDDING, request.model, embedded.fingerprint])[:16]}",
            path=request.path,
            principal=request.principal.id,
            originating_user=request.originating_user,
            purpose=PLAIN_PURPOSE,
            subject=arrival.subject,
            entity_blob=entity,
            exposure_unit=arrival.exposure_unit,
            assignment_probability=1.0,
            policy=PolicyReceipt("allow", decision.digest, decision.policies),
            publication=None,
            as_of=moment,
            created_at=moment,
            features=(),
            feature_fingerprint=NO_FEATURES.fingerprint,
            question_blob=None,
            attempts=(
                Attempt(
                    prompt_blob=prompt,
                    text_blob=made,
                    seed=0,
                    temperature=0.0,
                    top_p=1.0,
                    max_tokens=0,
                    stop=(),
                    json_schema_blob=None,
                    model=request.model,
                    fingerprint=embedded.fingerprint,
                    token_ids=(),
                    finish_reason=EMBEDDING,
                ),
            ),
            text_blob=made,
            finish_reason=EMBEDDING,
            classes={},
            guards=(),
            cache=CacheReceipt("generated"),
            usage=usage,
            timing=Timing(
                queue=arrival.queued,
                first_byte=arrival.seconds,
                total=arrival.seconds,
                prefill=embedded.engine_seconds,
            ),
            audit_checkpoint=services.checkpoint(request.scope),
        )

        def effect(connection: Any) -> None:
            services.receipts.add(receipt, texts, within=connection)
            if reservation is not None:
                reservation.settle(receipt)

        with span("commit"):
            await committed(services.commit, effect, reservation)
        services.answered(receipt)
        return Embedding(receipt.prediction, receipt.request, embedded.vectors, embedded.dimensions, usage, receipt)


def vectors_text(embedded: TextEmbeddings) -> bytes:
    """The text of vectors in a receipt: their number, dimensions, and the hash of their bytes."""
    return canonical(
        {
            "vectors": len(embedded.vectors) // (4 * embedded.dimensions),
            "dimensions": embedded.dimensions,
            "sha256": content_hash(embedded.vectors),
        }
    )
