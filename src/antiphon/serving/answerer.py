"""answer(): decide → features → reuse or (prompt → generate → guard) → receipt. Both paths, every prediction.

Invariants: an :class:`Answer` leaves this module only after its receipt is committed, together with the texts
and the stored answer it names. A request is assigned to a release once and ends with it. Of a request that failed
nothing is kept but, in a rollout, that a user of that arm got no answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.receipts import PassedOver
from antiphon.catalog.rollouts import Assigned
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.clock import utc
from antiphon.core.errors import (
    AntiphonError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from antiphon.core.suggestions import nearest
from antiphon.core.telemetry import GENAI, span, traceparent
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.degradation import Target
from antiphon.definitions.on_demand import InputValue
from antiphon.engine.api.messages import Delta
from antiphon.features.online.remedies import Remedied
from antiphon.serving.answering import generation, prompts, reuse
from antiphon.serving.answering.arrival import Arrival, arrive, as_requested, cache_namespace
from antiphon.serving.answering.committing import Committer, StandingIn
from antiphon.serving.answering.flights import Flights
from antiphon.serving.answering.generation import Asked, Written
from antiphon.serving.answering.narrowing import narrowed
from antiphon.serving.answering.prepared import Prepared, check_overrides, entity_of, wants_tokens
from antiphon.serving.answering.resources import Resources
from antiphon.serving.builtin import implicit_release
from antiphon.serving.fallback import standing_in
from antiphon.serving.fallback.engines import EnginePassedOver, Engines, Member, refusal
from antiphon.serving.fallback.standing_in import By
from antiphon.serving.features import on_demand
from antiphon.serving.features import reading as freshness
from antiphon.serving.features.printing import fingerprint
from antiphon.serving.ports import FeatureVector
from antiphon.serving.request import Answer, AnswerRequest, TextDelta
from antiphon.serving.services import Services
from antiphon.serving.shadow import ShadowCounts, Shadows


class Answerer:
    """Answers requests with the services it was given."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._engines = Engines(services.engine, services.standbys, services.breaking, services.clock)
        self._resources = Resources()
        self._flights = Flights()
        self._commit = Committer(services)
        self._shadows = Shadows(self.answer, self._commit.unpaired, services.clock, services.mirroring)

    async def answer(self, request: AnswerRequest) -> Answer:
        """The whole answer at once.

        Raises:
            NotFoundError, InvalidInputError, ForbiddenError, FeatureUnavailableError, PromptTooLongError,
            UnsatisfiableSchemaError, InvalidOutputError, EngineError, DeadlineExceededError, UnavailableError,
            OverloadedError.
        """
        async with aclosing(self._stream(request, showing=False)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise UnavailableError("The answer ended without a receipt.", where="serving")

    def stream(self, request: AnswerRequest) -> AsyncGenerator[TextDelta | Answer, None]:
        """Text as it may be shown, then the :class:`Answer`. Closing the iterator frees the engine's slot.

        A guarded or structured application's text is shown only once it has passed: in one piece.
        """
        return self._stream(request, showing=True)

    async def _stream(self, request: AnswerRequest, *, showing: bool) -> AsyncGenerator[TextDelta | Answer, None]:
        arrived = time.perf_counter()
        with span("answer", {"antiphon.application": request.application, "antiphon.path": request.path},
                  traceparent=request.traceparent):  # fmt: skip
            async with self._services.admission.enter("flex" if request.tier == "flex" else request.path):
                arrival = arrive(request, self._services.subject_key, arrived)
                assigned = await self._assign(arrival)
                prepared: Prepared | None = None
                answer: Answer | None = None
                try:
                    prepared = await self._prepare(arrival, assigned)
                    async with aclosing(self._answering(prepared, showing=showing)) as events:
                        async for event in events:
                            if isinstance(event, Answer):
                                answer = event
                            yield event
                except Exception as error:
                    # That there was no room for a request says nothing of the release that would have answered it.
                    if answer is None and not isinstance(error, OverloadedError):
                        publication = prepared.reading.publication if prepared is not None else None
                        await self._commit.failed(arrival, assigned, publication, error)
                    raise
                finally:
                    if answer is not None:
                        self._shadows.offer(arrival, assigned, answer)

    @property
    def breakers(self) -> tuple[BreakerStatus, ...]:
        """How the breaker of each engine stands in this process."""
        return self._engines.breakers

    @property
    def shadows(self) -> ShadowCounts:
        """What became of mirrored requests since this process started."""
        return self._shadows.counts

    async def close(self) -> None:
        """Let the shadows under way end, within a bound; answers are mirrored no longer."""
        await self._shadows.close()

    async def _answering(self, prepared: Prepared, *, showing: bool) -> AsyncGenerator[TextDelta | Answer, None]:
        """``showing``: the text is shown as it comes; otherwise nobody sees it before the answer is whole."""
        answer = await self._stored(prepared)
        if answer is not None:
            yield TextDelta(answer.text)
            yield answer
            return
        targets = standing_in.targets(prepared)
        passed: tuple[PassedOver, ...] = ()
        failures: list[AntiphonError] = []
        for target in targets:
            shown = False
            try:
                async with aclosing(self._made(prepared, target, passed)) as events:
                    async for event in events:
                        shown = showing
                        yield event
                return
            except EnginePassedOver as error:
                # What was shown stays: another engine would not go on where this one stopped.
                if shown:
                    raise error.error from error
                passed += (error.passed,)
                failures.append(error.error)
            except DeadlineExceededError as error:
                if shown:
                    raise
                passed += (PassedOver(target.engine, target.model, error.code),)
                failures.append(error)
                break  # No time is left for another engine; what is in store takes none.
        answer = await self._degraded(prepared, passed)
        if answer is None:
            raise refusal(failures, self._engines.wait(targets))
        yield TextDelta(answer.text)
        yield answer

    async def _made(
        self, prepared: Prepared, target: Target, passed: tuple[PassedOver, ...]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """The answer by one engine and model. Only the release's own model leaves a stored answer, and finds one.

        Raises:
            EnginePassedOver: it does not answer.
        """
        application = prepared.application
        engine, asked = await self._ask(prepared, target)
        by = By(engine, passed)
        plain = prepared.release.number == 0
        key = None
        if not plain and prepared.cache_namespace is not None and not passed:
            key = reuse.prompt_key(asked, application, prepared.reading.prints, prepared.prompt_namespace)
        if plain or not (application.guards or application.output_schema):
            answer = None if key is None else await self._identical(prepared, key)
            if answer is None:
                async with aclosing(self._show_tokens(prepared, asked, key, by)) as events:
                    async for event in events:
                        yield event
                return
        else:
            answer = await self._once(prepared, asked, key, by)
        yield TextDelta(answer.text, answer.tokens)
        yield answer

    async def _prepare(self, arrival: Arrival, assigned: Assigned) -> Prepared:
        services, request = self._services, arrival.request
        release = assigned.release
        application = narrowed(release.bundle.application, request.only)
        as_of = utc(request.as_of) if request.as_of is not None else services.clock.now()
        decision = services.decide(
            request.principal,
            "answer",
            self._resources.of(release),
            {
                "purpose": application.purpose,
                "path": request.path,
                "tenant": request.scope.tenant,
                "originator": request.originating_user,
                "keys": request.entity,
                "as_of": int(as_of.timestamp()),
            },
        )
        if not decision.allowed:
            raise ForbiddenError(
                f"Policy does not let {request.principal.id} ask {application.name}: {decision.reason}.",
                where="policy",
                next_step=f"`antiphon policy explain {request.principal.id} answer application/{application.name}` "
                "says what would have to hold.",
            )
        if release.number != 0:
            check_overrides(request, application)
        entity = entity_of(request, application.entity_keys)
        vector = None
        inputs: dict[str, InputValue] = {}
        if application.versions:
            with span("features"):
                read = partial(services.features(request.scope).read, application.features, entity, as_of)
                # A store on another machine may be slow to answer: the others' requests must not wait for it.
                if services.features_far:
                    vector = await asyncio.to_thread(read, request.minimum_publication)
                else:
                    vector = read(request.minimum_publication)
        remedies = await self._remedies(request, application, vector, as_of, entity, decision.masked)
        # A dataset's row has its on-demand features already; whoever asks says what they are made from.
        if request.inputs or not freshness.has_on_demand(application, vector.values if vector is not None else ()):
            inputs = on_demand.checked_inputs(application, request.inputs)
        return Prepared(
            arrival=arrival,
            assigned=assigned,
            application=application,
            decision=decision,
            as_of=as_of,
            reading=freshness.apply(vector, application, as_of, decision.masked, inputs, entity, remedies),
            question_hash=reuse.question_hash(request.question, inputs),
            inputs=inputs,
            # What was made with a column must not be served to whom it is masked for, nor the other way round.
            cache_namespace=None if decision.masked else cache_namespace(request, assigned),
        )

    async def _remedies(
        self,
        request: AnswerRequest,
        application: ApplicationSpec,
        vector: FeatureVector | None,
        as_of: datetime,
        entity: Mapping[str, str],
        masked: Sequence[str],
    ) -> dict[str, Remedied]:
        """What stands in for stale values; found in a thread, for a source or an older snapshot may be slow."""
        services, found = self._services, dict[str, Remedied]()
        if vector is None or vector.publication is None or services.remedies is None:
            return found
        for view in freshness.to_remedy(vector, application, as_of, masked):
            with span("remedy", {"antiphon.view": view}):
                (one,) = await asyncio.to_thread(
                    services.remedies.remedied,
                    request.scope,
                    (view, application.features[view]),
                    [entity],
                    as_of,
                    application.freshness[view],
                    vector.publication,
                )
            found.update(one)
        return found

    async def _assign(self, arrival: Arrival) -> Assigned:
        """The release that answers, whatever becomes live before the answer ends."""
        releases, request = self._services.releases, arrival.request
        if request.release is not None:
            release = releases.get(request.scope, request.release)
            if release.bundle.application.name != request.application:
                raise InvalidInputError(
                    f"Release {request.release} belongs to {release.bundle.application.name}.", where="release"
                )
            return as_requested(request, release)
        if arrival.takes_part:
            assigned = releases.assign(request.scope, request.application, arrival.unit, arrival.request_id)
            if assigned is not None:
                return assigned
        else:
            live = releases.live(request.scope, request.application)
            if live is not None:
                return as_requested(request, live)
        fallback = self._services.plain_fallback
        model = await self._engines.plain(request.application, fallback)
        if model is None or not self._services.plain(model.name):
            known = await asyncio.to_thread(releases.applications, request.scope)
            listed = "`GET /v1/models` lists what can be asked."
            raise NotFoundError(
                f"There is no application or model named {request.application!r}.",
                where="model",
                next_step=f"{nearest(request.application, known)} {listed}".strip(),
            )
        return as_requested(request, implicit_release(request, model, self._services.clock.now(), fallback))

    async def _ask(self, prepared: Prepared, target: Target) -> tuple[Member, Asked]:
        application = prepared.application
        engine, model = await self._engines.described(target)
        request = prepared.request
        raw: str | tuple[int, ...] | None = None
        if application.prompt.template or application.versions:
            user = prompts.render(
                application.prompt.template, self._names(prepared), f"application {application.name}, prompt"
            )
            conversation = prompts.turns(application, user)
        else:
            conversation = list(request.messages)
            raw = request.prompt_ids or request.prompt
        return engine, generation.ask(
            model,
            conversation,
            application.decoding,
            application.schema,
            request.overrides,
            raw_prompt=raw,
            classes=bool(application.classes),
            cache_salt=request.scope.tenant,
        )

    def _names(self, prepared: Prepared) -> dict[str, Any]:
        request = prepared.request
        return prompts.variables(prepared.application, prepared.reading.prints, request.entity, request.question)

    async def _stored(self, prepared: Prepared) -> Answer | None:
        """An answer made earlier about the same subject and question, when the application's rule lets it stand in."""
        request, application = prepared.request, prepared.application
        rule = application.reuse
        namespace = prepared.cache_namespace
        if namespace is None or rule.mode == "never" or not application.versions or wants_tokens(request):
            return None
        stored = self._services.stored.latest(
            request.scope, namespace, prepared.arrival.subject, prepared.question_hash, as_of=prepared.as_of
        )
        if stored is None:
            return None
        if request.refresh:  # a precomputing job makes it anew unless it would come out the same
            rule = msgspec.structs.replace(rule, mode="fingerprint")
        if not reuse.may_serve(stored, rule, fingerprint(prepared.reading.prints), prepared.as_of):
            return None
        return await self._commit.again(prepared, stored, "stored", stored.prompt_key if request.refresh else None)

    async def _degraded(self, prepared: Prepared, passed: tuple[PassedOver, ...]) -> Answer | None:
        """What the application's rule has in store for when no engine answers."""
        for stored, degraded in standing_in.candidates(self._services, prepared, self._resources.of):
            answer = await self._commit.again(prepared, stored, "stored", None, StandingIn(degraded, passed))
            if answer is not None:
                return answer
        return None

    async def _identical(self, prepared: Prepared, key: str) -> Answer | None:
        """An answer that an identical prompt was given before."""
        if not prepared.application.reuse.identical_prompts or wants_tokens(prepared.request):
            return None
        same = self._services.stored.by_prompt(prepared.request.scope, key)
        return None if same is None else await self._commit.again(prepared, same, "identical-prompt", key)

    async def _once(self, prepared: Prepared, asked: Asked, key: str | None, by: By) -> Answer:
        """The answer an identical prompt was given, or a new one; of several at once, one is generated."""
        if key is None or not prepared.application.reuse.identical_prompts:
            return await self._generate(prepared, asked, key, by)
        async with self._flights.alone((prepared.request.scope, key)):
            return await self._identical(prepared, key) or await self._generate(prepared, asked, key, by)

    async def _show_tokens(
        self, prepared: Prepared, asked: Asked, key: str | None, by: By
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        request, slo = prepared.request, prepared.application.slo
        sent = generation.to_engine(asked, request.path, 0, 0.0, traceparent(), slo, request.tier)
        first_byte = 0.0
        async with aclosing(generation.stream(by.engine, sent, self._deadline(prepared))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    first_byte = first_byte or prepared.arrival.seconds
                    yield TextDelta(event.text, event.tokens, event.prompt)
                else:
                    written = Written(event.finished.text, event.finished.reason, (event,), ())
                    yield await self._commit.generated(prepared, asked, written, key, first_byte, by.wrote)

    def _deadline(self, prepared: Prepared) -> float | None:
        request = prepared.request
        if request.path != "online":
            return None
        ours = self._services.flex_seconds if request.tier == "flex" else self._services.online_seconds
        limits = [limit for limit in (ours, request.timeout) if limit is not None]
        if not limits:
            return None
        return asyncio.get_running_loop().time() + min(limits) - prepared.arrival.seconds

    async def _generate(self, prepared: Prepared, asked: Asked, key: str | None, by: By) -> Answer:
        with span("generate", {GENAI["model"]: asked.model}):
            written = await generation.write(
                by.engine,
                asked,
                prepared.application,
                self._names(prepared),
                prepared.reading.prints,
                prepared.request.path,
                traceparent(),
                self._deadline(prepared),
                prepared.request.tier,
            )
        return await self._commit.generated(prepared, asked, written, key, 0.0, by.wrote)
