"""The idle budget of a machine: features, training and batch generation take turns at what online users leave of it.

One process of a host decides, under a lease; it holds batch work in the engines there and pauses training by a row that
every worker obeys (``training_pauses``). Online users need no turn: training stands still while they are served
(``governor``), and the engine gives them everything first.

Invariants:
- Both kinds of holding end by themselves within :data:`HOLD_SECONDS` of their writer's death.
- Nothing is held while one kind of work is there alone, or while the engine or the catalog is out of sight.
- A kind that does not use its turn, because its source hangs, loses it and is passed over for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.training_pauses import EVERY_HOST, TrainingPauses
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.engine.routing.merged import loads_by_host
from antiphon.orchestration.idle_turns import Contender, IdleTurns, IdleWork, next_turn

_log = logging.getLogger("antiphon.worker")

HOLD_SECONDS = 3.0
"""For so long batch work and training are held at a time; it is prolonged while the turn lasts."""

LOOK_SECONDS, FEATURES_SECONDS = 1.0, 0.2
"""Between looks while several kinds have work; and in a turn of features, which are often over within a second."""

BLIND_SECONDS = 1.0
"""An engine that does not answer for so long counts as out of sight."""

UNUSED_SHARE, UNUSED_SECONDS, SET_ASIDE_SECONDS = 0.1, 1.0, 30.0
"""A turn of features in which this process took less than so much of a core, for so long, is not used; they get the
next one so much later."""

_COMPUTED = ("features", "backfill")
"""Kinds that worker processes compute themselves: they are not stopped, and have next to nothing beside the others."""

LEASE = "idle/"
"""Of the names of the leases under which one process decides: ``idle/HOST``."""


class BackgroundWork(msgspec.Struct, frozen=True):
    """The background work of a host beside generation, as the catalog knows it.

    Attributes:
        features, backfill, training: what is under way of them; ``None`` for nothing.
        batch: what batch work is worth, and the job whose deadline presses most, where one has any.
        own: whether this process computes the features, so that its processor time tells whether they use a turn.
    """

    features: Contender | None = None
    backfill: Contender | None = None
    training: Contender | None = None
    batch: Contender | None = None
    own: bool = True


class IdleState(msgspec.Struct, frozen=True):
    """The turn at a host's idle time, for people; ``shares`` are those of what was had so far."""

    turn: IdleWork | None
    why: str
    until: float
    shares: Mapping[IdleWork, float]


class IdleBudget:
    """Gives the turns of one host.

    Args:
        host: the machine; ``holder`` names this process in what it holds.
        serving: whether training stands still for online users there, so that it takes no part (``Governor.serving``);
            whoever tells so calls :meth:`wake` when that changes.
        read: the background work of the host; the engines are looked at only while there is some beside generation.
        describe: the load of the engines; ``hold`` holds their batch work for so many seconds.
        shares: of the kinds of work. ``seconds``: of a turn.
        processor_seconds: processor time of this process, in which features are computed.
    """

    def __init__(
        self,
        read: Callable[[], BackgroundWork],
        describe: Callable[[], Awaitable[EngineDescription]],
        hold: Callable[[float], Awaitable[EngineDescription]],
        pauses: TrainingPauses,
        clock: Clock,
        *,
        host: str,
        holder: str,
        shares: Mapping[str, float],
        seconds: float,
        serving: Callable[[], bool] = lambda: False,
        poll: float = 10.0,
        wakeup: Wakeup | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        processor_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self._read = read
        self._describe = describe
        self._hold = hold
        self._pauses = pauses
        self._clock = clock
        self._host = host
        self._holder = f"{LEASE}{holder}"
        self._shares = shares
        self._seconds = seconds
        self._serving = serving
        self._poll = poll
        self._wakeup = wakeup or Wakeup()
        self._monotonic = monotonic
        self._processor_seconds = processor_seconds
        self._turns = IdleTurns()
        self._said = ""
        self._holds_batch = self._pauses_training = False
        self._written_at = float("-inf")
        self._used: tuple[float, float] | None = None
        self._aside_until = float("-inf")

    @property
    def state(self) -> IdleState:
        """The turn that there is now."""
        had, turns = self._turns.had, self._turns
        total = sum(had.values())
        shares = {work: round(seconds / total, 3) for work, seconds in had.items() if total}
        return IdleState(turns.turn, turns.why, turns.until, shares)

    def wake(self) -> None:
        """Have it look now; in the event loop."""
        self._wakeup.wake()

    def detail(self) -> str:
        """The state as JSON, for those who list the leases."""
        return msgspec.json.encode(self.state).decode()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Give turns until ``stop``; then everything goes on."""
        try:
            with self._wakeup as wakeup:
                while not stop.is_set():
                    try:
                        pause = await self._look()
                    except (AntiphonError, TimeoutError) as error:
                        pause = await self._lost(error)
                    await wakeup.wait_until(stop, pause, found=False)
        finally:
            await self._let_go()

    async def _look(self) -> float:
        """Decide once and have it done; returns the seconds until the next look."""
        work = await asyncio.to_thread(self._read)
        if work.features is None and work.backfill is None and work.training is None:
            self._turns = next_turn(self._turns, (), self._now(), self._shares, self._seconds)
            await self._apply(None)
            return self._wakeup.rested(self._poll)
        async with asyncio.timeout(BLIND_SECONDS):
            described = await self._describe()
        self._said = ""
        load = loads_by_host(described, self._host).get(self._host, EngineLoad())
        contenders = list(self._contending(work, load))
        self._turns = next_turn(self._turns, contenders, self._now(), self._shares, self._seconds)
        await self._apply(self._turns.turn)
        return FEATURES_SECONDS if self._turns.turn == "features" else LOOK_SECONDS

    def _contending(self, work: BackgroundWork, load: EngineLoad) -> Sequence[Contender]:
        found = []
        computing = [one for one in (work.features, work.backfill) if one is not None]
        if computing and (not work.own or self._uses_its_turns()):
            found += computing
        if work.training is not None and not self._serving():
            found.append(work.training)
        if load.running_batch + load.waiting_batch:
            found.append(work.batch or Contender("batch"))
        return found

    def _uses_its_turns(self) -> bool:
        """False while features are set aside, because they did not use the turn that they had."""
        now = self._monotonic()
        if self._turns.turn not in _COMPUTED:
            self._used = None
        elif self._used is None:
            self._used = (now, self._processor_seconds())
        elif now - self._used[0] >= UNUSED_SECONDS:
            share = (self._processor_seconds() - self._used[1]) / (now - self._used[0])
            self._used = (now, self._processor_seconds())
            if share < UNUSED_SHARE:
                self._aside_until = now + SET_ASIDE_SECONDS
        return now >= self._aside_until

    async def _apply(self, turn: IdleWork | None) -> None:
        """Hold and pause what has no turn, and let go on what has."""
        if turn in (*_COMPUTED, "training"):
            self._holds_batch = True
            await self._hold(HOLD_SECONDS)
        elif self._holds_batch:
            await self._hold(0.0)
            self._holds_batch = False
        if turn in (*_COMPUTED, "batch"):
            if not self._pauses_training or self._monotonic() - self._written_at >= HOLD_SECONDS / 3:
                self._pauses_training, self._written_at = True, self._monotonic()
                reason = f"{turn} has its turn at the machine's idle time"
                await asyncio.to_thread(self._pauses.hold, self._host, self._holder, reason, HOLD_SECONDS)
        elif self._pauses_training:
            await asyncio.to_thread(self._pauses.end, [(self._host, self._holder)])
            self._pauses_training = False

    async def _lost(self, error: Exception) -> float:
        """Without sight of engine or catalog everybody goes on, as if there were no turns."""
        said = str(error) or "the engine is silent"
        if said != self._said:
            self._said = said
            _log.warning("Turns at the machine's idle time cannot be given now: %s", said)
        self._turns = msgspec.structs.replace(self._turns, turn=None, waits={})
        await self._let_go()
        return LOOK_SECONDS

    async def _let_go(self) -> None:
        try:
            await self._apply(None)
        except (AntiphonError, TimeoutError):
            self._holds_batch = self._pauses_training = False  # They end by themselves.

    def _now(self) -> float:
        return self._clock.now().timestamp()


def trains(pauses: TrainingPauses, host: str) -> bool:
    """Tell whether a worker of a host trains, and is held by nobody but for turns: not by a person, nor for users."""
    held, trainings = pauses.known()
    if not any(one.host == host for one in trainings):
        return False
    return not any(one.host in (host, EVERY_HOST) and not one.writer.startswith(LEASE) for one in held)
