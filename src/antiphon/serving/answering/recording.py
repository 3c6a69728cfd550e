"""What is kept of an answer: its receipt, the texts that the receipt names, and the stored answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from antiphon.catalog.answers import StoredAnswer
from antiphon.catalog.receipts import (
    Attempt,
    CacheReceipt,
    GuardReceipt,
    PolicyReceipt,
    Receipt,
    Timing,
    UsageReceipt,
)
from antiphon.core.ids import canonical, content_hash, new_id
from antiphon.core.telemetry import trace_id
from antiphon.engine.api.messages import GenerationRequest
from antiphon.serving.answering.evidence import replaces
from antiphon.serving.answering.generation import Generated
from antiphon.serving.answering.prepared import Prepared
from antiphon.serving.features.printing import fingerprint


def receipt_of(
    prepared: Prepared, usage: UsageReceipt, cache: CacheReceipt, finish_reason: str,
    classes: dict[str, dict[str, float]], actions: tuple[GuardReceipt, ...], attempts: tuple[Generated, ...],
    first_byte: float, moment: datetime,
) -> Receipt:  # fmt: skip
    """The receipt of an answer, still without its texts; ``moment`` is the wall time."""
    request, application = prepared.request, prepared.application
    arrival, assigned = prepared.arrival, prepared.assigned
    total = arrival.seconds
    return Receipt(
        prediction=new_id("pred"),
        request=arrival.request_id,
        trace=trace_id(),
        scope=request.scope,
        application=application.name,
        release=assigned.release.id,
        path=request.path,
        principal=request.principal.id,
        originating_user=request.originating_user,
        purpose=application.purpose,
        subject=arrival.subject,
        entity_blob="",
        exposure_unit=arrival.exposure_unit,
        assignment_probability=assigned.probability,
        policy=PolicyReceipt("allow", prepared.decision.digest, prepared.decision.policies),
        publication=prepared.reading.publication,
        as_of=prepared.as_of,
        created_at=moment,
        features=prepared.reading.features,
        feature_fingerprint=fingerprint(prepared.reading.prints),
        question_blob=None,
        attempts=(),
        text_blob="",
        finish_reason=finish_reason,
        classes=classes,
        guards=actions,
        cache=cache,
        usage=usage,
        timing=Timing(
            queue=arrival.queued,
            first_byte=first_byte or total,
            total=total,
            prefill=sum(attempt.finished.usage.prefill_seconds for attempt in attempts),
            decode=sum(attempt.finished.usage.decode_seconds for attempt in attempts),
        ),
        role=assigned.role,
        rollout=assigned.rollout,
    )


def with_texts(
    receipt: Receipt, prepared: Prepared, content: bytes, attempts: tuple[Generated, ...]
) -> tuple[Receipt, list[bytes]]:
    """The whole receipt, and the texts that its ``*_blob`` fields name."""
    request = prepared.request
    kept: list[bytes] = []

    def text(content: bytes) -> str:
        kept.append(content)
        return content_hash(content)

    whole = msgspec.structs.replace(
        receipt,
        entity_blob=text(canonical(request.entity)),
        question_blob=text(request.question.encode()) if request.question else None,
        inputs_blob=text(canonical(prepared.inputs)) if prepared.inputs else None,
        text_blob=text(content),
        attempts=tuple(_attempt(attempt, text) for attempt in attempts),
    )
    return whole, kept


def to_store(prepared: Prepared, receipt: Receipt, key: str, stored: StoredAnswer | None) -> StoredAnswer | None:
    """This answer as the newest of its namespace for the question; a reused one keeps what it cost and who made it.

    ``None`` when the request has no namespace.
    """
    if prepared.cache_namespace is None:
        return None
    return StoredAnswer(
        scope=receipt.scope,
        release=prepared.cache_namespace,
        subject=receipt.subject,
        question_hash=prepared.question_hash,
        fingerprint=receipt.feature_fingerprint,
        prompt_key=key,
        prediction=stored.prediction if stored is not None else receipt.prediction,
        as_of=receipt.as_of,
        text_blob=receipt.text_blob,
        finish_reason=receipt.finish_reason,
        classes=receipt.classes,
        usage=stored.usage if stored is not None else receipt.usage,
        seconds=stored.seconds if stored is not None else receipt.timing.total,
        origin_path=stored.origin_path if stored is not None else receipt.path,
        made_path=receipt.path,
        replaced=stored.replaced if stored is not None else replaces(receipt),
    )


def _attempt(attempt: Generated, text: Callable[[bytes], str]) -> Attempt:
    sent, finished = attempt.sent, attempt.finished
    return Attempt(
        prompt_blob=text(_prompt(sent)),
        text_blob=text(finished.text.encode()),
        seed=sent.seed,
        temperature=sent.temperature,
        top_p=sent.top_p,
        max_tokens=sent.max_tokens,
        stop=sent.stop,
        json_schema_blob=text(sent.json_schema.encode()) if sent.json_schema else None,
        model=sent.model,
        fingerprint=finished.fingerprint,
        token_ids=finished.token_ids,
        finish_reason=finished.reason,
        prompt_form="tokens" if sent.prompt_ids else "turns" if sent.messages else "text",
        prompt_logprobs=sent.prompt_logprobs,
        frequency_penalty=sent.penalties.frequency,
        presence_penalty=sent.penalties.presence,
        logit_bias=sent.penalties.bias,
        tools_blob=text(sent.tools.encode()) if sent.tools else None,
        grammar_blob=text(sent.grammar.encode()) if sent.grammar else None,
        ignore_end=sent.ignore_end,
        parameters_blob=text(sent.parameters.encode()) if sent.parameters else None,
    )


def _prompt(sent: GenerationRequest) -> bytes:
    return canonical(sent.prompt_ids or sent.messages) if sent.prompt_ids or sent.messages else sent.prompt.encode()
