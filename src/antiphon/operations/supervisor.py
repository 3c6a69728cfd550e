"""The supervisor: keeps the processes of one project running on one machine.

Invariants: a child is started only while it is needed (:meth:`Supervisor.stop` and :meth:`Supervisor.need`); from the
moment draining begins nothing is started again, and the supervisor returns only when every process group it made has
ended.

What dies, or gives no sign of life for too long, is restarted after a delay that doubles; a start that was ready for
long enough resets it. What was ready and ended by itself, without an error, is started again at once. Children end with
their supervisor, however it ends (``core.supervision``). A child that fails before it has ever been ready ends the
whole start with its last words, because nobody is served yet.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.core.clock import Clock, SystemClock
from antiphon.core.errors import SetupError
from antiphon.operations.children import Child, ChildSpec, is_ready, start
from antiphon.operations.listening import listen
from antiphon.operations.preflight import directory_lock, end_orphans
from antiphon.operations.processes import ProcessRecord, boot, read_records, waited_seconds, write_record


class Silence:
    """The silence of one process, measured while this one ran and that one had a processor.

    - A gap between two looks counts for two looks at most: a machine that slept, or a supervisor that was stopped, must
      not take the time that it missed for a silence of others.
    - Time for which a thread that must turn waited for a processor does not count: on a crowded machine what is starved
      is no better for being started again. Other threads may compete while that one hangs.

    Args:
        most: seconds of silence after which the process counts as hung.
        now: monotonic seconds.
    """

    def __init__(self, most: float, now: float) -> None:
        self._most = most
        self._looked = now
        self._waited: Mapping[int, float] = {}
        self._silent = 0.0

    @property
    def look_every(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self._most / 4)

    def look(self, heard: bool, now: float, waited: Mapping[int, float]) -> bool:
        """Count the time since the last look, unless a sign of life came; whether the silence lasts too long.

        Args:
            waited: for how many seconds each of these threads has waited for a processor so far.
        """
        gap, self._looked = min(now - self._looked, 2 * self.look_every), now
        starved = max((so_far - self._waited.get(thread, so_far) for thread, so_far in waited.items()), default=0.0)
        self._waited = waited
        self._silent = 0.0 if heard else self._silent + max(0.0, gap - starved)
        return self._silent >= self._most


STOP_SECONDS = 60.0
"""For so long a child that is not needed any more may finish its work before it is killed."""

_STOPS = "everything is being stopped"

HOPELESS_EXIT_CODES = frozenset({2, 7})
"""Invalid input and a machine that lacks something: trying again cannot help."""

Kind = Literal[
    "orphan_ended", "starting", "waiting", "ready", "hung", "died", "restarting", "draining", "killed", "stopped"
]


class ProcessEvent(msgspec.Struct, frozen=True):
    """One thing the supervisor did or saw; a progress line, or one JSON line with ``--json``."""

    at: datetime
    process: str
    event: Kind
    detail: str = ""
    pid: int | None = None


class Backoff(msgspec.Struct, frozen=True):
    """Seconds before a restart: ``first`` doubling up to ``last``; reset after ``stable`` seconds of readiness."""

    first: float = 0.25
    last: float = 15.0
    stable: float = 30.0

    def delay(self, failures: int) -> float:
        """The wait after so many failures in a row (from 1)."""
        return float(min(self.last, self.first * 2 ** min(failures - 1, 30)))


class Supervisor:
    """Runs children until told to stop, then drains them in the order of ``drain_order``.

    Args:
        stopped: children that are not needed at first, with the reason.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        run: Path,
        logs: Path,
        drain_order: Sequence[str],
        stopped: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        first_attempts: int = 4,
        poll: float = 0.05,
        tell: Callable[[ProcessEvent], None] = lambda event: None,
    ) -> None:
        self._specs = {spec.name: spec for spec in children}
        self._run = run
        self._logs = logs
        self._drain_order = [name for name in drain_order if name in self._specs]
        self._drain_order += [name for name in self._specs if name not in self._drain_order]
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff()
        self._first_attempts = first_attempts
        self._poll = poll
        self._tell = tell
        self._running: dict[str, Child] = {}
        self._starting: dict[str, asyncio.Task[Child]] = {}
        self._was_ready = {name: asyncio.Event() for name in self._specs}
        self._needed = {name: asyncio.Event() for name in self._specs}
        self._why_stopped = dict(stopped or {})
        for name in self._needed.keys() - self._why_stopped.keys():
            self._needed[name].set()
        self._draining: set[str] = set()
        self._listeners: dict[tuple[str, int], list[socket.socket]] = {}

    async def supervise(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Start everything, keep it running until ``stop`` is set, drain; ``hurry`` kills instead of draining.

        Raises:
            SetupError: another supervisor runs here, a port is taken, or a child never became ready.
        """
        hurry = hurry or asyncio.Event()
        for directory in (self._run, self._logs):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with directory_lock(self._run):
            for name in await end_orphans(self._run):
                self._report(name, "orphan_ended", "left behind by an earlier run")
            for address in dict.fromkeys(address for spec in self._specs.values() for address in spec.listens):
                self._listeners[address] = listen(*address)
            keepers = {name: asyncio.create_task(self._keep(spec), name=name) for name, spec in self._specs.items()}
            stopped = asyncio.create_task(stop.wait())
            try:
                done, _ = await asyncio.wait({stopped, *keepers.values()}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    await task
            finally:
                stopped.cancel()
                await self._drain(keepers, hurry)

    async def stop(self, name: str, why: str) -> None:
        """End a child that is not needed, and start it no more until it is; returns once it has ended.

        Args:
            why: told with its state.
        """
        self._why_stopped[name] = why
        self._needed[name].clear()
        starting = self._starting.get(name)
        child = None if starting is None else await asyncio.shield(starting)
        if child is None or child.process.returncode is not None:
            return
        self._report(name, "draining", why, child.pid)
        child.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await child.process.wait()
        except TimeoutError:
            child.kill()
            await child.process.wait()

    def need(self, name: str) -> None:
        """Start a child that was stopped, and keep it running again."""
        self._needed[name].set()

    async def _keep(self, spec: ChildSpec) -> None:
        for name in spec.after:
            await self._was_ready[name].wait()
        failures = restarts = 0
        ended = ""
        needed = self._needed[spec.name]
        while True:
            if not needed.is_set():
                failures = 0
                self._rest(spec.name, restarts)
                await needed.wait()
            if spec.name in self._draining:
                return
            self._report(spec.name, "starting")
            child = await self._start(spec, restarts, ended)
            exited = asyncio.create_task(child.exited())
            try:
                ready_at = await self._until_ready(child, exited)
                hung = await self._watch(child, exited)
                code = await exited
            finally:
                exited.cancel()
            if spec.name in self._draining:
                return
            ended = ""
            if not needed.is_set():
                continue
            restarts += 1
            if code == 0 and ready_at is not None:  # It was asked to end: by `antiphon restart`, say.
                failures = 0
                self._report(spec.name, "stopped", pid=child.pid)
                continue
            ended = "no sign of life" if hung else _ending(code)
            stable = ready_at is not None and self._clock.monotonic() - ready_at >= self._backoff.stable
            failures = 1 if stable else failures + 1
            self._report(spec.name, "died", _died(child, code), child.pid)
            if not self._was_ready[spec.name].is_set():
                self._give_up_if_hopeless(child, code, failures)
            delay = self._backoff.delay(failures)
            self._report(spec.name, "restarting", f"in {delay:.2f} s (restart {restarts})")
            await asyncio.sleep(delay)

    def _rest(self, name: str, restarts: int) -> None:
        """Record that a child does not run because it is not needed; those that wait for it need not."""
        child, why = self._running.get(name), self._why_stopped[name]
        pid = 0 if child is None else child.pid
        record = ProcessRecord(name, pid, 0, self._clock.now(), restarts, boot(), str(self._run.resolve()), why)
        write_record(self._run, record)
        self._was_ready[name].set()
        self._report(name, "stopped", why, pid or None)

    async def _start(self, spec: ChildSpec, restarts: int, ended: str) -> Child:
        # Shielded: a drain that comes while the process is being made must find it, not lose it.
        listeners = [one for address in spec.listens for one in self._listeners[address]]
        starting = asyncio.create_task(start(spec, self._run, self._logs, self._clock, restarts, listeners, ended))
        self._starting[spec.name] = starting
        child = self._running[spec.name] = await asyncio.shield(starting)
        return child

    async def _until_ready(self, child: Child, exited: asyncio.Task[int]) -> float | None:
        """The monotonic time of readiness; ``None`` when it exited, or was killed for never becoming ready."""
        began = logged = self._clock.monotonic()
        unready = Silence(child.spec.ready_seconds, began)
        while not exited.done():
            if await is_ready(child.spec.ready) and not exited.done():
                now = self._clock.monotonic()
                self._was_ready[child.spec.name].set()
                self._report(child.spec.name, "ready", f"after {now - began:.1f} s", child.pid)
                return now
            now = self._clock.monotonic()
            if unready.look(False, now, waited_seconds(child.pid)):
                self._report(child.spec.name, "killed", f"not ready within {child.spec.ready_seconds:.0f} s", child.pid)
                child.kill()
                return None
            if now - logged > 5.0:
                logged = now
                self._report(child.spec.name, "waiting", f"{now - began:.0f} s", child.pid)
            await asyncio.wait({exited}, timeout=self._poll)
        return None

    async def _watch(self, child: Child, exited: asyncio.Task[int]) -> bool:
        """Wait until it has exited, and kill it when it gives no sign of life for too long; whether it was killed."""
        if child.spec.silence is None:
            return False
        silence = Silence(child.spec.silence, self._clock.monotonic())
        while not (await asyncio.wait({exited}, timeout=silence.look_every))[0]:
            too_long = silence.look(child.heard(), self._clock.monotonic(), waited_seconds(child.pid, child.spec.loops))
            if too_long and child.spec.name not in self._draining:
                self._report(child.spec.name, "hung", f"no sign of life for {child.spec.silence:.0f} s", child.pid)
                child.kill()
                return True
        return False

    def _give_up_if_hopeless(self, child: Child, code: int, failures: int) -> None:
        if code in HOPELESS_EXIT_CODES or failures >= self._first_attempts:
            log = self._logs / f"{child.spec.name}.log"
            words = child.last_words() or "(none)"
            raise SetupError(
                f"The process {child.spec.name} ended before it was ready ({_ending(code)}). Last words:\n{words}\n",
                where=child.spec.name,
                next_step=f"The whole log is {log}.",
            )

    async def _drain(self, keepers: dict[str, asyncio.Task[None]], hurry: asyncio.Event) -> None:
        # All of them are to end, before the first is asked to go: nothing may be restarted behind our back.
        self._draining.update(self._specs)
        for record in read_records(self._run):
            if record.name in self._specs:  # Whoever looks at them meanwhile finds nothing amiss.
                write_record(self._run, msgspec.structs.replace(record, stopped=record.stopped or _STOPS))
        for listener in [one for listeners in self._listeners.values() for one in listeners]:
            listener.close()  # The children have theirs, and close them as they drain.
        for name in self._drain_order:
            child = self._running.get(name)
            if child is not None and child.process.returncode is None:
                self._report(name, "draining", pid=child.pid)
                finished = await child.drain(hurry)
                self._report(name, "stopped" if finished else "killed", pid=child.pid)
            keepers[name].cancel()
        await asyncio.gather(*keepers.values(), return_exceptions=True)
        for made in await asyncio.gather(*self._starting.values(), return_exceptions=True):
            if isinstance(made, Child) and made.process.returncode is None:
                made.kill()
                await made.process.wait()
        for name, spec in self._specs.items():
            (self._run / f"{name}.pid").unlink(missing_ok=True)
            for left_over in spec.sockets:
                left_over.unlink(missing_ok=True)

    def _report(self, process: str, event: Kind, detail: str = "", pid: int | None = None) -> None:
        self._tell(ProcessEvent(self._clock.now(), process, event, detail, pid))


def _died(child: Child, code: int) -> str:
    """The end of a child, and the last line that it wrote if it ended by itself."""
    last = child.last_words(1).strip() if code > 0 else ""
    return f"{_ending(code)}: {last}" if last else _ending(code)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
