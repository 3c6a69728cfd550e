"""One engine over many: requests go to the instances that have joined, by affinity and load.

Invariants:
- A generation of which nothing was shown goes on elsewhere when its instance is away, drains, is full or fails; one
  that has shown something ends with the error, because another instance might write another text.
- A request that two instances failed under is given to no third: it may be the cause.
- One that is drained is given no new request, and what is in it goes on to its end.
- An instance that cannot be reached is asked last, and not by requests: a probe finds out when it is back.
- One that has requests and says nothing is asked whether it is there; if it does not answer, what is in it fails and
  goes on elsewhere, long before TCP would say that it has vanished.
- While the list of instances cannot be read, those that are known stay.
- Where one instance is active at a time (``patience``), a request waits for the one that takes over, and an error that
  the active one itself tells is not taken elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TypeVar

from antiphon.core.errors import AntiphonError, EngineError, NotFoundError, OverloadedError, UnavailableError
from antiphon.core.ids import new_id
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    EngineInstance,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    Priority,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
)
from antiphon.engine.routing.attempts import Attempts
from antiphon.engine.routing.merged import merged
from antiphon.engine.routing.placement import affinity_key, least_loaded, place
from antiphon.engine.routing.route import Route

_log = logging.getLogger("antiphon.engine")

LOOK_SECONDS = 1.0
"""Interval of reading the list of instances."""

FRESH_SECONDS = 0.05
"""A list of this age is not read again for a request that found no instance."""

MEMORY_SECONDS = 10.0
"""Instances stay for so long after the list could not be read: they had no way to renew their leases either."""

DESCRIBE_SECONDS = 1.5

_UNLISTED = EngineInstance(
    name="", process="", host="", socket="", address="", models={}, embedders={}, load=EngineLoad()
)
"""Stands for an engine that has not joined."""

T = TypeVar("T")
Choice = Callable[[bytes, Sequence[Route], Priority], Route]


class RoutedEngine:
    """Implements :class:`~antiphon.engine.api.port.Engine` over the instances of a project.

    Args:
        living: lists the instances that have joined; raises ``UnavailableError`` while that cannot be read.
        client: makes the client of an instance.
        choose: chooses among instances for the beginning of a prompt.
        patience: seconds that a request waits for an instance where one of them is active at a time.
        reserve: reaches this machine's first engine, or what stands in for it while it is stopped; it is asked while no
            instance has joined.
    """

    def __init__(
        self,
        living: Callable[[], Awaitable[Sequence[EngineInstance]]],
        client: Callable[[EngineInstance], EngineClient],
        *,
        choose: Choice | None = None,
        patience: float = 0.0,
        reserve: EngineClient | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._living = living
        self._client = client
        self._place = choose or by_affinity
        self._patience = patience
        self._monotonic = monotonic
        self._routes: dict[str, Route] = {}
        self._reserve = None if reserve is None else Route(_UNLISTED, reserve)
        self._declared: tuple[ServedModel, ...] | None = None
        self._read_at = self._unread_at = float("-inf")
        self._reading = asyncio.Lock()
        self._listed = asyncio.Condition()
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """True while an instance that has joined is there: an error that it answers is its own word."""
        return any(route.joined and route.client.connected for route in self._routes.values())

    async def describe(self) -> EngineDescription:
        """See :class:`~antiphon.engine.api.port.Engine`: every model that any instance serves, and all their load;
        those that are drained are named among the instances alone."""
        await self._know()
        joined = [route for route in self._routes.values() if route.joined]
        if not joined and self._reserve is not None:
            return await self._reserve.client.describe()
        answers = await asyncio.gather(*(self._described(route) for route in joined))
        instances = tuple(route.shown for route in joined)
        found = [(route, described) for route, described in zip(joined, answers, strict=True) if described is not None]
        if not found:
            raise _unavailable(len(instances))
        serving = [one for route, one in found if route.open] or [one for _, one in found]
        return merged(new_id("describe"), serving, instances)

    async def describe_when_online(self, seconds: float) -> EngineDescription:
        """Like :meth:`describe`, as soon as an online request is in any instance, at the latest after ``seconds``."""
        await self._know()
        waiting = [
            asyncio.create_task(_settled(route.client.describe_when_online(seconds)))
            for route in self._routes.values()
            if route.joined and route.reachable
        ]
        if not waiting and self._reserve is not None:
            return await self._reserve.client.describe_when_online(seconds)
        if waiting:
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        return await self.describe()

    async def hold_batch(self, seconds: float, host: str | None = None) -> EngineDescription:
        """Like :meth:`describe`, once the instances of one host, by default all, hold batch generations for so many
        seconds; 0 lets them go on."""
        await self._know()
        routes = [
            route
            for route in self._routes.values()
            if route.joined and route.reachable and host in (None, route.instance.host)
        ]
        await asyncio.gather(*(_settled(route.client.hold_batch(seconds)) for route in routes))
        return await self.describe()

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        """Declare to every instance, and to those that join later; see
        :class:`~antiphon.engine.api.port.Engine`."""
        await self._know()
        self._declared = tuple(models)
        joined = [route for route in self._routes.values() if route.joined]
        if not joined and self._reserve is not None:
            return await self._reserve.client.serve(models)
        errors = await asyncio.gather(*(_failure(route.client.serve(models)) for route in joined))
        for error in errors:
            if error is not None and not isinstance(error, UnavailableError):
                raise error
        return await self.describe()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        await self._know()
        key = affinity_key(request)
        attempts = Attempts()
        while True:
            route = await self._choose(request.model, request.priority, attempts, key)
            shown = False
            unseen: list[Delta | GenerationResult] = []
            try:
                with self._carried(route, request.priority):
                    async with aclosing(route.client.generate(request)) as events:
                        async for event in events:
                            if isinstance(event, Delta) and event.starting is not None:
                                yield event
                                continue
                            unseen.append(event)
                            # Tokens without a text yet are held back: they would come again from elsewhere.
                            if isinstance(event, GenerationResult) or event.text or event.prompt:
                                shown = True
                                for one in unseen:
                                    yield one
                                unseen.clear()
                return
            except (UnavailableError, EngineError, OverloadedError, NotFoundError) as error:
                own = await self._is_its_own(route)
                if not own:
                    self._mark(route, error)
                if shown or own:
                    raise
                attempts.failed(route, error)

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See :class:`~antiphon.engine.api.port.Engine`; the least loaded instance embeds."""
        return await self._once(request.model, request.priority, lambda client: client.embed(request))

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.Engine`."""
        return await self._once(request.model, "online", lambda client: client.tokenize(request))

    async def close(self) -> None:
        tasks = [*self._tasks, *(() if self._looking is None else (self._looking,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looking = None
        routes, self._routes = list(self._routes.values()), {}
        for route in (*routes, *(() if self._reserve is None else (self._reserve,))):
            await route.client.close()

    async def _once(self, model: str, priority: Priority, ask: Callable[[EngineClient], Awaitable[T]]) -> T:
        await self._know()
        attempts = Attempts()
        while True:
            route = await self._choose(model, priority, attempts, None)
            try:
                with self._carried(route, priority):
                    return await ask(route.client)
            except (UnavailableError, EngineError, OverloadedError, NotFoundError) as error:
                if await self._is_its_own(route):
                    raise
                self._mark(route, error)
                attempts.failed(route, error)

    def _carried(self, route: Route, priority: Priority) -> AbstractContextManager[None]:
        """Counts a request while it is in an instance, of which it is found out whether it is still there."""
        self._doubt(route)
        return route.carrying(priority)

    def _doubt(self, route: Route) -> None:
        """Probe an instance that has said nothing for a while."""
        if route.client.silent_seconds > LOOK_SECONDS:
            self._probe(route)

    async def _is_its_own(self, route: Route) -> bool:
        """True if an error is the word of the one active instance, which no other would make right."""
        if not self._patience or not route.client.connected:
            return False
        await self._read()
        return route.joined

    async def _choose(self, model: str, priority: Priority, attempts: Attempts, key: bytes | None) -> Route:
        """The instance for a request that some did not take.

        Raises:
            AntiphonError: the first refusal, when there is no other instance.
        """
        if attempts.over:
            raise attempts.refusal()
        found = self._open(model, attempts)
        # Those that are away may have successors that are not known yet.
        away = not any(route.reachable for route in found)
        if away and self._monotonic() - self._read_at > FRESH_SECONDS:
            await self._read()
            found = self._open(model, attempts)
        if not found and self._patience:
            found = await self._taken_over(model, attempts)
        if not found and self._reserve is not None and self._reserve not in attempts.tried:
            return self._reserve
        if not found:
            raise attempts.refusal() if attempts.errors else _unavailable(len(self._routes))
        return self._place(key, found, priority) if key is not None else _by_load(found, priority)

    async def _taken_over(self, model: str, attempts: Attempts) -> list[Route]:
        """The instances once one of them has taken over; none if none does in time."""
        found: list[Route] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience), self._listed:
                while not (found := self._open(model, attempts)):
                    await self._listed.wait()
        return found

    def _open(self, model: str, attempts: Attempts) -> list[Route]:
        """Instances that were not asked yet: those that serve the model and can be reached, if there are such."""
        found = [route for route in self._routes.values() if route.open and route not in attempts.tried]
        # What the catalog says of models is a moment old: where none is said to serve it, all are asked.
        serving = [route for route in found if route.serves(model)] or found
        return [route for route in serving if route.reachable] or serving

    def _mark(self, route: Route, error: AntiphonError) -> None:
        if isinstance(error, UnavailableError | EngineError) and route is not self._reserve:
            route.reachable = False
            self._probe(route)

    async def _know(self) -> None:
        """Make sure that the instances are known, and go on looking for others."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        if self._read_at == float("-inf"):
            await self._read()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for route in self._routes.values():
                if route.in_flight:
                    self._doubt(route)
            try:
                await self._read()
            except Exception:  # Routing goes on with what is known.
                _log.exception("the list of engines cannot be read; trying again")

    async def _read(self) -> None:
        begun_at = self._monotonic()
        async with self._reading:
            if self._read_at > begun_at:
                return
            try:
                living = await self._living()
            except UnavailableError:
                self._unread_at = self._monotonic()
                return
            self._read_at = self._monotonic()
            remembered = self._read_at - self._unread_at < MEMORY_SECONDS
            listed, names = {one.process: one for one in living}, {one.name for one in living}
            for process, instance in listed.items():
                if (route := self._routes.get(process)) is None:
                    route = self._routes[process] = Route(instance, self._client(instance))
                    self._tell(route)
                route.report(instance)
            for process, route in list(self._routes.items()):
                stays = remembered and route.joined and route.instance.name not in names
                route.joined = process in listed or stays
                if not route.joined and not route.in_flight:
                    del self._routes[process]
                    self._begin(route.client.close())
                elif not (route.joined and route.reachable):
                    self._probe(route)
        async with self._listed:
            self._listed.notify_all()

    def _tell(self, route: Route) -> None:
        """Declare to an instance that has just joined what the others were told."""
        if self._declared is not None:
            self._begin(self._declare(route, self._declared))

    async def _declare(self, route: Route, models: tuple[ServedModel, ...]) -> None:
        error = await _failure(route.client.serve(models))
        if error is not None:
            _log.warning("%s does not serve every declared model: %s", route.instance.name, error)

    def _probe(self, route: Route) -> None:
        if not route.probing:
            route.probing = True
            self._begin(self._probed(route))

    async def _probed(self, route: Route) -> None:
        """See whether an instance answers. One that does not is let go if its lease is over, and what is in flight
        there ends; so it does if another instance can take it."""
        try:
            described = await self._described(route)
        finally:
            route.probing = False
        if described is not None:
            return
        if not route.joined and self._routes.pop(route.instance.process, None) is not None:
            await route.client.close()
        elif route.client.silent_seconds > DESCRIBE_SECONDS and any(
            other.joined and other.reachable for other in self._routes.values() if other is not route
        ):
            route.client.hang_up()

    async def _described(self, route: Route) -> EngineDescription | None:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                described = await route.client.describe()
        except (AntiphonError, TimeoutError):
            route.reachable = False
            return None
        route.reachable = True
        route.described(described)
        return described

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def by_affinity(key: bytes, routes: Sequence[Route], priority: Priority) -> Route:
    """The instance that :func:`~antiphon.engine.routing.placement.place` chooses."""
    chosen = place(key, [route.load_for(priority) for route in routes])
    return next(route for route in routes if route.instance.name == chosen.name)


def _by_load(routes: Sequence[Route], priority: Priority) -> Route:
    chosen = least_loaded([route.load_for(priority) for route in routes])
    return next(route for route in routes if route.instance.name == chosen.name)


def _unavailable(joined: int) -> UnavailableError:
    if joined:
        return UnavailableError(
            f"None of the {joined} engines that have joined can be reached.",
            where="engine",
            next_step="See their logs, and whether the network lets this machine through to them.",
        )
    return UnavailableError("No engine has joined.", where="engine", next_step="Start one: `antiphon engine --join`.")


async def _failure(work: Awaitable[object]) -> AntiphonError | None:
    try:
        await work
    except AntiphonError as error:
        return error
    return None


async def _settled(work: Awaitable[object]) -> None:
    with contextlib.suppress(AntiphonError):
        await work
