"""Replay: make a prediction's text again from its receipt, and compare byte for byte.

Inside one fingerprint (weights, binary, instruction set, layout) the text must be identical whatever else the
engine is doing. Under another fingerprint the comparison says so instead of claiming a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Attempt, Receipt
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ChatTurn, Delta, GenerationRequest, Penalties, TextEmbeddingRequest
from antiphon.engine.api.port import GenerationEngine
from antiphon.serving.answering import generation, guarded, prompts
from antiphon.serving.answering.narrowing import narrowed_to_schema
from antiphon.serving.answering.retrieval import of_blob
from antiphon.serving.embedding import EMBEDDING, vectors_text


class ReplayedAttempt(msgspec.Struct, frozen=True):
    """One generation made again."""

    identical: bool
    same_fingerprint: bool
    recorded_fingerprint: str
    replayed_fingerprint: str
    text: str
    recorded_text: str


class Replay(msgspec.Struct, frozen=True):
    """A prediction made again. ``origin`` is the prediction whose generations were replayed (itself, unless it
    was served from a stored answer); ``served_identical`` compares the text the client got. ``summaries`` are those of
    earlier turns that were made for it; in ``decisions`` the model chose tools, whose recorded results are in the
    prompts: nothing is called."""

    prediction: str
    origin: str
    identical: bool
    served_identical: bool
    attempts: tuple[ReplayedAttempt, ...]
    summaries: tuple[ReplayedAttempt, ...] = ()
    decisions: tuple[ReplayedAttempt, ...] = ()


async def replay(
    receipt: Receipt,
    *,
    engine: GenerationEngine,
    texts: Blobs,
    receipt_of: Callable[[Scope, str], Receipt],
    release_of: Callable[[Scope, str], Release | None],
    standbys: Mapping[str, GenerationEngine] | None = None,
) -> Replay:
    """Generate again what the receipt records, through the engine that wrote it as it is now.

    Args:
        standbys: engines other than the main one, by name.

    Raises:
        NotFoundError: a text was erased, so there is nothing to replay.
        UnavailableError, EngineError: the engine is away.
    """
    origin = receipt if receipt.cache.prediction is None else receipt_of(receipt.scope, receipt.cache.prediction)
    engine = (standbys or {}).get(origin.engine or "", engine)
    replayed = [await _again(attempt, origin, engine, texts) for attempt in origin.attempts]
    made = origin.conversation.summaries if origin.conversation is not None else ()
    summaries = [await _again(attempt, origin, engine, texts) for attempt in made]
    decisions = [await _again(attempt, origin, engine, texts) for attempt in origin.decisions]
    served = texts.get(receipt.scope, receipt.text_blob).decode()
    release = release_of(origin.scope, origin.release)
    again = _served(origin, [attempt.text for attempt in replayed], release, texts)
    served_identical = again == served
    return Replay(
        prediction=receipt.prediction,
        origin=origin.prediction,
        identical=served_identical and all(attempt.identical for attempt in (*summaries, *decisions, *replayed)),
        served_identical=served_identical,
        attempts=tuple(replayed),
        summaries=tuple(summaries),
        decisions=tuple(decisions),
    )


async def _again(attempt: Attempt, origin: Receipt, engine: GenerationEngine, texts: Blobs) -> ReplayedAttempt:
    content = texts.get(origin.scope, attempt.prompt_blob)
    recorded = texts.get(origin.scope, attempt.text_blob).decode()
    text, fingerprint = await (
        _embedded_again(attempt, content, origin, engine)
        if attempt.finish_reason == EMBEDDING
        else _generated_again(attempt, content, origin, engine, texts)
    )
    return ReplayedAttempt(
        identical=text == recorded,
        same_fingerprint=fingerprint == attempt.fingerprint,
        recorded_fingerprint=attempt.fingerprint,
        replayed_fingerprint=fingerprint,
        text=text,
        recorded_text=recorded,
    )


async def _embedded_again(
    attempt: Attempt, content: bytes, origin: Receipt, engine: GenerationEngine
) -> tuple[str, str]:
    texts = msgspec.json.decode(content, type=tuple[str, ...])
    request = TextEmbeddingRequest(new_id("replay"), attempt.model, texts, tenant=origin.scope.tenant)
    embedded = await engine.embed(request)
    return vectors_text(embedded).decode(), embedded.fingerprint


async def _generated_again(
    attempt: Attempt, content: bytes, origin: Receipt, engine: GenerationEngine, texts: Blobs
) -> tuple[str, str]:
    turns = msgspec.json.decode(content, type=tuple[ChatTurn, ...]) if attempt.prompt_form == "turns" else ()
    ids = msgspec.json.decode(content, type=tuple[int, ...]) if attempt.prompt_form == "tokens" else ()
    schema = texts.get(origin.scope, attempt.json_schema_blob).decode() if attempt.json_schema_blob else None
    request = GenerationRequest(
        id=new_id("replay"),
        model=attempt.model,
        prompt="" if turns or ids else content.decode(),
        prompt_ids=ids,
        messages=turns,
        max_tokens=attempt.max_tokens,
        temperature=attempt.temperature,
        top_p=attempt.top_p,
        seed=attempt.seed,
        stop=attempt.stop,
        json_schema=schema,
        cache_salt=origin.scope.tenant,
        prompt_logprobs=attempt.prompt_logprobs,
        penalties=Penalties(attempt.frequency_penalty, attempt.presence_penalty, attempt.logit_bias),
        tools=texts.get(origin.scope, attempt.tools_blob).decode() if attempt.tools_blob else None,
        grammar=texts.get(origin.scope, attempt.grammar_blob).decode() if attempt.grammar_blob else None,
        ignore_end=attempt.ignore_end,
        parameters=texts.get(origin.scope, attempt.parameters_blob).decode() if attempt.parameters_blob else "",
    )
    text, fingerprint = "", ""
    async with aclosing(generation.generate(engine.generate, request)) as events:
        async for event in events:
            if not isinstance(event, Delta):
                text, fingerprint = event.finished.text, event.finished.fingerprint
    return text, fingerprint


def _served(origin: Receipt, again: list[str], release: Release | None, texts: Blobs) -> str:
    """The text served from these generations: the last one, or the guard's fallback again."""
    fell_back = any(action.action == "template" for action in origin.guards)
    if not fell_back or release is None:
        return again[-1] if again else ""
    schema = origin.attempts[0].json_schema_blob if origin.attempts else None
    application = narrowed_to_schema(
        release.bundle.application, texts.get(origin.scope, schema).decode() if schema is not None else None
    )
    guards = guarded.replaced_guards(application, origin.guards)
    taken = next(action for action in origin.guards if action.action == "template")
    printed = {feature.name: feature.printed for feature in origin.features}
    prints = {figure.feature: printed.get(figure.feature) for figure in application.figures}
    entity: dict[str, Any] = msgspec.json.decode(texts.get(origin.scope, origin.entity_blob))
    question = texts.get(origin.scope, origin.question_blob).decode() if origin.question_blob else None
    kept = texts.get(origin.scope, origin.retrieved_blob) if origin.retrieved_blob else None
    names = prompts.variables(application, prints, entity, question, of_blob(kept))
    return guarded.fall_back(again[taken.attempt], guards, application, names, taken.shown)
