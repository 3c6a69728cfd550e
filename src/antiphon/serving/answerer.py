"""answer(): decide → features → prompt → generate → guard → receipt. Both paths, every prediction.

Invariants: an :class:`Answer` leaves this module only after its receipt is committed, together with the texts
and the stored answer it names. A request is assigned to a release once and ends with it. Of a request that failed
nothing is stored but, in a rollout, that a user of that arm got no answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from functools import partial

import msgspec
from opentelemetry.trace import SpanKind

from antiphon.catalog.releases.rollouts import Assignment
from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.catalog.serving.receipt import SkippedEngine
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.clock import utc
from antiphon.core.errors import (
    AntiphonError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PrecomputedOnlyError,
    PromptTooLongError,
    UnavailableError,
    UnsatisfiableSchemaError,
)
from antiphon.core.telemetry import GENAI, PROVIDER, describe, span
from antiphon.definitions.degradation import Target
from antiphon.definitions.on_demand import InputValue
from antiphon.engine.api.messages import Delta
from antiphon.governance.policy.request import Decision
from antiphon.serving.answering import generation, receipts, reuse, summaries
from antiphon.serving.answering.context import (
    AnswerContext,
    Arrival,
    Generation,
    arrive,
    as_requested,
    cache_namespace,
    entity_of,
)
from antiphon.serving.answering.deduplication import SingleFlight, ahead
from antiphon.serving.answering.generation import GenerationSpec, GuardedText
from antiphon.serving.answering.guarded import generate_guarded
from antiphon.serving.answering.guards.check import OutputCheck
from antiphon.serving.answering.guards.judging import JudgeCalls
from antiphon.serving.answering.narrowing import narrowed
from antiphon.serving.answering.overrides import check_overrides
from antiphon.serving.answering.policy import ReleaseResources, policy_context, require_allowed
from antiphon.serving.answering.recollection import Recollection, check_masked
from antiphon.serving.answering.recorder import AnswerRecorder
from antiphon.serving.answering.retrieval import retrieve
from antiphon.serving.answering.tool_rounds import ToolRounds
from antiphon.serving.builtin import PLAIN_PURPOSE, implicit_release, unanswered
from antiphon.serving.fallback import substitutes
from antiphon.serving.fallback.engines import EnginePassedOver, Engines, ReservedEngines
from antiphon.serving.fallback.passing import not_served, refusal
from antiphon.serving.features import on_demand, reading
from antiphon.serving.history import History
from antiphon.serving.request import Answer, AnswerRequest, TextDelta
from antiphon.serving.services import Services
from antiphon.serving.shadow import Shadows


class Answerer:
    """Answers requests with the services it was given."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._engines = Engines(services.engine, services.standbys, services.failover, services.clock)
        self._resources = ReleaseResources()
        self._recollection = Recollection(services.conversations, services.releases, services.subject_key)
        self._tools, self._flights = ToolRounds(services), SingleFlight()
        self._recorder = AnswerRecorder(services, self._recollection)
        self._shadows = Shadows(
            self.answer, self._recorder.record_unpaired, services.clock, services.shadow_limits, self._engines.main.up
        )

    async def answer(self, request: AnswerRequest) -> Answer:
        """The whole answer at once.

        Raises:
            NotFoundError, InvalidInputError, ForbiddenError, FeatureUnavailableError, PromptTooLongError,
            UnsatisfiableSchemaError, UnservableReleaseError, InvalidOutputError, EngineError, DeadlineExceededError,
            UnavailableError, OverloadedError.
        """
        async with aclosing(self._run(request, streaming=False)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise UnavailableError("The answer ended without a receipt.", where="serving")

    def stream(self, request: AnswerRequest) -> AsyncGenerator[TextDelta | Answer, None]:
        """Text as it may be shown, then the :class:`Answer`. Closing the iterator frees the engine's slot.

        A guarded or structured application's text is shown sentence by sentence, or property by property, as each has
        passed.
        """
        return self._run(request, streaming=True)

    @property
    def breakers(self) -> tuple[BreakerStatus, ...]:
        """The state of each engine's breaker in this process."""
        return self._engines.breakers

    async def probe_until_cancelled(self) -> None:
        """Probe engines whose breakers are open, so that they close while no request comes."""
        await self._engines.probe_until_cancelled()

    @property
    def starting(self) -> float | None:
        """Seconds until the main engine is expected up, while requests of this process wait for its start."""
        return self._engines.main.starting

    @property
    def shadows(self) -> Counter[str]:
        """Counts of mirrored requests since this process started; see :class:`Shadows`."""
        return self._shadows.counts

    async def close(self) -> None:
        """Let the shadows under way end, within a bound; answers are mirrored no longer."""
        await self._shadows.close()

    # The pipeline. Every other method below is one of its steps, in order.

    async def _run(self, request: AnswerRequest, *, streaming: bool) -> AsyncGenerator[TextDelta | Answer, None]:
        """Answer a request; without ``streaming`` no text is given before the answer."""
        arrived = time.perf_counter()
        with span("answer", {"antiphon.application": request.application, "antiphon.path": request.path},
                  traceparent=request.traceparent):  # fmt: skip
            async with self._services.admission.enter("flex" if request.tier == "flex" else request.path):
                arrival = arrive(request, self._services.subject_key, arrived)
                assigned = await self._assign(arrival)
                history = self._recollection.recall(arrival, assigned)
                assigned = self._recollection.assigned(arrival, assigned, history)
                context: AnswerContext | None = None
                served: Answer | None = None
                try:
                    # Decide, features, then an answer that was made earlier.
                    context = await self._decide_and_read(arrival, assigned, history)
                    answer = await self._stored(context)

                    # Prompt, generate, guard: on the release's own engine, then on each of its fallbacks.
                    mode = self._services.precomputed(request.scope, request.application) if answer is None else None
                    mode = mode if context.interactive else None
                    streamed, beginning = False, ""
                    passed_over: tuple[SkippedEngine, ...] = ()
                    failures: list[AntiphonError] = []
                    targets = substitutes.targets(context) if answer is None and mode is None else ()
                    trying = deque(targets)
                    shorter: History | None = None
                    while trying:
                        target, deadline = trying.popleft(), self._deadline(context)
                        shown, beginning = False, ""
                        try:
                            if shorter is not None:
                                context = await summaries.apply(self._of(context), context, target, shorter, deadline)
                                shorter = None
                            engine, model = await self._of(context).described(target)
                            context = await self._tools.called(engine.generate, model, context, deadline)
                            spec = generation.specify(context, model)
                            key = None if passed_over else reuse.prompt_key_of(context, spec)
                            if not context.streams_tokens:
                                parts = self._guarded(context, spec, key, target, passed_over, streaming)
                                async with aclosing(ahead(parts) if streaming else parts) as passing:
                                    async for part in passing:
                                        if isinstance(part, Answer):
                                            answer = part
                                            continue
                                        shown, beginning = True, beginning + part.text
                                        yield part
                                break
                            answer = await self._identical(context, key)
                            if answer is not None:
                                break
                            first_byte: float | None = None
                            whole: Generation | None = None
                            slo, continues = context.application.slo, context.continues
                            sent = generation.engine_request(spec, request, slo, continues=continues)
                            async with aclosing(generation.generate(engine.generate, sent, deadline)) as events:
                                async for event in events:
                                    if not isinstance(event, Delta):
                                        whole = event
                                        continue
                                    first_byte = first_byte or arrival.seconds
                                    if streaming:
                                        shown = True
                                        yield TextDelta(event.text, event.tokens, event.prompt)
                            assert whole is not None
                            text = GuardedText(whole.finished.text, whole.finished.reason, (whole,), ())
                            draft = receipts.generated(context, spec, text, key, engine.name, passed_over, first_byte)
                            answer, streamed = await self._recorder.record(context, draft), True
                            break
                        except EnginePassedOver as error:
                            # Shown text stays: another engine would not go on where this one stopped.
                            if shown:
                                raise error.error from error
                            passed_over += (error.passed,)
                            failures.append(error.error)
                        except PromptTooLongError as error:
                            if shown:
                                raise
                            # The same engine again, with fewer of the earlier turns.
                            shorter = summaries.shortened(context, error)
                            trying.appendleft(target)
                        except UnsatisfiableSchemaError as error:
                            raise generation.unservable(context, error) from error
                        except DeadlineExceededError as error:
                            if shown:
                                raise
                            passed_over += (SkippedEngine(target.engine, target.model, error.code),)
                            failures.append(error)
                            break  # No time is left for another engine; a stored answer takes none.

                    # No engine answered, or none may: a stored answer, where the application lets it be served.
                    if answer is None:
                        answer = await self._degraded(context, passed_over, stored_alone=mode is not None)
                    if answer is None and mode is not None:
                        raise substitutes.not_in_store(mode, self._services.clock.now())
                    if answer is None:
                        raise refusal(failures, self._engines.wait(targets))
                    if streaming and not streamed:
                        yield TextDelta(answer.text[len(beginning) :], answer.tokens)
                    served = answer
                    yield answer
                except Exception as error:
                    # A lack of room says nothing about the release that would have answered, nor does an order.
                    if served is None and not isinstance(error, OverloadedError | PrecomputedOnlyError):
                        publication = context.reading.publication if context is not None else None
                        await self._recorder.record_failure(arrival, assigned, publication, error)
                    raise
                finally:
                    if context is not None and context.reservation is not None:
                        context.reservation.end()
                    if served is not None and context is not None:
                        self._shadows.offer(arrival, assigned, served, context.history)

    async def _assign(self, arrival: Arrival) -> Assignment:
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
        granted_purpose = self._services.granted_purpose(request.scope, request.application)
        model = await self._engines.plain(request.application, fallback)
        if model is None and granted_purpose is not None:
            raise not_served(request.application, self._engines.main.where)
        if model is None or (granted_purpose is None and not self._services.plain(model.name)):
            raise await asyncio.to_thread(unanswered, releases, request)
        purpose, now = granted_purpose or PLAIN_PURPOSE, self._services.clock.now()
        return as_requested(request, implicit_release(request, model, now, fallback, purpose))

    async def _decide_and_read(self, arrival: Arrival, assigned: Assignment, history: History) -> AnswerContext:
        """The policy decision and the features: all that is known before a token is generated."""
        services, request, release = self._services, arrival.request, assigned.release
        application = narrowed(release.bundle.application, request.only)
        as_of = utc(request.as_of) if request.as_of is not None else services.clock.now()
        decision: Decision = services.decide(
            request.principal,
            "answer",
            self._resources.of(release),
            policy_context(
                request.scope, application.purpose, request.path, request.originating_user, request.entity, as_of
            ),
        )
        require_allowed(decision, request.principal, application.name)
        check_masked(history, decision.masked)
        if release.number != 0:
            check_overrides(request, application)
        entity = entity_of(request, application.entity_keys)
        vector = None
        if application.features or application.on_demand:
            with span("features"):
                read = partial(services.features(request.scope).read, application.features, entity, as_of)
                # A store on another machine may be slow to answer: other requests must not wait for it.
                if services.features_far:
                    vector = await asyncio.to_thread(read, request.minimum_publication)
                else:
                    vector = read(request.minimum_publication)
        remedies = await reading.substitutes(
            services.remedies, request.scope, application, vector, as_of, entity, decision.masked
        )
        inputs: dict[str, InputValue] = {}
        # A dataset's row has its on-demand features already; a request brings their inputs.
        if request.inputs or not reading.has_on_demand(application, vector.values if vector is not None else ()):
            inputs = on_demand.checked_inputs(application, request.inputs)
        retrieved = await retrieve(services.retrieve, request, application, inputs, as_of, decision.masked, vector)
        features = reading.apply_contracts(vector, application, as_of, decision.masked, inputs, entity, remedies)
        return AnswerContext(
            arrival=arrival,
            assigned=assigned,
            application=application,
            decision=decision,
            as_of=as_of,
            reading=retrieved.beside(features),
            retrieved=retrieved,
            question_hash=reuse.question_hash(request.question, inputs),
            inputs=inputs,
            # An answer made with a column must not be served to a principal for whom it is masked, nor the reverse.
            cache_namespace=None
            if decision.masked or application.tools
            else cache_namespace(request, assigned, history),
            history=history,
            reservation=services.spending(request),
        )

    def _of(self, context: AnswerContext) -> Engines:
        """The engines of a request: with its reservations, where a budget concerns it."""
        return self._engines if context.reservation is None else ReservedEngines(self._engines, context.reservation)

    async def _stored(self, context: AnswerContext) -> Answer | None:
        """An earlier answer about the same subject and question, where the application's rule lets it be served."""
        request, rule, namespace = context.request, context.application.reuse, context.cache_namespace
        if namespace is None or rule.mode == "never" or not context.application.versions or context.reports_tokens:
            return None
        stored = self._services.stored.latest(
            request.scope, namespace, context.arrival.subject, context.question_hash, as_of=context.as_of
        )
        if stored is None:
            return None
        if request.refresh:  # a precomputing job makes it anew unless it would come out the same
            rule = msgspec.structs.replace(rule, mode="fingerprint")
        if not reuse.may_serve(stored, rule, context.reading.fingerprint, context.as_of):
            return None
        text = self._text_of(context, stored)
        if text is None:
            return None
        key = stored.prompt_key if request.refresh else None
        return await self._recorder.record(context, receipts.served_again(stored, text, "stored", prompt_key=key))

    async def _identical(self, context: AnswerContext, key: str | None) -> Answer | None:
        """The answer that an identical prompt was given before."""
        if key is None or not context.application.reuse.identical_prompts or context.reports_tokens:
            return None
        stored = self._services.stored.by_prompt(context.request.scope, key)
        text = None if stored is None else self._text_of(context, stored)
        if stored is None or text is None:
            return None
        return await self._recorder.record(
            context, receipts.served_again(stored, text, "identical-prompt", prompt_key=key)
        )

    async def _guarded(
        self,
        context: AnswerContext,
        spec: GenerationSpec,
        key: str | None,
        target: Target,
        passed_over: tuple[SkippedEngine, ...],
        streaming: bool,
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """The answer to an identical prompt, or a new one that passed its guards, as much before it as may be shown; of
        several identical prompts at once, one is generated."""
        engines = self._of(context)
        engine, _ = await engines.described(target)
        judges = JudgeCalls(engines, target, context.request)
        check = OutputCheck(context.application, context.evidence, self._services.guard_functions, judges.verdict)
        text: GuardedText | None = None
        shared = key is not None and context.application.reuse.identical_prompts
        async with self._flights.alone((context.request.scope, key)) if shared else nullcontext():
            answer = await self._identical(context, key)
            if answer is not None:
                yield answer
                return
            deadline = self._deadline(context)
            attributes = {
                GENAI["operation"]: "text_completion",
                GENAI["provider"]: PROVIDER,
                GENAI["model"]: spec.model,
            }
            with span(f"text_completion {spec.model}", attributes, kind=SpanKind.CLIENT) as opened:
                made = generate_guarded(engine.generate, spec, context, check, deadline, streaming=streaming)
                async with aclosing(made) as parts:
                    async for part in parts:
                        if isinstance(part, GuardedText):
                            text = part
                        else:
                            yield part
                assert text is not None
                describe(opened, text.attributes)
            kept = None if text.resumed else key
            draft = receipts.generated(
                context, spec, text, kept, engine.name, passed_over, text.first_byte, judges.usages
            )
            yield await self._recorder.record(context, draft)

    async def _degraded(
        self, context: AnswerContext, passed_over: tuple[SkippedEngine, ...], *, stored_alone: bool
    ) -> Answer | None:
        """The stored answer that the application lets be served when no engine answers, or none may."""
        for stored, degraded in substitutes.candidates(self._services, context, self._resources, stored_alone):
            text = self._text_of(context, stored)
            if text is not None:
                draft = receipts.served_again(stored, text, "stored", degraded=degraded, passed_over=passed_over)
                return await self._recorder.record(context, draft)
        return None

    def _text_of(self, context: AnswerContext, stored: StoredAnswer) -> str | None:
        """The text of a stored answer; ``None`` once it is erased."""
        try:
            return self._services.texts.get(context.request.scope, stored.text_blob).decode()
        except NotFoundError:
            return None

    def _deadline(self, context: AnswerContext) -> float | None:
        """The event loop's time by which the text must be finished; batch work has none."""
        request = context.request
        if request.path != "online":
            return None
        ours = self._services.flex_seconds if request.tier == "flex" else self._services.online_seconds
        limits = [limit for limit in (ours, request.timeout) if limit is not None]
        if not limits:
            return None
        return asyncio.get_running_loop().time() + min(limits) - context.arrival.seconds
