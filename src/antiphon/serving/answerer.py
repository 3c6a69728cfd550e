"""answer(): decide → features → reuse or (prompt → generate → guard) → receipt. Both paths, every prediction.

Invariant: an :class:`Answer` leaves this module only after its receipt is committed, together with the texts
and the stored answer it names. Nothing is written for a request that failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from antiphon.catalog.answers import StoredAnswer
from antiphon.catalog.receipts import CacheReceipt, Receipt, UsageReceipt
from antiphon.catalog.releases import Release
from antiphon.core.clock import Clock, utc
from antiphon.core.errors import Forbidden, InvalidInput, NotFound, Unavailable
from antiphon.core.ids import canonical, keyed_hash, new_id
from antiphon.core.scope import Scope
from antiphon.core.telemetry import GENAI, span, traceparent
from antiphon.engine.messages import Delta, ModelDescription
from antiphon.serving import freshness, generation, prompts, reuse
from antiphon.serving.admission import Admission
from antiphon.serving.builtin import implicit_release
from antiphon.serving.flights import Flights
from antiphon.serving.generation import Asked, Generated, Written
from antiphon.serving.ports import (
    Commit,
    Decide,
    Engine,
    FeatureReader,
    LiveReleases,
    Receipts,
    StoredAnswers,
    Texts,
)
from antiphon.serving.prepared import Prepared, check_overrides, entity_of, wants_tokens
from antiphon.serving.printing import fingerprint
from antiphon.serving.probabilities import class_probabilities
from antiphon.serving.recording import receipt_of, to_store, with_texts
from antiphon.serving.request import Answer, AnswerRequest, TextDelta


class Services(msgspec.Struct, frozen=True):
    """What an answer is made with; ``app`` fills it in.

    ``online_seconds`` is how long an online answer may take to generate; a batch row waits as long as it must.
    """

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
    online_seconds: float | None = None


class Answerer:
    """Answers requests with the services it was given."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models: dict[str, ModelDescription] = {}
        self._described_at = float("-inf")
        self._flights = Flights()

    async def answer(self, request: AnswerRequest) -> Answer:
        """The whole answer at once.

        Raises:
            NotFound, InvalidInput, Forbidden, FeatureUnavailable, PromptTooLong, SchemaUnsatisfiable,
            OutputInvalid, EngineFailed, DeadlineExceeded, Unavailable, Overloaded.
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
                answer = await self._stored(prepared)
                if answer is not None:
                    yield TextDelta(answer.text)
                    yield answer
                    return
                asked = await self._ask(prepared)
                plain = prepared.release.number == 0
                key = None if plain else reuse.prompt_key(asked, application, prepared.reading.prints)
                if plain or not (application.guards or application.output_schema):
                    answer = None if key is None else await self._identical(prepared, key)
                    if answer is None:
                        async with aclosing(self._show_tokens(prepared, asked, key)) as events:
                            async for event in events:
                                yield event
                        return
                else:
                    answer = await self._once(prepared, asked, key)
                yield TextDelta(answer.text, answer.tokens)
                yield answer

    async def _prepare(self, request: AnswerRequest, arrived: float) -> Prepared:
        services = self._services
        queued = time.perf_counter() - arrived
        release = await self._release(request)
        application = release.bundle.application
        decision = services.decide(
            request.principal,
            "answer",
            f"application/{application.name}",
            {"purpose": application.purpose, "path": request.path, "tenant": request.scope.tenant},
        )
        if not decision.allowed:
            raise Forbidden(
                f"Policy does not let {request.principal.id} ask {application.name}.",
                where="policy",
                next_step="Ask an administrator for a role that may answer, or see `antiphon policy explain`.",
            )
        if release.number != 0:
            check_overrides(request.overrides, application)
        as_of = utc(request.as_of) if request.as_of is not None else services.clock.now()
        entity = entity_of(request, application.entity_keys)
        vector = None
        if application.features:
            with span("features"):
                vector = services.features(request.scope).read(
                    application.features, entity, as_of, request.minimum_publication
                )
        subject = keyed_hash(services.subject_key, f"{request.scope}|{canonical(entity).decode()}").hex()
        return Prepared(
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

    async def _ask(self, prepared: Prepared) -> Asked:
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
            application.schema,
            raw_prompt=raw,
            classes=bool(application.classes),
            logprobs=request.overrides.logprobs,
        )

    def _names(self, prepared: Prepared) -> dict[str, Any]:
        request = prepared.request
        return prompts.variables(
            prepared.release.bundle.application, prepared.reading.prints, request.entity, request.question
        )

    async def _stored(self, prepared: Prepared) -> Answer | None:
        """An answer made earlier about the same subject and question, when the application's rule lets it stand in."""
        request, application = prepared.request, prepared.release.bundle.application
        rule = application.reuse
        if rule.mode == "never" or not application.features or wants_tokens(request):
            return None
        stored = self._services.stored.latest(
            request.scope, prepared.release.id, prepared.subject, prepared.question_hash, as_of=prepared.as_of
        )
        if stored is None:
            return None
        if request.refresh:  # a precomputing job makes it anew unless it would come out the same
            rule = msgspec.structs.replace(rule, mode="fingerprint")
        if not reuse.may_serve(stored, rule, fingerprint(prepared.reading.prints), prepared.as_of):
            return None
        return await self._serve_again(prepared, stored, "stored", stored.prompt_key if request.refresh else None)

    async def _identical(self, prepared: Prepared, key: str) -> Answer | None:
        """An answer that an identical prompt was given before."""
        if not prepared.release.bundle.application.reuse.identical_prompts or wants_tokens(prepared.request):
            return None
        same = self._services.stored.by_prompt(prepared.request.scope, key)
        return None if same is None else await self._serve_again(prepared, same, "identical-prompt", key)

    async def _once(self, prepared: Prepared, asked: Asked, key: str | None) -> Answer:
        """The answer an identical prompt was given, or a new one; of several at once, one is generated."""
        if key is None or not prepared.release.bundle.application.reuse.identical_prompts:
            return await self._generate(prepared, asked, key)
        async with self._flights.alone((prepared.request.scope, key)):
            return await self._identical(prepared, key) or await self._generate(prepared, asked, key)

    async def _show_tokens(
        self, prepared: Prepared, asked: Asked, key: str | None
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        sent = generation.to_engine(asked, prepared.request.path, 0, 0.0, traceparent())
        first_byte = 0.0
        async with aclosing(generation.stream(self._services.engine, sent, self._deadline(prepared))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    first_byte = first_byte or time.perf_counter() - prepared.arrived
                    yield TextDelta(event.text, event.tokens)
                else:
                    written = Written(event.finished.text, event.finished.reason, (event,), ())
                    yield await self._finish(prepared, asked, written, key, first_byte)

    def _deadline(self, prepared: Prepared) -> float | None:
        limit = self._services.online_seconds
        if limit is None or prepared.request.path != "online":
            return None
        return asyncio.get_running_loop().time() + limit - (time.perf_counter() - prepared.arrived)

    async def _generate(self, prepared: Prepared, asked: Asked, key: str | None) -> Answer:
        with span("generate", {GENAI["model"]: asked.model}):
            written = await generation.write(
                self._services.engine,
                asked,
                prepared.release.bundle.application,
                self._names(prepared),
                prepared.reading.prints,
                prepared.request.path,
                traceparent(),
                self._deadline(prepared),
            )
        return await self._finish(prepared, asked, written, key, 0.0)

    async def _finish(
        self, prepared: Prepared, asked: Asked, written: Written, key: str | None, first_byte: float
    ) -> Answer:
        application = prepared.release.bundle.application
        fingerprints = {attempt.finished.fingerprint for attempt in written.attempts}
        if key is not None and fingerprints != {asked.fingerprint}:
            # The engine was replaced since it was described: another fingerprint may give another text.
            key = reuse.prompt_key(
                msgspec.structs.replace(asked, fingerprint="+".join(sorted(fingerprints))),
                application,
                prepared.reading.prints,
            )
        classes = class_probabilities(
            written.attempts[0].finished.text, application.schema or {}, application.classes, written.branches
        )
        receipt = receipt_of(
            prepared, written.usage, CacheReceipt("generated"), written.finish_reason, classes, written.actions,
            written.attempts, first_byte, self._services.clock.now(),
        )  # fmt: skip
        answer = await self._commit(prepared, receipt, written.text.encode(), written.attempts, key)
        return msgspec.structs.replace(answer, tokens=written.attempts[-1].tokens)

    async def _serve_again(
        self, prepared: Prepared, stored: StoredAnswer, origin: Literal["stored", "identical-prompt"], key: str | None
    ) -> Answer | None:
        """Serve it with a receipt of its own; with a ``key``, also keep it as this release's newest answer.

        An answer that is only read keeps its age: reading does not make it younger. One whose text was erased is
        no answer any more.
        """
        try:
            content = self._services.texts.get(prepared.request.scope, stored.text_blob)
        except NotFound:
            return None
        cache = CacheReceipt(
            origin=origin,
            prediction=stored.prediction,
            origin_path=stored.made_path if origin == "stored" else stored.origin_path,
            saved=stored.usage,
            origin_seconds=stored.seconds,
        )
        receipt = receipt_of(
            prepared, UsageReceipt(), cache, stored.finish_reason, stored.classes, (), (), 0.0,
            self._services.clock.now(),
        )  # fmt: skip
        return await self._commit(prepared, receipt, content, (), key, stored)

    async def _commit(
        self, prepared: Prepared, receipt: Receipt, content: bytes, attempts: tuple[Generated, ...],
        key: str | None, stored: StoredAnswer | None = None,
    ) -> Answer:  # fmt: skip
        """Texts, receipt and stored answer in one transaction; the client learns of it only afterwards."""
        services = self._services
        whole, kept = with_texts(receipt, prepared, content, attempts)

        def effect(connection: Any) -> None:
            services.receipts.add(whole, kept, within=connection)
            if key is not None:
                services.stored.put(to_store(prepared, whole, key, stored), within=connection)

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
