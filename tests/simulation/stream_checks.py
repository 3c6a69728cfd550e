"""Invariants of streams (the log, and what a consumer made of it) and of the lease under which they are consumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.simulation.process import Process, Violation
from tests.simulation.world import World

from antiphon.core.clock import microseconds
from antiphon.core.scope import Scope
from antiphon.features.online.overlay_records import PARTITIONS, OverlayState, StreamProgress, partition_of

LogRows = list[tuple[int, str, int]]


class LogObserver:
    """Holds the log after every commit: no hole, nothing that changes, no event twice, each client's in its order.

    Attributes:
        rows: offset, event id and event time of what is in the log.
    """

    def __init__(self, world: World, stream: str) -> None:
        self._database = world.connection()
        self._stream = stream
        self.rows: LogRows = []
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        query = 'SELECT "offset", event_id, event_time FROM events WHERE stream = ? ORDER BY 1'
        read = self._database.execute(query, (self._stream,)).fetchall()
        ends = self._database.execute("SELECT end_offset FROM streams WHERE stream = ?", (self._stream,)).fetchall()
        past, self.rows = self.rows, [(offset, name.rpartition(":")[2], moment) for offset, name, moment in read]
        names = [name for _, name, _ in self.rows]
        _require(self.rows[: len(past)] == past, "an event of the log changed or is gone")
        _require([row[0] for row in self.rows] == [*range(1, len(read) + 1)], f"the log has a hole: {self.rows}")
        _require(ends == ([(len(read),)] if read else []), f"the log has {len(read)} events and ends at {ends}")
        _require(len({*names}) == len(names), f"an event is in the log twice: {names}")
        for client in {name.split("-")[0] for name in names}:
            sent = [int(name.split("-")[1]) for name in names if name.split("-")[0] == client]
            _require(sent == sorted(sent), f"the events of client {client} are in the order {sent}")


class OverlayChecks:
    """Holds the overlay after every write: each partition of a view has exactly the log's events through its offset,
    once, and counts as one consumer of the whole stream would.

    Args:
        entities: key to the hash that its events are kept under.
    """

    def __init__(self, log: LogObserver, entities: Mapping[str, bytes]) -> None:
        self._log = log
        self._entities = entities
        self.progress: dict[tuple[bytes, int], StreamProgress] = {}

    def check(self, process: Process, state: OverlayState) -> None:
        """Raise :class:`Violation` unless this is what the log says."""
        for view, partitions in state.progress.items():
            for number, found in enumerate(partitions):
                before = self.progress.get((view, number), StreamProgress())
                at = f"partition {number} of a view"
                _require(found.offset >= before.offset, f"{process.label} set {at} back from {before} to {found}")
                self.progress[view, number] = found
                _require(found.offset <= len(self._log.rows), f"{at} is at {found}, the log at {len(self._log.rows)}")
                expected = self._progress(number, found.offset)
                _require(found == expected, f"{at} counts {found} instead of {expected}")
            for key, entity in self._entities.items():
                through = partitions[partition_of((key,))].offset
                rows = [(row[0], row[2]) for row in self._log.rows[:through] if row[1].split("-")[2] == key]
                events = [(event.offset, event.event_time) for event in state.events[view, entity]]
                _require(events == rows, f"{key} of a view at {through} has {events} instead of {rows}")

    def whole(self, views: Iterable[bytes], end: int) -> bool:
        """Whether every partition of these views is at the log's end."""
        places = [(view, number) for view in views for number in range(PARTITIONS)]
        return all(self.progress.get(place, StreamProgress()).offset == end for place in places)

    def _progress(self, number: int, offset: int) -> StreamProgress:
        rejected, late, lateness, watermark = 0, 0, 0, None
        for _, name, moment in self._log.rows[:offset]:
            key = name.split("-")[2]
            if key == "keyless":
                rejected += number == 0
                continue
            if watermark is not None and moment < watermark and partition_of((key,)) == number:
                late, lateness = late + 1, max(lateness, watermark - moment)
            watermark = moment if watermark is None else max(watermark, moment)
        return StreamProgress(offset, rejected, late, watermark, lateness)


class LeaseObserver:
    """Checks every change of a lease: who made it, and whether it might.

    Args:
        gone: tells whether the process that a holder names has ended.
    """

    def __init__(self, world: World, scope: Scope, gone: Callable[[str], bool]) -> None:
        self._database = world.connection()
        self._gone = gone
        self.leases: dict[str, tuple[str, int, int]] = {}
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        query = "SELECT name, holder, epoch, until FROM leases"
        now: dict[str, tuple[str, int, int]] = {row[0]: row[1:] for row in self._database.execute(query)}
        past, self.leases = self.leases, now
        for name in past.keys() | now.keys():
            if past.get(name) != now.get(name):
                self._changed(process, name, past.get(name), now.get(name))

    def _changed(self, process: Process, name: str, before: Any, after: Any) -> None:
        me, clock = process.label, process.clock
        if after is None:
            _require(before[0] == me, f"{me} gave back {name}, which {before[0]} holds")
            return
        holder, epoch, until = after
        _require(holder == me, f"{me} took {name} for {holder}")
        _require(until >= microseconds(min(clock.recent)), f"{me} took {name} until a moment that is over")
        if before is None:
            _require(epoch == 1, f"{name} begins with epoch {epoch}")
        elif holder == before[0]:
            _require(epoch == before[1], f"{me} kept {name}, its epoch went from {before[1]} to {epoch}")
        else:
            _require(epoch == before[1] + 1, f"{me} took {name} over, its epoch went from {before[1]} to {epoch}")
            early = (before[2] - microseconds(clock.latest)) / 1e6
            _require(early < 0 or self._gone(before[0]), f"{me} took {name} {early:.3f} s before the lease ended")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)
