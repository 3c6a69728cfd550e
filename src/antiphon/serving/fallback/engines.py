"""The engines that an answer may come from: each with its breaker, in the order that an application names.

Invariants:
- What passes an engine over is that it is away, refuses for now, fails, or is late with its first token. What is wrong
  with the request itself is raised as it is: no other engine would make it right.
- Batch work asks the release's own engine alone and waits for it; breakers neither stop it nor learn from it.
- An engine that came back is found out without a request, where :meth:`Engines.probe_until_cancelled` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from antiphon.catalog.serving.receipt import SkippedEngine
from antiphon.core.circuit_breaker import BreakerPolicy, BreakerStatus, CallPermit, CircuitBreaker
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, EngineError, NotFoundError, OverloadedError, UnavailableError
from antiphon.core.ids import new_id
from antiphon.definitions.degradation import MAIN, Target, target_of
from antiphon.engine.api.messages import (
    ChatTurn,
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    ModelDescription,
)
from antiphon.engine.api.port import GenerationEngine
from antiphon.serving.fallback.passing import (
    FAILURES,
    LateError,
    LeftAloneError,
    PassingError,
    SlowStartError,
    counts_against,
    not_served,
    refusal,
)
from antiphon.serving.ports import SpendingReservation

_log = logging.getLogger("antiphon.gateway")

START_NOTICE_SECONDS = 3.0
"""An engine that starts says so every second."""

DESCRIPTION_SECONDS = 5.0
"""Lifetime of a description while the engine can be asked again."""


class FailoverPolicy(msgspec.Struct, frozen=True):
    """Limits after which an engine is passed over.

    Attributes:
        first_token: seconds that an online request waits for an engine's first token.
        start: seconds that it waits before for an engine that is being started.
        describe: seconds within which an engine must say what it serves.
    """

    first_token: float = 30.0
    start: float = 60.0
    describe: float = 5.0
    breaker: BreakerPolicy = BreakerPolicy()


class EnginePassedOver(Exception):
    """This engine does not answer; the next one may. ``error`` is what the caller is told when no other does."""

    def __init__(self, passed: SkippedEngine, error: AntiphonError) -> None:
        super().__init__(str(error))
        self.passed = passed
        self.error = error


class EngineRoute:
    """One engine behind its circuit breaker."""

    def __init__(self, name: str, engine: GenerationEngine, policy: FailoverPolicy, clock: Clock) -> None:
        self.name = name
        self.where = "engine" if name == MAIN else f"engine {name}"
        # Jitter is no secret.
        self.breaker = CircuitBreaker(name, policy.breaker, clock.monotonic, random.Random().random)
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._models: dict[str, ModelDescription] = {}
        self._described_at = float("-inf")
        self._stopped = False
        self._looking: asyncio.Task[AntiphonError | None] | None = None
        self._start_notice: tuple[float, float] | None = None
        self._breaker_opened = asyncio.Event()
        self._failed_model = ""
        self._gpus: int | None = None

    @property
    def starting(self) -> float | None:
        """Seconds until the engine is expected up, while requests of this process wait for its start."""
        if self._start_notice is None or self._clock.monotonic() - self._start_notice[0] > START_NOTICE_SECONDS:
            return None
        return self._start_notice[1]

    async def describe(self) -> EngineDescription:
        """The models that it serves, within a limit of time."""
        try:
            async with asyncio.timeout(self._policy.describe):
                return await self._engine.describe()
        except TimeoutError:
            raise UnavailableError(
                "The engine does not say what it serves.",
                where=self.where,
                next_step="See whether its process runs: `antiphon status`.",
            ) from None

    async def up(self) -> None:
        """Return once the engine is not stopped, or does not say."""
        if not self._stopped and self._clock.monotonic() - self._described_at <= DESCRIPTION_SECONDS:
            return
        with contextlib.suppress(*FAILURES):
            while (await self.describe()).stopped is not None:
                await asyncio.sleep(START_NOTICE_SECONDS)

    async def model(self, name: str) -> ModelDescription | None:
        """A model as it was described last; looked up again every few seconds, for an engine that restarted may have
        another fingerprint. An engine that cannot be asked serves what it served.

        Raises:
            EnginePassedOver: it cannot be asked and never was.
        """
        if name in self._models and self._clock.monotonic() - self._described_at <= DESCRIPTION_SECONDS:
            return self._models[name]
        # Of a thousand requests that come at once, one look is enough; who goes away leaves it to the others.
        looking = self._looking = self._looking or asyncio.create_task(self._look())
        failure = await asyncio.shield(looking)
        if failure is not None and name not in self._models:
            raise self._passed(name, failure) from failure
        return self._models.get(name)

    async def _look(self) -> AntiphonError | None:
        """Look up what the engine serves, or say why it cannot be asked."""
        permit = self.breaker.enter()
        failed: bool | None = None  # that it can describe itself does not say that it can generate
        try:
            if permit is None:
                return self._left_alone()
            described = await self.describe()
        except AntiphonError as error:
            failed = isinstance(error, FAILURES) or None
            return error
        finally:
            self._looking = None
            if permit is not None:
                self._record(permit, failed)
        self._models, self._stopped = {model.name: model for model in described.models}, described.stopped is not None
        self._described_at, self._gpus = self._clock.monotonic(), described.load.gpus
        return None

    async def generate(
        self, request: GenerationRequest, reservation: SpendingReservation | None = None
    ) -> AsyncGenerator[Delta | GenerationResult, None]:
        """See the engine behind. What the request may cost is reserved before, where there is a reservation.

        Raises:
            EnginePassedOver: it did not begin; for batch work the error itself.
            BudgetExhaustedError: a budget has no room for it.
        """
        if reservation is not None:
            await reservation.reserve(request, self._gpus)
        if request.priority == "batch":
            async with aclosing(self._engine.generate(request)) as events:
                async for one in events:
                    if not _tells_start(one):
                        yield one
            return
        permit = self.breaker.enter()
        if permit is None:
            raise self._passed(request.model, self._left_alone())
        failed: bool | None = None
        try:
            if permit.probe:
                # A user is not made to wait for the first token of an engine that hangs: it is to give a sign of life.
                await self.describe()
            async with aclosing(self._engine.generate(request)) as events:
                event: Delta | GenerationResult | None = await self._first(events)
                while event is not None and not (isinstance(event, GenerationResult) and event.reason == "cancelled"):
                    failed = False
                    yield event
                    if isinstance(event, GenerationResult):
                        return
                    event = await anext(events, None)
            raise EngineError("The engine gave the text up before its end.", where=self.where, next_step="Try again.")
        except AntiphonError as error:
            failed = counts_against(error)
            if failed:
                self._failed_model = request.model
            if isinstance(error, (*FAILURES, OverloadedError, NotFoundError)):
                raise self._passed(request.model, error) from error
            raise
        finally:
            self._record(permit, failed)

    async def probe_until_cancelled(self) -> None:
        """Probe the engine whenever its breaker's wait is over, while that is open: requests need not come for it to
        close. Of a closed one nothing is asked."""
        while True:
            await self._breaker_opened.wait()
            while not self.breaker.is_closed:
                # A request may be the probe; and an engine that is full is not asked over and over.
                await asyncio.sleep(max(self.breaker.wait, self._policy.breaker.first_wait))
                await self._probe()
            self._breaker_opened.clear()

    async def _probe(self) -> None:
        """Have the engine say what it serves, and make one token with the model that failed last: one that describes
        itself may still hang. An engine that is stopped is not started for it."""
        permit = self.breaker.enter()
        if permit is None:
            return
        failed: bool | None = None
        try:
            described = await self.describe()
            models = {model.name: model for model in described.models}
            model = models.get(self._failed_model) or next(iter(models.values()), None)
            if described.stopped is None and model is not None:
                async with aclosing(self._engine.generate(_probe_of(model))) as events:
                    if await self._first(events) is None:
                        raise EngineError("The engine gave no token.", where=self.where, next_step="Try again.")
            failed = False
        except AntiphonError as error:
            failed = counts_against(error)
        except Exception:
            _log.exception("The engine %s is probed again later", self.name)
        finally:
            self._record(permit, failed, counted=False)

    def _record(self, permit: CallPermit, failed: bool | None, *, counted: bool = True) -> None:
        self.breaker.record(permit, failed=failed, counted=counted)
        if failed and not self.breaker.is_closed:
            self._breaker_opened.set()

    async def _first(self, events: AsyncGenerator[Delta | GenerationResult, None]) -> Delta | GenerationResult | None:
        """The first event that is one of the text; while the engine is being started another patience counts."""
        loop = asyncio.get_running_loop()
        until, start_until = loop.time() + self._policy.first_token, 0.0
        while True:
            try:
                async with asyncio.timeout_at(until):
                    event = await anext(events, None)
            except TimeoutError:
                raise (self._start_is_slow() if until == start_until else self._is_late()) from None
            if not isinstance(event, Delta) or event.starting is None:
                return event
            if event.starting == 0.0:  # It is up.
                self._start_notice, until = None, loop.time() + self._policy.first_token
                continue
            self._start_notice = (self._clock.monotonic(), event.starting)
            until = start_until = start_until or loop.time() + self._policy.start
            if loop.time() + event.starting > until:
                raise self._start_is_slow()

    def _is_late(self) -> AntiphonError:
        return LateError(
            f"The engine gave no first token within {self._policy.first_token:g} s.",
            where=self.where,
            next_step="Try again when it is less busy, or raise `first_token` under [engine].",
        )

    def _start_is_slow(self) -> AntiphonError:
        error = SlowStartError(
            f"The engine is being started, which takes longer than the {self._policy.start:g} s that a request waits.",
            where=self.where,
            next_step="Ask again after the time that Retry-After says, or raise `patience` under [scaling].",
        )
        error.retry_after = self.starting or error.retry_after
        return error

    def _left_alone(self) -> AntiphonError:
        error = LeftAloneError(
            "The engine failed and is left alone for a moment.",
            where=self.where,
            next_step="Ask again after the time that Retry-After says.",
        )
        error.retry_after = self.breaker.wait
        return error

    def _passed(self, model: str, error: AntiphonError) -> EnginePassedOver:
        reason = error.reason if isinstance(error, PassingError) else error.code
        if isinstance(error, FAILURES):
            error.where = self.where  # Where its socket lies, or its server, is nothing for callers.
        return EnginePassedOver(SkippedEngine(self.name, model, reason), error)


class Engines:
    """The main engine and those that may stand in for it, by name."""

    def __init__(
        self, main: GenerationEngine, standbys: Mapping[str, GenerationEngine], policy: FailoverPolicy, clock: Clock
    ) -> None:
        self.main = EngineRoute(MAIN, main, policy, clock)
        self._members = {MAIN: self.main} | {
            name: EngineRoute(name, engine, policy, clock) for name, engine in standbys.items()
        }

    async def described(self, target: Target) -> tuple[EngineRoute, ModelDescription]:
        """An engine and its model; raises ``EnginePassedOver`` for none, one that is away, or that does not serve the
        model."""
        member = self._members.get(target.engine)
        if member is None:
            error = UnavailableError(
                f"There is no engine named {target.engine!r}.",
                where="fallback",
                next_step=f"Declare [engines.{target.engine}] in antiphon.toml.",
            )
            raise _passed_over(target, error)
        model = await member.model(target.model)
        if model is None:
            raise _passed_over(target, not_served(target.model, member.where))
        return member, model

    async def plain(self, name: str, fallback: Sequence[str]) -> ModelDescription | None:
        """A plain model as its engine, or one of its fallback, describes it; ``None``: the engine has none such. Raises
        ``UnavailableError`` when none of them can be asked."""
        try:
            return await self.main.model(name)
        except EnginePassedOver as error:
            for named in fallback:
                with contextlib.suppress(EnginePassedOver):
                    _, model = await self.described(target_of(named, name))
                    return msgspec.structs.replace(model, name=name)
            raise refusal([error.error], self.main.breaker.wait) from error

    def wait(self, targets: Sequence[Target]) -> float:
        """Seconds until the first of these engines may be asked."""
        members = (self._members.get(target.engine) for target in targets)
        return min((member.breaker.wait for member in members if member is not None), default=0.0)

    async def probe_until_cancelled(self) -> None:
        """Probe engines whose breakers are open, each by itself."""
        async with asyncio.TaskGroup() as probing:
            for member in self._members.values():
                probing.create_task(member.probe_until_cancelled())

    @property
    def breakers(self) -> tuple[BreakerStatus, ...]:
        """Every engine's breaker, the main one's first."""
        return tuple(member.breaker.status for member in self._members.values())


class ReservedEngines(Engines):
    """The engines of one request: each generation is reserved for before it is dispatched."""

    def __init__(self, engines: Engines, reservation: SpendingReservation) -> None:
        self.main, self._members = engines.main, engines._members
        self._reservation = reservation

    async def described(self, target: Target) -> tuple[EngineRoute, ModelDescription]:
        """See :class:`Engines`."""
        member, model = await super().described(target)
        return _ReservedRoute(member, self._reservation), model


class _ReservedRoute(EngineRoute):
    """A route for one request."""

    def __init__(self, route: EngineRoute, reservation: SpendingReservation) -> None:
        self.name, self.where, self.breaker = route.name, route.where, route.breaker
        self._route, self._reservation = route, reservation

    def generate(
        self, request: GenerationRequest, reservation: SpendingReservation | None = None
    ) -> AsyncGenerator[Delta | GenerationResult, None]:
        """See :class:`EngineRoute`."""
        return self._route.generate(request, reservation or self._reservation)


def _passed_over(target: Target, error: UnavailableError) -> EnginePassedOver:
    return EnginePassedOver(SkippedEngine(target.engine, target.model, "not_found"), error)


def _probe_of(model: ModelDescription) -> GenerationRequest:
    """The shortest generation that there is."""
    turns = () if model.chat_template else (ChatTurn("user", "."),)
    return GenerationRequest(new_id("probe"), model.name, "" if turns else ".", 1, messages=turns, spare=True)


def _tells_start(event: Delta | GenerationResult) -> bool:
    return isinstance(event, Delta) and event.starting is not None
