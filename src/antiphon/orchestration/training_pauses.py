"""Pauses of training across processes: what a worker sees of online users is written for those who train, and obeyed.

Invariants:
- What this process sees of its own machine pauses its own trainings at once (``governor``); the catalog is not waited
  for. What is exchanged here is for those who do not see it, and what they see for this one.
- A row is obeyed while it is known to hold: until it was read that it is gone, or until the moment to which it was
  given, when the catalog cannot be read.
- A governor that sees nothing renews nothing; its rows end by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.training_pauses import EVERY_HOST, TrainingHost, TrainingPause, TrainingPauses
from antiphon.core.errors import UnavailableError
from antiphon.training.processes import TrainingProcesses

_log = logging.getLogger("antiphon.worker")

HOLD_SECONDS = 5.0
"""A pause is written for so long, and prolonged while it lasts: a writer that died stops training no longer."""

LOOK_SECONDS = 1.0
"""Interval of reading and prolonging while something trains: the bound where a ring is lost."""

ANNOUNCED_SECONDS = 15.0
"""For so long others know of a training after its worker died."""

_REASON = "online requests"
_BY = "row"


class TrainingPauseExchange:
    """Announces this worker's trainings, writes pauses for others, and obeys theirs.

    Args:
        host: this machine; ``worker`` names this worker and ``holder`` its process.
        governed: whether trainings here stop for online users; ``everywhere``: for those of any host.
        poll: seconds between reads while nothing trains, as far as is known.
    """

    def __init__(
        self,
        pauses: TrainingPauses,
        training: TrainingProcesses,
        *,
        host: str,
        worker: str,
        holder: str,
        governed: bool = True,
        everywhere: bool = False,
        poll: float = 10.0,
        wakeup: Wakeup | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pauses = pauses
        self._training = training
        self._own = TrainingHost(host, worker, everywhere)
        self._holder = holder
        self._governed = governed
        self._poll = poll
        self._wakeup = wakeup or Wakeup()
        self._monotonic = monotonic
        self._trains = False
        self._busy: frozenset[str] | None = frozenset()
        self._others: tuple[TrainingHost, ...] = ()
        self._listeners: list[Callable[[], object]] = []
        self._announced_at: float | None = None
        self._written: dict[str, float] = {}
        self._held_until: dict[tuple[str, str], float] = {}

    def listen(self, call: Callable[[], object]) -> None:
        """Have this called in the event loop when another worker begins to train, or is the last to end."""
        self._listeners.append(call)

    @property
    def others_train(self) -> bool:
        """``True`` while another worker is known to train, for which online users are to be looked for."""
        return bool(self._others)

    def concerns(self, host: str) -> bool:
        """Tell whether another worker's training is to pause for users of this host."""
        return any(other.host == host or other.everywhere for other in self._others)

    def report(self, busy: frozenset[str] | None) -> None:
        """Take over what the governor sees: the hosts with online users for whom training stands still; ``None`` while
        it sees nothing."""
        trains = bool(self._training.running)
        if (trains, busy) != (self._trains, self._busy):
            self._trains, self._busy = trains, busy
            self._wakeup.wake()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Exchange until ``stop``; then what is written here ends, and what was paused goes on."""
        try:
            with self._wakeup as wakeup:
                while not stop.is_set():
                    before = self.others_train
                    try:
                        await asyncio.to_thread(self.exchange)
                    except UnavailableError as error:
                        _log.warning("Pauses of training cannot be exchanged; those known go on: %s", error)
                    if self.others_train != before:
                        for call in self._listeners:
                            call()
                    self._obey()
                    near = self._trains or self._others or self._written or self._held_until
                    await wakeup.wait_until(stop, LOOK_SECONDS if near else wakeup.rested(self._poll), found=False)
        finally:
            self._training.resume_all(_BY)
            try:
                await asyncio.to_thread(self._withdraw)
            except UnavailableError:
                _log.warning("The catalog is away; pauses of training end by themselves.")

    def exchange(self) -> None:
        """Write what this process knows, and read what others do.

        Raises:
            UnavailableError: the catalog is away; what was read before stays known until it ends.
        """
        now, pauses = self._monotonic(), self._pauses
        if not (self._trains and self._governed):
            if self._announced_at is not None:
                pauses.withdraw(self._own.worker, self._holder)
                self._announced_at = None
        elif self._announced_at is None or now - self._announced_at >= ANNOUNCED_SECONDS / 3:
            pauses.announce(self._own, self._holder, ANNOUNCED_SECONDS, first=self._announced_at is None)
            self._announced_at = now
        held, trainings = pauses.known()
        self._others = tuple(one for one in trainings if one.worker != self._own.worker)
        self._held_until = {
            (one.host, one.writer): now + pauses.remaining(one) for one in held if self._obeys(one)
        }  # fmt: skip
        self._speak(now, held)

    def _speak(self, now: float, held: tuple[TrainingPause, ...]) -> None:
        """Write and prolong pauses for others, unless another process has done it; end those that are over."""
        if self._busy is None:
            return
        busy = {host for host in self._busy if self.concerns(host)}
        if over := self._written.keys() - busy:
            self._pauses.end((host, self._holder) for host in over)
            for host in over:
                del self._written[host]
        lasting = {
            one.host
            for one in held
            if one.reason == _REASON and one.writer != self._holder and self._pauses.remaining(one) > HOLD_SECONDS / 2
        }
        for host in busy:
            due = now - self._written.get(host, float("-inf")) >= HOLD_SECONDS / 3
            if due and (host in self._written or host not in lasting):
                self._pauses.hold(host, self._holder, _REASON, HOLD_SECONDS)
                self._written[host] = now

    def _obeys(self, pause: TrainingPause) -> bool:
        if pause.writer == self._holder or not (self._governed or pause.ordered):
            return False
        return pause.host in (self._own.host, EVERY_HOST) or (self._own.everywhere and pause.reason == _REASON)

    def _obey(self) -> None:
        now = self._monotonic()
        self._held_until = {pause: until for pause, until in self._held_until.items() if until > now}
        if bool(self._held_until) == (_BY in self._training.paused_by):
            return
        if self._held_until:
            self._training.pause_all(_BY)
        else:
            self._training.resume_all(_BY)

    def _withdraw(self) -> None:
        if self._written:
            self._pauses.end((host, self._holder) for host in self._written)
        if self._announced_at is not None:
            self._pauses.withdraw(self._own.worker, self._holder)
