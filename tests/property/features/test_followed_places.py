"""Two processes follow one place and crash anywhere: in the end each row is in the log once, and none is missing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from antiphon import FileDrop, Source
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.features.followed_streams import FollowedStream, FollowedStreams
from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.following.followed_places import FollowedPlaces
from antiphon.features.ports import FollowedPage

NOON, SCOPE = datetime(2026, 11, 30, 12, tzinfo=UTC), Scope()
SOURCE = Source.stream("visits", event_time="at", event_id="id", follow=FileDrop("inbox/*.csv")).spec()
crashes = st.sampled_from([None, None, "before", "after"])
processes = st.sampled_from(["one", "two"])


class ListedRows:
    """A place in memory: numbered rows, of which every tenth is no event; the last ones read come again."""

    def __init__(self, rows: list[int], clock: ManualClock) -> None:
        self._rows = rows
        self._clock = clock

    def read(self, position: str | None, limit: int) -> FollowedPage:
        after = 0 if position is None else int(position)
        page = [row for row in self._rows if max(0, after - 2) < row <= after + limit]
        new = [row for row in page if row > after]
        events = tuple(Event(str(row), NOON, NOON, {"id": row}) for row in page if row % 10)
        end = new[-1] if new else after
        more = end < len(self._rows)
        at = None if more else self._clock.now()
        return FollowedPage(events, str(end), more, refused=sum(row % 10 == 0 for row in new), caught_up_at=at)

    def abandon(self) -> None: ...

    def close(self) -> None: ...


class Following(RuleBasedStateMachine):
    """Writes, reads, takes and crashes in any order, on a real log and real positions."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.clock = ManualClock(NOON)
        self.database = Database.open(f"sqlite:///{Path(self.folder.name)}/catalog.db", clock=self.clock)
        self.database.migrate()
        self.log, self.streams = EventLog(self.database), FollowedStreams(self.database)
        self.rows: list[int] = []
        self.crash: str | None = None
        self.places = FollowedPlaces(
            SCOPE, streams=self.streams, reader=self._reader, append=self._append, clock=self.clock
        )
        self.held: dict[str, tuple[FollowedStream, FollowedPage | None]] = {}

    def _reader(self, source: Any) -> ListedRows:
        return ListedRows(self.rows, self.clock)

    def _append(self, scope: Scope, stream: str, events: Sequence[Event]) -> int:
        crash, self.crash = self.crash, None
        if crash == "before":
            raise UnavailableError("It is killed before it appends.")
        end = self.log.append(scope, stream, events)
        if crash == "after":
            raise UnavailableError("It is killed after it has appended.")
        return end

    @rule(number=st.integers(1, 5))
    def write(self, number: int) -> None:
        self.rows += range(len(self.rows) + 1, len(self.rows) + number + 1)
        self.clock.advance(timedelta(seconds=2))

    @rule(process=processes, limit=st.integers(1, 4))
    def look(self, process: str, limit: int) -> None:
        """Read a page, from the state that the process remembers."""
        known = self.held.get(process)
        state = self.places.begin(SOURCE) if known is None else known[0]
        self.held[process] = state, self._reader(SOURCE).read(state.position, limit)

    @rule(process=processes, crash=crashes)
    def take(self, process: str, crash: str | None) -> None:
        state, page = self.held.get(process, (None, None))
        if state is None or page is None:
            return
        self.crash = crash
        try:
            after = self.places.take(state, page)
        except UnavailableError:
            after = None
        self.crash = None
        if after is None:
            del self.held[process]
        else:
            self.held[process] = after, None

    @rule(process=processes, limit=st.integers(1, 4), crash=crashes)
    def follow(self, process: str, limit: int, crash: str | None) -> None:
        self.look(process, limit)
        self.take(process, crash)

    @rule(seconds=st.integers(-7_200, 7_200))
    def set_clock(self, seconds: int) -> None:
        self.clock.set(self.clock.now() + timedelta(seconds=seconds))

    @invariant()
    def what_a_position_says_is_in_the_log(self) -> None:
        state = self.streams.list(SCOPE).get("visits")
        if state is not None and state.position is not None:
            assert self._logged() >= self._events(int(state.position))
            assert state.refused == int(state.position) // 10

    def _events(self, through: int) -> set[str]:
        return {str(row) for row in self.rows if row <= through and row % 10}

    def _logged(self) -> set[str]:
        stored = [one.event.event_id for one in self.log.read(SCOPE, "visits", 0, 10_000)]
        assert len(stored) == len(set(stored))
        return set(stored)

    def teardown(self) -> None:
        self.clock.advance(timedelta(days=1))
        self.places.catch_up(SOURCE)
        assert self._logged() == self._events(len(self.rows))
        assert self.streams.list(SCOPE)["visits"].refused == len(self.rows) // 10
        self.database.close()
        self.folder.cleanup()


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=60, stateful_step_count=30)
