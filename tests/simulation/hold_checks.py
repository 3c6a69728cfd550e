"""Invariants of holds: no run is claimed inside of one, no step begins there past the bound, and yielding counts no
attempt.

The bound: of a run that was claimed before a freeze or blackout began, the next heartbeat, :data:`HEARTBEAT_SECONDS`
later at most, says that it is held. No step begins after that, and the run is given back within ``YIELD_SECONDS`` more.
"""

from __future__ import annotations

import msgspec
from tests.simulation.conductor_rows import MICROS, CatalogRows, ConductedRun, ConductorObserver, require
from tests.simulation.process import Process

from antiphon.durable.executor import YIELD_SECONDS

HEARTBEAT_SECONDS = 1.0
MARGIN_SECONDS = 0.3
"""Time that a healed catalog and its threads take for what is due at once."""

LONGEST_WAIT = 15.0
"""Seconds for which a run that nothing holds may wait while a worker lives: as long as a worker looks for nothing."""

MOST_LOOKS, LOOKS_SECONDS = 60, 2.0
"""Looks of one process within so many seconds, at most: more of them are a loop that never rests."""


class HoldChecks:
    """Checks of claims, heartbeats and steps beside the holds.

    Attributes:
        calm_from: world seconds from which nothing is late any more; ``None`` while things go wrong.
        seen: what happened at all, by which a test knows that the scenario shows something.
    """

    def __init__(self, observer: ConductorObserver) -> None:
        self._observer = observer
        self._world = observer.world
        faults = self._world.faults
        self._exact = faults.clocks == 0.0
        late = faults.slow + faults.pause + faults.unsure > 0
        self._delivery = 4 * faults.stall if late else MARGIN_SECONDS
        self._asked: dict[tuple[str, str], float] = {}
        self._held_since: dict[str, float] = {}
        self._free_since: dict[str, float] = {}
        self._released_claims: set[tuple[str, int]] = set()
        self._looks: dict[tuple[str, str], list[float]] = {}
        self.calm_from: float | None = None
        self.seen: set[str] = set()
        observer.checks.append(self)

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong, and all that was late has come."""
        return self.calm_from is not None and self._world.loop.time() >= self.calm_from

    def __call__(self, process: Process, past: CatalogRows, rows: CatalogRows) -> None:
        for run in rows.runs.values():
            before = past.runs.get(run.id)
            if before is None or run == before:
                continue
            if run.epoch != before.epoch:
                self._forget(run)
                if run.status == "running":
                    self._claimed(process, run, past, rows)
            elif run.status == "running":
                self._beaten(process, before, run, rows)
            else:
                self._forget(run)
                if run.status == "queued" and before.status == "running":
                    self._left(before, run)
        self._watch(rows)

    def step(self, process: Process, run: str) -> None:
        """A step of a run begins in a process."""
        now, row = self._world.loop.time(), self._observer.rows.runs[run]
        asked = self._asked.get((run, process.label))
        if asked is not None and now - asked > self._delivery and row.exempted_by is None:
            self._world.violate(f"a step of {run} began {now - asked:.1f} s after its worker was told that it is held")
        since = self._held_since.get(run)
        if since is not None and self.calm:
            late = now - max(since, self.calm_from or 0.0) - HEARTBEAT_SECONDS
            if late > MARGIN_SECONDS:
                self._world.violate(
                    f"a step of {run} began {late:.1f} s later in a hold than a heartbeat takes to tell"
                )

    def look(self, process: Process, what: str) -> None:
        """A process looks for something that is due."""
        now = self._world.loop.time()
        looks = self._looks.setdefault((process.label, what), [])
        looks.append(now)
        while looks[0] < now - LOOKS_SECONDS:
            del looks[0]
        if len(looks) == MOST_LOOKS:
            self._world.violate(f"{process.label} looked for {what} {MOST_LOOKS} times in {LOOKS_SECONDS} s")

    def _claimed(self, process: Process, run: ConductedRun, past: CatalogRows, rows: CatalogRows) -> None:
        if holding := rows.holding(run, run.updated_at):
            inside = (run.updated_at - holding[0].begins) / MICROS
            require(
                False, f"{run.id} was claimed {inside:.3f} s after {holding[0].id} began, which holds {run.workflow}"
            )
        if self._exact:
            # There is one writer at a time: a hold that was there before this commit was before its whole transaction.
            for hold in past.holding(run, self._observer.now):
                early = (hold.created_at - run.updated_at) / MICROS
                require(early <= 0, f"{run.id} was claimed after {hold.id} began, as of {early:.3f} s before that")
        if run.exempted_by is not None and rows.holding(msgspec.structs.replace(run, exempted_by=None), run.updated_at):
            self.seen.add("let past a hold")
        if run.exempted_by is not None:
            self._released_claims.add((run.id, run.epoch))

    def _beaten(self, process: Process, before: ConductedRun, run: ConductedRun, rows: CatalogRows) -> None:
        if run.updated_at == before.updated_at or run.lease_until == before.lease_until:
            return
        if rows.holding(run, run.updated_at):
            self.seen.add("asked to yield")
            self._asked.setdefault((run.id, process.label), self._world.loop.time())

    def _left(self, before: ConductedRun, run: ConductedRun) -> None:
        if run.not_before != before.not_before:
            require(run.attempts == before.attempts, f"{run.id} failed and its attempt does not count")
            self.seen.add("tried again")
            return
        require(run.attempts == before.attempts - 1, f"{run.id} was given back and its attempt counts")
        self.seen.add("given back")
        if self.calm and (run.id, run.epoch) in self._released_claims:
            require(False, f"{run.id} was given back although it was exempted")

    def _forget(self, run: ConductedRun) -> None:
        for key in [key for key in self._asked if key[0] == run.id]:
            del self._asked[key]

    def _watch(self, rows: CatalogRows) -> None:
        """Keep since when runs are held or free, and hold the bound against those that are under way."""
        now, moment = self._world.loop.time(), self._observer.now
        running = sum(run.status == "running" for run in rows.runs.values())
        for run in rows.runs.values():
            held = run.status in ("queued", "running") and bool(rows.holding(run, moment))
            if held:
                # A hold begins at its moment, or when it is committed; commits come often enough to see either.
                self._held_since.setdefault(run.id, now)
            else:
                self._held_since.pop(run.id, None)
            waits = run.status == "queued" and not held and run.not_before <= moment
            if waits and running == 0:
                self._free_since.setdefault(run.id, now)
            else:
                self._free_since.pop(run.id, None)
            if not self.calm or self.calm_from is None:
                continue
            if held and run.status == "running" and (run.lease_until or 0) >= moment:
                over = now - max(self._held_since[run.id], self.calm_from) - HEARTBEAT_SECONDS - YIELD_SECONDS
                require(over <= MARGIN_SECONDS, f"{run.id} runs on, {over:.1f} s longer than a hold allows")
            if run.id in self._free_since:
                waited = now - max(self._free_since[run.id], self.calm_from)
                require(waited <= LONGEST_WAIT, f"{run.id} has waited for {waited:.0f} s and nothing holds it")
