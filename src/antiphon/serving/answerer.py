"""answer(): decide → features → reuse or (prompt → generate → guard) → receipt. Both paths, every prediction.

Invariant: an :class:`Answer` leaves this module only after its receipt is committed, together with the texts
and the stored answer it names. Nothing is written for a request that failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal

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
from antiphon.catalog.releases import Release
from antiphon.core.clock import Clock, utc
from antiphon.core.errors import Forbidden, InvalidInput, NotFound, Unavailable
from antiphon.core.ids import canonical, content_hash, keyed_hash, new_id
from antiphon.core.scope import Scope
from antiphon.core.telemetry import GENAI, span, trace_id, traceparent
from antiphon.engine.messages import Delta, ModelDescription
from antiphon.serving import freshness, generation, prompts, reuse
from antiphon.serving.admission import Admission
from antiphon.serving.builtin import implicit_release
from antiphon.serving.freshness import Reading
from antiphon.serving.generation import Asked, Generated, Written
from antiphon.serving.ports import (
    Commit,
    Decide,
    Decision,
    Engine,
    FeatureReader,
    LiveReleases,
    Receipts,
    StoredAnswers,
    Texts,
)
from antiphon.serving.printing import fingerprint
from antiphon.serving.probabilities import class_probabilities
from antiphon.serving.request import Answer, AnswerRequest, TextDelta


class Services(msgspec.Struct, frozen=True):
    """What an answer is made with; ``app`` fills it in."""

    engine: Engine
    features: Callable[[Scope], FeatureReader]
    releases: LiveReleases
    decide: Decide
    stored: StoredAnswers
    texts: Texts
    receipts: Receipts
    commit: Commit
    clock: Clock
    admission: Admission
    subject_key: bytes


class _Prepared(msgspec.Struct, frozen=True):
    """A request after policy and features: everything known before a token is made."""

    request: AnswerRequest
    request_id: str
    release: Release
    decision: Decision
    as_of: datetime
    reading: Reading
    subject: str
    question_hash: str
    arrived: float
    queued: float


class Answerer:
    """Answers requests with the services it was given."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models: dict[str, ModelDescription] = {}
        self._described_at = float("-inf")

    async def answer(self, request: AnswerRequest) -> Answer:
        """The whole answer at once.

        Raises:
            NotFound, InvalidInput, Forbidden, FeatureUnavailable, PromptTooLong, SchemaUnsatisfiable,
            OutputInvalid, EngineFailed, Unavailable, Overloaded.
        """
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise Unavailable("The answer ended without a receipt.", where="serving")

    async def stream(self, request: AnswerRequest) -> AsyncGenerator[TextDelta | Answer, None]:
        """Text as it may be shown, then the :class:`Answer`. Closing the iterator frees the engine's slot.

        A guarded or structured application's text is shown only once it has passed: in one piece.
        """
        arrived = time.perf_counter()
        with span("answer", {"antiphon.application": request.application, "antiphon.path": request.path},
                  traceparent=request.traceparent):  # fmt: skip
            async with self._services.admission.enter(request.path):
                prepared = await self._prepare(request, arrived)
                application = prepared.release.bundle.application
                stored = await self._find_stored(prepared)
                if stored is not None:
                    answer = await self._serve_stored(
                        prepared, stored, "stored", stored.prompt_key if request.refresh else None
                    )
                    yield TextDelta(answer.text)
                    yield answer
                    return
                asked = await self._ask(prepared)
                if prepared.release.number == 0 or not (application.guards or application.output_schema):
                    async with aclosing(self._show_tokens(prepared, asked)) as events:
                        async for event in events:
                            yield event
                    return
                key = reuse.prompt_key(asked, application, prepared.reading.prints)
                same = await self._find_identical(prepared, key)
                if same is not None:
                    answer = await self._serve_stored(prepared, same, "identical-prompt", key)
                else:
                    answer = await self._generate(prepared, asked, key)
                yield TextDelta(answer.text, answer.tokens)
                yield answer

    async def _prepare(self, request: AnswerRequest, arrived: float) -> _Prepared:
        services = self._services
        queued = time.perf_counter() - arrived
        release = await self._release(request)
        application = release.bundle.application
        decision = services.decide(
            request.principal, "answer", f"application/{application.name}", {"purpose": application.purpose}
        )
        if not decision.allowed:
            raise Forbidden(
                f"Policy does not let {request.principal.id} ask {application.name}.",
                where="policy",
                next_step="Ask an administrator for a role that may answer, or see `antiphon policy explain`.",
            )
        as_of = utc(request.as_of) if request.as_of is not None else services.clock.now()
        entity = _entity(request, application.entity_keys)
        vector = None
        if application.features:
            with span("features"):
                vector = services.features(request.scope).read(
                    application.features, entity, as_of, request.minimum_publication
                )
        subject = keyed_hash(services.subject_key, f"{request.scope}|{canonical(entity).decode()}").hex()
        return _Prepared(
            request=request,
            request_id=request.request_id or new_id("req"),
            release=release,
            decision=decision,
            as_of=as_of,
            reading=freshness.apply(vector, application, as_of),
            subject=subject,
            question_hash=reuse.question_hash(request.question),
            arrived=arrived,
            queued=queued,
        )

    async def _release(self, request: AnswerRequest) -> Release:
        releases = self._services.releases
        if request.release is not None:
            release = releases.get(request.scope, request.release)
            if release.bundle.application.name != request.application:
                raise InvalidInput(
                    f"Release {request.release} belongs to {release.bundle.application.name}.", where="release"
                )
            return release
        live = releases.live(request.scope, request.application)
        if live is not None:
            return live
        model = await self._model(request.application, missing_ok=True)
        if model is None:
            raise NotFound(
                f"There is no application or model named {request.application!r}.",
                where="model",
                next_step="`GET /v1/models` lists what can be asked.",
            )
        return implicit_release(request, model, self._services.clock.now())

    async def _model(self, name: str, *, missing_ok: bool = False) -> ModelDescription | None:
        # Looked up again every few seconds: an engine that restarted may have another fingerprint.
        if name not in self._models or time.monotonic() - self._described_at > 5.0:
            described = await self._services.engine.describe()
            self._models = {model.name: model for model in described.models}
            self._described_at = time.monotonic()
        model = self._models.get(name)
        if model is None and not missing_ok:
            raise Unavailable(
                f"The engine does not serve the model {name!r}.",
                where="engine",
                next_step="Add it to [engine] models in antiphon.toml, or activate a release that pins another.",
            )
        return model

    async def _ask(self, prepared: _Prepared) -> Asked:
        application = prepared.release.bundle.application
        model = await self._model(prepared.release.bundle.model.name)
        assert model is not None
        request = prepared.request
        raw = None
        if application.prompt.template or application.features:
            user = prompts.render(
                application.prompt.template, self._names(prepared), f"application {application.name}, prompt"
            )
            conversation = prompts.turns(application, user)
        else:
            conversation = [(message.role, message.content) for message in request.messages]
            raw = request.prompt
        return generation.ask(
            model,
            conversation,
            application.decoding,
            application.output_schema,
            raw_prompt=raw,
            classes=bool(application.classes),
            logprobs=request.overrides.logprobs,
        )

    def _names(self, prepared: _Prepared) -> dict[str, Any]:
        request = prepared.request
        return prompts.variables(
            prepared.release.bundle.application, prepared.reading.prints, request.entity, request.question
        )

    async def _find_stored(self, prepared: _Prepared) -> StoredAnswer | None:
        request, application = prepared.request, prepared.release.bundle.application
        rule = application.reuse
        if rule.mode == "never" or not application.features:
            return None
        stored = self._services.stored.latest(
            request.scope, prepared.release.id, prepared.subject, prepared.question_hash, as_of=prepared.as_of
        )
        if stored is None:
            return None
        if request.refresh:  # a precomputing job makes it anew unless it would come out the same
            rule = msgspec.structs.replace(rule, mode="fingerprint")
        return stored if reuse.may_serve(stored, rule, fingerprint(prepared.reading.prints), prepared.as_of) else None

    async def _find_identical(self, prepared: _Prepared, key: str) -> StoredAnswer | None:
        if not prepared.release.bundle.application.reuse.identical_prompts:
            return None
        return self._services.stored.by_prompt(prepared.request.scope, key)

    async def _show_tokens(self, prepared: _Prepared, asked: Asked) -> AsyncGenerator[TextDelta | Answer, None]:
        sent = generation.to_engine(asked, prepared.request.path, 0, 0.0, traceparent())
        first_byte = 0.0
        async with aclosing(generation.stream(self._services.engine, sent)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    first_byte = first_byte or time.perf_counter() - prepared.arrived
                    yield TextDelta(event.text, event.tokens)
                else:
                    written = Written(event.finished.text, event.finished.reason, (event,), ())
                    yield await self._finish(prepared, written, None, first_byte)

    async def _generate(self, prepared: _Prepared, asked: Asked, key: str) -> Answer:
        with span("generate", {GENAI["model"]: asked.model}):
            written = await generation.write(
                self._services.engine,
                asked,
                prepared.release.bundle.application,
                self._names(prepared),
                prepared.reading.prints,
                prepared.request.path,
                traceparent(),
            )
        return await self._finish(prepared, written, key, 0.0)

    async def _finish(self, prepared: _Prepared, written: Written, key: str | None, first_byte: float) -> Answer:
        application = prepared.release.bundle.application
        classes = class_probabilities(
            written.attempts[0].finished.text, application.output_schema or {}, application.classes, written.branches
        )
        receipt = self._receipt(
            prepared, written.usage, CacheReceipt("generated"), written.finish_reason, classes, written.actions,
            written.attempts, first_byte,
        )  # fmt: skip
        answer = await self._commit(prepared, receipt, written.text.encode(), written.attempts, key)
        return msgspec.structs.replace(answer, tokens=written.attempts[-1].tokens)

    async def _serve_stored(
        self, prepared: _Prepared, stored: StoredAnswer, origin: Literal["stored", "identical-prompt"], key: str | None
    ) -> Answer:
        """Serve it with a receipt of its own; with a ``key``, also keep it as this release's newest answer.

        An answer that is only read keeps its age: reading does not make it younger.
        """
        content = self._services.texts.get(prepared.request.scope, stored.text_blob)
        cache = CacheReceipt(
            origin=origin,
            prediction=stored.prediction,
            origin_path=stored.made_path if origin == "stored" else stored.origin_path,
            saved=stored.usage,
            origin_seconds=stored.seconds,
        )
        receipt = self._receipt(prepared, UsageReceipt(), cache, stored.finish_reason, stored.classes, (), (), 0.0)
        return await self._commit(prepared, receipt, content, (), key, stored)

    def _receipt(
        self, prepared: _Prepared, usage: UsageReceipt, cache: CacheReceipt, finish_reason: str,
        classes: dict[str, dict[str, float]], actions: tuple[GuardReceipt, ...], attempts: tuple[Generated, ...],
        first_byte: float,
    ) -> Receipt:  # fmt: skip
        request, release = prepared.request, prepared.release
        total = time.perf_counter() - prepared.arrived
        return Receipt(
            prediction=new_id("pred"),
            request=prepared.request_id,
            trace=trace_id(),
            scope=request.scope,
            application=release.bundle.application.name,
            release=release.id,
            path=request.path,
            principal=request.principal.id,
            originating_user=request.originating_user,
            purpose=release.bundle.application.purpose,
            subject=prepared.subject,
            entity_blob="",
            exposure_unit=request.exposure_unit or request.originating_user or prepared.subject,
            assignment_probability=1.0,
            policy=PolicyReceipt("allow", prepared.decision.digest, prepared.decision.policies),
            publication=prepared.reading.publication,
            as_of=prepared.as_of,
            created_at=self._services.clock.now(),
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
                queue=prepared.queued,
                first_byte=first_byte or total,
                total=total,
                prefill=sum(attempt.finished.usage.prefill_seconds for attempt in attempts),
                decode=sum(attempt.finished.usage.decode_seconds for attempt in attempts),
            ),
        )

    async def _commit(
        self, prepared: _Prepared, receipt: Receipt, content: bytes, attempts: tuple[Generated, ...],
        key: str | None, stored: StoredAnswer | None = None,
    ) -> Answer:  # fmt: skip
        """Texts, receipt and stored answer in one transaction; the client learns of it only afterwards."""
        services, request = self._services, prepared.request
        kept: list[bytes] = []

        def text(content: bytes) -> str:
            kept.append(content)
            return content_hash(content)

        whole = msgspec.structs.replace(
            receipt,
            entity_blob=text(canonical(request.entity)),
            question_blob=text(request.question.encode()) if request.question else None,
            text_blob=text(content),
            attempts=tuple(_attempt(attempt, text) for attempt in attempts),
        )

        def effect(connection: Any) -> None:
            services.receipts.add(whole, kept, within=connection)
            if key is not None:
                services.stored.put(_to_store(prepared, whole, key, stored), within=connection)

        with span("commit"):
            # Shielded: a client that goes away during the commit leaves a whole receipt, not half of one.
            await asyncio.shield(asyncio.ensure_future(_as_coroutine(services.commit.submit(effect))))
        return Answer(
            prediction=whole.prediction,
            request=whole.request,
            text=content.decode(),
            finish_reason=whole.finish_reason,
            usage=whole.usage,
            receipt=whole,
            publication=whole.publication,
        )


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def _entity(request: AnswerRequest, expected: tuple[str, ...]) -> dict[str, str]:
    missing = [key for key in expected if key not in request.entity]
    unknown = [key for key in request.entity if key not in expected] if expected else []
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise InvalidInput(
            f"The entity {' and '.join(said)}.",
            where="entity",
            next_step=f"Send exactly these keys: {', '.join(expected) or '(none)'}.",
        )
    return dict(sorted(request.entity.items()))


def _attempt(attempt: Generated, text: Callable[[bytes], str]) -> Attempt:
    sent, finished = attempt.sent, attempt.finished
    return Attempt(
        prompt_blob=text(canonical(sent.messages) if sent.messages else sent.prompt.encode()),
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
    )


def _to_store(prepared: _Prepared, receipt: Receipt, key: str, stored: StoredAnswer | None) -> StoredAnswer:
    """This answer as its release's newest for the question; a reused one keeps what it cost and who made it."""
    return StoredAnswer(
        scope=receipt.scope,
        release=receipt.release,
        subject=prepared.subject,
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
    )
