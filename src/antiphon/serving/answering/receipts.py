"""The record of an answer: its receipt, the texts that the receipt names, and the stored answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.catalog.serving.receipt import (
    Attempt,
    CacheReceipt,
    ConversationReceipt,
    Degradation,
    GuardReceipt,
    PolicyReceipt,
    Receipt,
    Role,
    SkippedEngine,
    Timing,
    ToolCallReceipt,
    TurnReceipt,
    UsageReceipt,
)
from antiphon.core.ids import canonical, content_hash, new_id
from antiphon.core.telemetry import trace_id
from antiphon.engine.api.messages import GenerationRequest, GenerationUsage
from antiphon.serving.answering import reuse
from antiphon.serving.answering.context import AnswerContext, Generation
from antiphon.serving.answering.evidence import uses_template
from antiphon.serving.answering.generation import GenerationSpec, GuardedText
from antiphon.serving.answering.probabilities import class_probabilities


class AnswerDraft(msgspec.Struct, frozen=True):
    """A finished text and its origin, before its receipt.

    Attributes:
        generations: made for this request; none where an earlier text is served again.
        judged: what the judge models of guards used.
        stored: the answer that is served again.
        engine: that wrote the text; ``None`` for an earlier one.
        passed_over: engines that should have answered before, in order.
        degraded: set where a stored answer is served only because no engine answered.
        prompt_key: under which the answer is stored; ``None``: it is not stored.
        first_byte: seconds from arrival; ``None``: the text leaves as a whole.
    """

    text: str
    finish_reason: str
    classes: dict[str, dict[str, float]]
    cache: CacheReceipt
    generations: tuple[Generation, ...] = ()
    guards: tuple[GuardReceipt, ...] = ()
    stored: StoredAnswer | None = None
    engine: str | None = None
    passed_over: tuple[SkippedEngine, ...] = ()
    degraded: Degradation | None = None
    prompt_key: str | None = None
    first_byte: float | None = None
    judged: tuple[GenerationUsage, ...] = ()

    def role(self, assigned: Role) -> Role:
        """The capacity in which the answer is served: a substitute says so."""
        if self.degraded is not None:
            return "degraded"
        return "fallback" if self.passed_over else assigned


def generated(
    context: AnswerContext,
    spec: GenerationSpec,
    result: GuardedText,
    key: str | None,
    engine: str,
    passed_over: tuple[SkippedEngine, ...],
    first_byte: float | None = None,
    judged: Sequence[GenerationUsage] = (),
) -> AnswerDraft:
    """The draft of a text that was generated for this request, to be stored under ``key``."""
    fingerprints = {attempt.finished.fingerprint for attempt in result.attempts}
    if key is not None and fingerprints != {spec.fingerprint}:
        # The engine was replaced since it was described: another fingerprint may give another text.
        spec = msgspec.structs.replace(spec, fingerprint="+".join(sorted(fingerprints)))
        key = reuse.prompt_key_of(context, spec)
    # Of the first attempt: a retry is sampled, so its branch says less about the model.
    first, application = result.attempts[0].finished, context.application
    return AnswerDraft(
        text=result.text,
        finish_reason=result.finish_reason,
        classes=class_probabilities(first.text, application.schema or {}, application.classes, first.branches),
        cache=CacheReceipt("generated"),
        generations=result.attempts,
        guards=result.actions,
        engine=engine,
        passed_over=passed_over,
        prompt_key=key,
        first_byte=first_byte,
        judged=tuple(judged),
    )


def served_again(
    stored: StoredAnswer,
    text: str,
    origin: Literal["stored", "identical-prompt"],
    *,
    prompt_key: str | None = None,
    degraded: Degradation | None = None,
    passed_over: tuple[SkippedEngine, ...] = (),
) -> AnswerDraft:
    """The draft of an earlier text. With a ``prompt_key`` it is also stored as its namespace's newest; without one it
    keeps its age."""
    return AnswerDraft(
        text=text,
        finish_reason=stored.finish_reason,
        classes=stored.classes,
        cache=CacheReceipt(
            origin=origin,
            prediction=stored.prediction,
            origin_path=stored.made_path if origin == "stored" else stored.origin_path,
            saved=stored.usage,
            origin_seconds=stored.seconds,
        ),
        stored=stored,
        passed_over=passed_over,
        degraded=degraded,
        prompt_key=prompt_key,
    )


def receipt_of(
    context: AnswerContext, draft: AnswerDraft, moment: datetime, checkpoint: str | None
) -> tuple[Receipt, list[bytes]]:
    """The receipt of an answer, and the texts that its ``*_blob`` fields name.

    Args:
        moment: wall time of the answer. checkpoint: the newest of the audit log.
    """
    request, application = context.request, context.application
    arrival, assigned = context.arrival, context.assigned
    total = arrival.seconds
    made = (*context.summaries, *context.decisions, *draft.generations)
    texts: list[bytes] = []

    def blob(content: bytes) -> str:
        texts.append(content)
        return content_hash(content)

    receipt = Receipt(
        prediction=request.prediction or new_id("pred"),
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
        entity_blob=blob(canonical(request.entity)),
        exposure_unit=arrival.exposure_unit,
        assignment_probability=assigned.probability,
        policy=PolicyReceipt("allow", context.decision.digest, context.decision.policies),
        publication=context.reading.publication,
        as_of=context.as_of,
        created_at=moment,
        features=context.reading.features,
        feature_fingerprint=context.reading.fingerprint,
        question_blob=blob(request.question.encode()) if request.question else None,
        inputs_blob=blob(canonical(context.inputs)) if context.inputs else None,
        hints_blob=blob(canonical(request.hints)) if request.hints else None,
        turn_blob=blob(request.turn) if request.turn else None,
        retrievals=context.retrieved.receipts,
        retrieved_blob=None if (chunks := context.retrieved.blob) is None else blob(chunks),
        text_blob=blob(draft.text.encode()),
        attempts=tuple(_attempt(one, blob) for one in draft.generations),
        finish_reason=draft.finish_reason,
        classes=draft.classes,
        guards=draft.guards,
        cache=draft.cache,
        usage=_usage([*(one.finished.usage for one in made), *draft.judged], attempts=len(made)),
        judging=_usage(draft.judged, attempts=len(draft.judged)) if draft.judged else None,
        timing=Timing(
            queue=arrival.queued,
            first_byte=draft.first_byte or total,
            total=total,
            prefill=sum(one.finished.usage.prefill_seconds for one in draft.generations),
            decode=sum(one.finished.usage.decode_seconds for one in draft.generations),
            start=sum(one.finished.usage.start_seconds for one in made),
        ),
        audit_checkpoint=checkpoint,
        role=draft.role(assigned.role),
        rollout=assigned.rollout,
        engine=draft.engine,
        fallback=draft.passed_over,
        degraded=draft.degraded,
        tools=tuple(
            ToolCallReceipt(one.name, blob(one.arguments.encode()), blob(one.result.encode()), one.status, one.seconds)
            for one in context.calls
        ),
        decisions=tuple(_attempt(one, blob) for one in context.decisions),
        conversation=_conversation(context, blob) if application.conversation else None,
    )
    return receipt, texts


def stored_answer(context: AnswerContext, draft: AnswerDraft, receipt: Receipt) -> StoredAnswer | None:
    """This answer as the newest of its namespace for the question; one that is served again keeps its cost and maker.

    ``None`` when it is not stored.
    """
    if draft.prompt_key is None or context.cache_namespace is None:
        return None
    stored = draft.stored
    return StoredAnswer(
        scope=receipt.scope,
        release=context.cache_namespace,
        subject=receipt.subject,
        question_hash=context.question_hash,
        fingerprint=receipt.feature_fingerprint,
        prompt_key=draft.prompt_key,
        prediction=stored.prediction if stored is not None else receipt.prediction,
        as_of=receipt.as_of,
        text_blob=receipt.text_blob,
        finish_reason=receipt.finish_reason,
        classes=receipt.classes,
        usage=stored.usage if stored is not None else receipt.usage,
        seconds=stored.seconds if stored is not None else receipt.timing.total,
        origin_path=stored.origin_path if stored is not None else receipt.path,
        made_path=receipt.path,
        replaced=stored.replaced if stored is not None else uses_template(receipt),
    )


def _usage(usages: Sequence[GenerationUsage], attempts: int) -> UsageReceipt:
    """Tokens and engine seconds of all together."""
    return UsageReceipt(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        forced_tokens=sum(usage.forced_tokens for usage in usages),
        engine_seconds=sum(usage.engine_seconds for usage in usages),
        attempts=attempts,
        gpu_seconds=sum(usage.engine_seconds * usage.gpus for usage in usages),
    )


def _conversation(context: AnswerContext, blob: Callable[[bytes], str]) -> ConversationReceipt:
    history = context.history
    before: Literal["summarized", "dropped"] = "summarized" if history.summary else "dropped"
    return ConversationReceipt(
        id=history.conversation or None,
        turn=history.number,
        previous=(history.turns[-1].prediction or None) if history.turns else None,
        turns=tuple(
            TurnReceipt(turn.number, turn.prediction or None, "whole" if turn.number >= history.first else before)
            for turn in history.turns
        ),
        summary_blob=blob(history.summary.encode()) if history.summary else None,
        summaries=tuple(_attempt(one, blob) for one in context.summaries),
    )


def _attempt(generation: Generation, blob: Callable[[bytes], str]) -> Attempt:
    sent, finished = generation.sent, generation.finished
    return Attempt(
        prompt_blob=blob(_prompt(sent)),
        text_blob=blob(finished.text.encode()),
        seed=sent.seed,
        temperature=sent.temperature,
        top_p=sent.top_p,
        max_tokens=sent.max_tokens,
        stop=sent.stop,
        json_schema_blob=blob(sent.json_schema.encode()) if sent.json_schema else None,
        model=sent.model,
        fingerprint=finished.fingerprint,
        token_ids=finished.token_ids,
        finish_reason=finished.reason,
        prompt_form="tokens" if sent.prompt_ids else "turns" if sent.messages else "text",
        prompt_logprobs=sent.prompt_logprobs,
        frequency_penalty=sent.penalties.frequency,
        presence_penalty=sent.penalties.presence,
        logit_bias=sent.penalties.bias,
        tools_blob=blob(sent.tools.encode()) if sent.tools else None,
        grammar_blob=blob(sent.grammar.encode()) if sent.grammar else None,
        ignore_end=sent.ignore_end,
        parameters_blob=blob(sent.parameters.encode()) if sent.parameters else None,
    )


def _prompt(sent: GenerationRequest) -> bytes:
    return canonical(sent.prompt_ids or sent.messages) if sent.prompt_ids or sent.messages else sent.prompt.encode()
