"""Engines of a machine that are stopped while nobody needs them: the declared bounds, and what acts on the decision.

The decision itself is ``orchestration/engine_scaling.py::decide``. Each second the engines that are up are asked for
their load. An activator answers at the first engine's socket while none is up, and what it holds has one started.

Invariants:
- The first engine is started first and stopped last: one socket tells whether any is up, and one activator serves it.
- The socket that clients know is a link, to the engine's own socket or to the activator's. It is moved to the activator
  before the engine is told to end, and to the engine once it is up: a request meets one of them at any moment, and one
  that was sent to the other goes on (``EngineClient`` with ``activator``).
- An engine that has a request is not told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from antiphon.core.clock import Clock, parse_duration
from antiphon.core.disk import put_private
from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError
from antiphon.core.paths import ProjectPaths
from antiphon.core.settings import Settings
from antiphon.definitions.cron import CronTime
from antiphon.definitions.windows import WindowSpec
from antiphon.engine.activator import EngineActivator
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.engine.api.server import serve
from antiphon.engine.declared_models import DeclaredModels
from antiphon.operations.children import ChildSpec
from antiphon.operations.supervisor import ProcessEvent, Supervisor
from antiphon.orchestration.engine_scaling import (
    EngineCount,
    EngineDemand,
    EngineHours,
    ScalingPolicy,
    decide,
    floor_of,
)

_log = logging.getLogger("antiphon.up")

FIRST = "engine"
"""The engine that is started first and stopped last."""

LOOK_SECONDS = 1.0
DESCRIBE_SECONDS = 2.0
"""An engine that does not answer for so long is not judged, and none is stopped meanwhile."""

QUIET_SECONDS = 0.05
"""Interval at which an engine that is to end is asked whether it has a request still."""

KEPT_STARTS = 5
"""Starts of which the median is expected of the next one."""

UNKNOWN_START_SECONDS = 10.0
AHEAD = 1.5
"""Hours begin by so many times a start's seconds earlier."""

WHERE = "antiphon.toml, [scaling]"


def scaling_policy(settings: Settings) -> ScalingPolicy | None:
    """The declared bounds; ``None`` where engines are not stopped.

    Raises:
        InvalidInputError: they contradict each other or the engine, or hours begin at no readable time.
    """
    scaling, engine, most = settings.scaling, settings.engine, settings.processes.engines
    if scaling.idle == "off":
        if scaling.least or scaling.hours:
            raise InvalidInputError(
                "`least` and `hours` need `idle`: without it engines run all the time.",
                where=WHERE,
                next_step='Set idle, such as idle = "10m", or leave the section out.',
            )
        return None
    if engine.kind == "remote":
        raise InvalidInputError(
            "A server at a URL is not ours to stop, and the process in front of it needs no memory to speak of.",
            where=f"{WHERE} idle",
            next_step='Leave the section out, or serve models here: kind = "llamacpp" under [engine].',
        )
    if most == 0:
        raise InvalidInputError(
            "There is no engine on this machine to be stopped.",
            where=f"{WHERE} idle",
            next_step="Set `engines` under [processes], or leave the section out.",
        )
    if scaling.least > most or any(one.engines > most for one in scaling.hours):
        raise InvalidInputError(
            f"More engines are to be up than there are: `engines` under [processes] is {most}.",
            where=WHERE,
            next_step="Raise it, or lower `least` and the `engines` of hours.",
        )
    if engine.listen is not None and scaling.least == 0:
        raise InvalidInputError(
            "An engine that serves other hosts cannot be stopped: they could not have it started.",
            where=f"{WHERE} least",
            next_step="Set least = 1, so that one of them stays up, or take `listen` under [engine] out.",
        )
    hours = []
    for number, one in enumerate(scaling.hours, start=1):
        begins = CronTime(one.begins, one.zone)
        for mistake in begins.mistakes():
            raise InvalidInputError(mistake, where=f"{WHERE} hours, number {number}")
        lasts = parse_duration(one.lasts).total_seconds()
        hours.append(EngineHours(WindowSpec(f"hours-{number}", begins, lasts), one.engines))
    idle = parse_duration(scaling.idle).total_seconds()
    return ScalingPolicy(scaling.least, most, idle, settings.engine.slots, tuple(hours))


def own_socket(settings: Settings, paths: ProjectPaths, name: str) -> Path:
    """The socket that an engine of `antiphon up` makes; of the first one, clients know a link to it."""
    return paths.engine_socket_of(f"{name}.own" if name == FIRST and scaling_policy(settings) else name)


class EngineStarts:
    """The seconds that the last starts took, kept in a file over restarts of `antiphon up`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self._seconds = msgspec.json.decode(path.read_bytes(), type=list[float])
            return
        self._seconds = []

    @property
    def expected(self) -> float:
        """Seconds that the next start is expected to take: the median of the last ones."""
        return statistics.median(self._seconds) if self._seconds else UNKNOWN_START_SECONDS

    def add(self, seconds: float) -> None:
        self._seconds = [*self._seconds, round(seconds, 3)][-KEPT_STARTS:]
        with contextlib.suppress(OSError):  # It is learned anew.
            put_private(self._path, msgspec.json.encode(self._seconds))


class EngineScaler:
    """Has as many engines up as the decision says.

    Args:
        engines: in the order in which they are started; the first is :data:`FIRST`.
    """

    def __init__(
        self,
        policy: ScalingPolicy,
        paths: ProjectPaths,
        engines: Sequence[ChildSpec],
        clock: Clock,
        *,
        tell: Callable[[ProcessEvent], None] = lambda event: None,
        look: float = LOOK_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._names = [spec.name for spec in engines]
        self._clock = clock
        self._tell = tell
        self._look_seconds = look
        self._monotonic = monotonic
        self._link = paths.engine_socket_of(FIRST)
        self._activator_socket = paths.engine_socket_of(f"{FIRST}.activator")
        self._sockets = {spec.name: spec.sockets[0] for spec in engines}
        self._clients = {name: EngineClient(path, peer="supervisor") for name, path in self._sockets.items()}
        self._declared = DeclaredModels(paths.run / f"{FIRST}.models")
        self.starts = EngineStarts(paths.run / "engine.starts")
        self._count = EngineCount(min(max(1, self._floor()), policy.most))
        self._begun: dict[str, float] = {}
        self._ready: set[str] = set()
        self._taken: dict[str, int] = {}
        self._described: EngineDescription | None = None
        self._activator: EngineActivator | None = None
        self._serving: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._rung = asyncio.Event()
        self._opened = self._leaving = False
        self.supervisor: Supervisor

    @property
    def at_first(self) -> dict[str, str]:
        """The engines that are not started with the others, with the reason."""
        return dict.fromkeys(self._names[self._count.engines :], self._why())

    def saw(self, event: ProcessEvent) -> None:
        """Hear what the supervisor tells, and tell it on."""
        name, now = event.process, self._monotonic()
        if name in self._sockets:
            if event.event == "starting":
                self._begun[name] = now
                if name == FIRST and self._activator is not None:
                    self._activator.starts()
            elif event.event == "ready":
                self._ready.add(name)
                self.starts.add(now - self._begun[name])
                if name == FIRST:
                    self._hand_over()
                    if not self._opened:  # What was up at first is given its time to be needed.
                        self._opened = True
                        self._count = EngineCount(self._count.engines, ((now, self._count.engines),))
            elif event.event in ("died", "killed", "hung", "stopped", "draining"):
                self._ready.discard(name)
                self._taken.pop(name, None)
                if event.event in ("died", "killed") and name == FIRST and self._activator is not None:
                    self._activator.fail(self._failed())
            self._rung.set()
        self._tell(event)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Decide and act until ``stop``; then requests that are held for an engine that nobody starts are refused."""
        looking = asyncio.create_task(self._look_again_and_again())
        try:
            await stop.wait()
        finally:
            self._leaving = True
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            if self._activator is not None and not self._begins():
                self._activator.fail(UnavailableError("The platform is being stopped.", where="engine"))

    async def close(self) -> None:
        """End the activator, once all processes have ended."""
        self._left.set()
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        for client in self._clients.values():
            await client.close()
        self._link.unlink(missing_ok=True)

    async def _look_again_and_again(self) -> None:
        while True:
            self._rung.clear()
            try:
                await self._look()
            except Exception:  # Engines stay as they are, and are looked at again.
                _log.exception("The engines cannot be looked at; trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._rung.wait()

    async def _look(self) -> None:
        """Decide once and have it done."""
        demand = await self._demand() if self._opened else None
        if demand is None:
            return
        now, floor = self._monotonic(), self._floor()
        before, expected = self._count, self.starts.expected
        self._count = decide(before, demand, self._policy, now, floor, expected)
        for name in self._names[before.engines : self._count.engines]:
            self._begin(name)
        try:
            for name in reversed(self._names[self._count.engines : before.engines]):
                await self._end(name)
        except BaseException:  # What was not ended is looked at again.
            self._count = msgspec.structs.replace(self._count, engines=before.engines)
            raise

    async def _demand(self) -> EngineDemand | None:
        """The demand of now; ``None`` while an engine that is up does not say."""
        up = [name for name in self._names if name in self._ready]
        found = await asyncio.gather(*(self._describe(name) for name in up))
        requests, taken = 0 if self._activator is None else self._activator.needed, False
        for name, described in zip(up, found, strict=True):
            if name not in self._ready:
                continue
            if described is None:
                return None
            if name == FIRST:
                self._described = described
            requests += described.load.needing
            taken = taken or self._taken.get(name, 0) != described.load.taken
            self._taken[name] = described.load.taken
        return EngineDemand(requests, taken)

    async def _describe(self, name: str) -> EngineDescription | None:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return await self._clients[name].describe()
        except (AntiphonError, TimeoutError):
            return None

    def _begin(self, name: str) -> None:
        if not self._leaving:
            self.supervisor.need(name)

    async def _end(self, name: str) -> None:
        """Stop an engine; of the first one the activator takes its place, and gives it back if it is needed at once."""
        if name != FIRST:
            await self.supervisor.stop(name, self._why())
            return
        if self._described is None:  # It was never seen: nothing can be said in its place.
            self._count = msgspec.structs.replace(self._count, engines=1)
            return
        activator = self._activator or await self._put_activator_before(self._described)
        while name in self._ready:
            described = await self._describe(name)
            if activator.needed:
                self._count = msgspec.structs.replace(self._count, engines=1)
                self._hand_over()
                return
            if described is None or not _is_busy(described.load):
                break
            await asyncio.sleep(QUIET_SECONDS)
        await self.supervisor.stop(name, self._why())
        activator.rest()

    async def _put_activator_before(self, described: EngineDescription) -> EngineActivator:
        """Have an activator answer at the socket that clients know."""
        if self._serving is not None:  # The one before has handed over what it had.
            await asyncio.gather(self._serving, return_exceptions=True)
        self._left, ready = asyncio.Event(), asyncio.Event()
        self._activator = activator = EngineActivator(
            described,
            self._declared,
            since=self._clock.now(),
            start_seconds=self.starts.expected,
            need=self._rung.set,
        )
        self._serving = asyncio.create_task(self._serve(activator, self._left, ready))
        await ready.wait()
        if self._serving.done():
            self._activator = None
            self._serving.result()
        self._put_link(self._activator_socket)
        return activator

    def _hand_over(self) -> None:
        """Have the first engine answer at the socket that clients know, and be asked what the activator holds."""
        self._put_link(self._sockets[FIRST])
        self._left.set()
        self._activator = None

    async def _serve(self, activator: EngineActivator, left: asyncio.Event, ready: asyncio.Event) -> None:
        try:
            await serve(activator, self._activator_socket, left, drain_seconds=1.0, ready=ready.set)
        finally:
            ready.set()

    def _put_link(self, path: Path) -> None:
        """Point the socket that clients know to another one, at once."""
        partial = self._link.with_name(f"{self._link.name}.partial")
        partial.unlink(missing_ok=True)
        self._link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.symlink_to(path)
        os.replace(partial, self._link)

    def _begins(self) -> bool:
        """Tells whether the first engine is on its way up."""
        return FIRST in self._begun and FIRST not in self._ready and self._count.engines > 0

    def _floor(self) -> int:
        return floor_of(self._policy, self._clock.now(), AHEAD * self.starts.expected)

    def _why(self) -> str:
        return f"nobody needs it, starts in about {self.starts.expected:.0f} s"

    def _failed(self) -> UnavailableError:
        # Why, stands in its log: that may name files, which is nothing for callers.
        error = UnavailableError(
            "The engine was stopped and could not be started.",
            where="engine",
            next_step="It is tried again; `antiphon up` and engine.log say why it failed.",
        )
        error.retry_after = self.starts.expected
        return error


def _is_busy(load: EngineLoad) -> bool:
    """Tells whether anything is in an engine, work that nobody needs included."""
    return bool(load.needing or load.running_online + load.running_batch + load.waiting_online + load.waiting_batch)
