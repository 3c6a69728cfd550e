"""Stops training while online users are served, and lets it go on when they have been quiet for a while.

Trainings of this process are stopped for users of the engines on this machine, with which they compete, or of every
engine that is seen; pauses of other processes' trainings are written by ``training_pauses``.

Invariants:
- Training is stopped with the first look that sees an online request, and goes on only after a look that proves the
  quiet time: a governor that cannot see the engine resumes nothing.
- Nothing is left stopped by a governor that ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.training_pauses import EVERY_HOST
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.engine.api.port import Engine
from antiphon.engine.routing.merged import loads_by_host, total
from antiphon.orchestration.training_pauses import TrainingPauseExchange
from antiphon.training.processes import TrainingProcess, TrainingProcesses

_log = logging.getLogger("antiphon.worker")
_CALM = EngineLoad()

IDLE_SECONDS = 10.0
"""Between looks while nothing trains, unless a training begins; then the engine is not asked."""

BLIND_SECONDS = 1.0
"""An engine that does not answer for so long counts as out of sight."""

WATCH_SECONDS = 1.0
"""While training runs and nobody is served, one look lasts so long, unless an online request ends it."""

NOTE_SECONDS = 60.0
"""Interval of log lines on paused training, and the uninterrupted pause that comes before the first."""


@dataclass(frozen=True, slots=True)
class GovernorState:
    """State of the governor after an observation; times are monotonic seconds.

    Attributes:
        busy_at: the last look that saw online work, ``None`` before the first.
        generated: online tokens that the engine had generated then; a request that came and went between two looks
            is seen by them.
        paused_since: ``None`` while training runs.
        watched_since: the first look at this training. ``paused_seconds``: of it, pauses that are over.
    """

    watched_since: float
    paused_since: float | None = None
    busy_at: float | None = None
    generated: int | None = None
    paused_seconds: float = 0.0

    @property
    def paused(self) -> bool:
        return self.paused_since is not None

    def paused_share(self, now: float) -> float:
        """Share of the watched time for which training was paused, 0 to 1."""
        watched = now - self.watched_since
        paused = self.paused_seconds + (0.0 if self.paused_since is None else now - self.paused_since)
        return paused / watched if watched > 0 else 0.0


def decide(load: EngineLoad, previous: GovernorState, now: float, *, quiet: float) -> GovernorState:
    """Pause as soon as an online request waits or runs, or has been served since the last look; resume after
    ``quiet`` seconds without one. A governor that begins waits for the quiet time only if it sees online work."""
    served = previous.generated is not None and load.generated_tokens_online != previous.generated
    busy = load.running_online > 0 or load.waiting_online > 0 or served
    seen = replace(previous, generated=load.generated_tokens_online, busy_at=now if busy else previous.busy_at)
    if busy and not seen.paused:
        return replace(seen, paused_since=now)
    if not busy and seen.paused_since is not None and (seen.busy_at is None or now - seen.busy_at >= quiet):
        return replace(seen, paused_since=None, paused_seconds=seen.paused_seconds + now - seen.paused_since)
    return seen


class Governor:
    """Watches the engine while there is training, and pauses and resumes it.

    Args:
        host: this machine, by its name by default, which is also that of an engine that does not name its own.
        everywhere: whether training here stops for users of engines on other machines too.
        exchange: with other processes; ``None``: training here is all there is.
        quiet: seconds without online work before training goes on.
        poll: seconds between looks at the engine while there is training.
        watch: a look that an online request ends, and so many seconds at the latest; ``None``: the engine is asked
            again and again.
    """

    def __init__(
        self,
        engine: Engine,
        training: TrainingProcesses,
        *,
        host: str | None = None,
        everywhere: bool = False,
        exchange: TrainingPauseExchange | None = None,
        quiet: float = 1.0,
        poll: float = 0.05,
        watch: Callable[[float], Awaitable[EngineDescription]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._engine = engine
        self._training = training
        self._quiet = quiet
        self._poll = poll
        self._monotonic = monotonic
        self._host = host or socket.gethostname()
        self._own = EVERY_HOST if everywhere else self._host
        self._exchange = exchange
        self._begun = Wakeup()
        training.listen(self._begun.wake)
        if exchange is not None:
            exchange.listen(self._begun.wake)
        self._listeners: list[Callable[[], object]] = []
        self._states: dict[str, GovernorState] = {}
        self._stopped: list[TrainingProcess] = []
        self._governs = False
        self._blind = False
        self._noted_at = 0.0

    @property
    def governed(self) -> GovernorState | None:
        """State of the training under way; ``None`` when there is none."""
        return self._states.get(self._own) if self._governs else None

    def listen(self, call: Callable[[], object]) -> None:
        """Have this called in the event loop when training begins to stand still for online users, or goes on."""
        self._listeners.append(call)

    def serving(self, host: str) -> bool:
        """True while training on a machine stands still for online users, of those for whom it does."""
        return any((state := self._states.get(one)) is not None and state.paused for one in (host, EVERY_HOST))

    async def run_until(self, stop: asyncio.Event) -> None:
        """Govern until ``stop``; then whatever is paused goes on, so that it can be told to stop."""
        try:
            while not stop.is_set():
                if self._governs and not self._training.running:
                    self._end()
                elsewhere = self._exchange is not None and self._exchange.others_train
                if self._training.running or elsewhere:
                    await self._look()
                    pause = self._poll
                else:
                    self._states, self._blind, pause = {}, False, IDLE_SECONDS
                if self._exchange is not None:
                    self._exchange.report(self._busy())
                await self._begun.wait_until(stop, pause)
        finally:
            self._end()
            self._training.resume_all()

    def _busy(self) -> frozenset[str] | None:
        """The machines that are seen to serve online users, or did within the quiet time; ``None``: nothing is seen."""
        if self._blind:
            return None
        return self._paused() - {EVERY_HOST}

    async def _look(self) -> None:
        if self._training.running and not self._governs:
            self._governs = True
            now = self._noted_at = self._monotonic()
            known = self._states.get(self._own) or GovernorState(now)
            since = now if known.paused else None
            self._states[self._own] = replace(known, watched_since=now, paused_since=since, paused_seconds=0.0)
        watch = None if self._paused() or self._blind else self._watch
        try:
            async with asyncio.timeout(BLIND_SECONDS + (0 if watch is None else WATCH_SECONDS)):
                described = await (self._engine.describe() if watch is None else watch(WATCH_SECONDS))
        except (AntiphonError, TimeoutError) as error:
            self._lost(error)
        else:
            if self._blind:
                self._blind = False
                _log.info("The engine is in sight again.")
            self._judge(loads_by_host(described, self._host))
        governed = self.governed
        if governed is None:
            return
        # What was started during a pause runs; what is being ended must not be stopped a second time.
        running = list(self._training.running)
        if governed.paused and any(work not in self._stopped for work in running):
            self._stopped = running
            self._training.pause_all()
        self._note(governed)

    def _judge(self, loads: Mapping[str, EngineLoad]) -> None:
        """Decide for the training here, and for each machine for whose users others' training is to stop."""
        now, before, paused = self._monotonic(), self.governed, self._paused()
        judged = {host: load for host, load in loads.items() if self._exchange and self._exchange.concerns(host)}
        if before is not None:
            judged[self._own] = total(list(loads.values())) if self._own == EVERY_HOST else loads.get(self._own, _CALM)
        self._states = {
            host: decide(load, self._states.get(host) or GovernorState(now), now, quiet=self._quiet)
            for host, load in judged.items()
        }
        if before is not None and before.paused and not self._states[self._own].paused:
            self._stopped = []
            self._training.resume_all()
        if self._paused() != paused:
            for call in self._listeners:
                call()

    def _paused(self) -> frozenset[str]:
        return frozenset(host for host, state in self._states.items() if state.paused)

    def _lost(self, error: Exception) -> None:
        if not self._blind:
            self._blind = True
            paused = self.governed is not None and self.governed.paused
            _log.warning(
                "The engine is out of sight (%s); training %s until it is seen again.",
                error if isinstance(error, UnavailableError) else type(error).__name__,
                "stays paused" if paused else "goes on as it is",
            )

    def _note(self, governed: GovernorState) -> None:
        now = self._monotonic()
        since = governed.paused_since
        if since is not None and now - since >= NOTE_SECONDS and now - self._noted_at >= NOTE_SECONDS:
            self._noted_at = now
            _log.warning(
                "Training has been paused for %.0f s for online requests, and for %.0f %% of its time.",
                now - since,
                100 * governed.paused_share(now),
            )

    def _end(self) -> None:
        governed = self.governed
        if governed is not None:
            if governed.paused:
                self._training.resume_all()  # What starts next must not begin paused with nobody to resume it.
            now = self._monotonic()
            _log.info(
                "Training ended after %.0f s, %.0f %% of them paused for online requests.",
                now - governed.watched_since,
                100 * governed.paused_share(now),
            )
        self._governs, self._stopped = False, []
