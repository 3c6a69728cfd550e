"""Followers: what other systems write is appended to the project's streams, of each place by one worker at a time.

Invariants: a position moves after its events were appended, so a crash in between appends them again, which changes
nothing; nor do two workers at one place for a moment. Each place is read in a thread of its own, for a bounded time:
one that hangs or is away is said with its reason, is tried again, and holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.features.followed_streams import FollowedStream
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.pauses import wait
from antiphon.definitions.following import within_seconds
from antiphon.definitions.source import SourceSpec
from antiphon.durable.step_threads import StepThreads
from antiphon.features.following.followed_places import PAGE, FollowedPlaces
from antiphon.features.ports import FollowedPage, FollowedReader
from antiphon.orchestration.worker import WorkerPart

_log = logging.getLogger("antiphon.worker")

READ_SECONDS = 30.0
"""Time limit of one reading."""

_LOOKS = 4
"""Looks in the declared time, so that reading, appending and consuming have the rest of it."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Seconds after a failure, at first (doubled) and at most."""

T = TypeVar("T")


class SourceFollower:
    """Follows the place of one stream until told to stop.

    Args:
        source: a stream that follows a place.
        places: append what is read, as far as the consumer can follow.
        seconds: time limit of one reading.
    """

    def __init__(self, source: SourceSpec, places: FollowedPlaces, *, seconds: float = READ_SECONDS) -> None:
        assert source.follow is not None
        self._source = source
        self._places = places
        self._pause = within_seconds(source.follow) / _LOOKS
        self._seconds = seconds
        self._reader: FollowedReader | None = None
        self._threads = StepThreads()
        self._said: str | None = None
        self.name = f"follower of {source.name}"

    async def run_until(self, stop: asyncio.Event) -> None:
        """Follow until ``stop``; what fails is tried again, less and less often."""
        failures = 0
        state: FollowedStream | None = None
        try:
            while not stop.is_set():
                try:
                    if state is None:
                        state = await self._call(self._places.begin, self._source)
                    page = await self._read(state.position, stop)
                    if page is None:
                        return
                    state = await self._call(self._places.take, state, page)
                except AntiphonError as error:
                    failures, state = failures + 1, None
                    await self._say(error)
                    await wait(stop, min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE))
                    continue
                failures, self._said = 0, None
                if not page.more:
                    await wait(stop, self._pause)
        finally:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.abandon()
                reader.close()

    async def _read(self, position: str | None, stop: asyncio.Event) -> FollowedPage | None:
        """A page, within the time limit; ``None`` at ``stop``. A reader that hangs is left to its thread.

        Raises:
            AntiphonError: the place's own, or ``UnavailableError`` after the time limit.
        """
        if self._reader is None:
            self._reader = self._places.reader(self._source)
        reader = self._reader
        reading = asyncio.ensure_future(self._call(reader.read, position, PAGE))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({reading, stopped}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if reading.done():
            return reading.result()
        self._reader = None
        reader.abandon()
        reading.add_done_callback(partial(_let_go, reader))
        if stop.is_set():
            return None
        raise UnavailableError(
            f"The place gave no answer within {self._seconds:.0f} s.",
            where=f"source {self._source.name}",
            next_step="It is tried again; look at what it waits for.",
        )

    async def _say(self, error: AntiphonError) -> None:
        """Log and record a failure, once until it is another one."""
        text = str(error)
        if text == self._said:
            return
        _log.warning("The stream %s is not followed, and is tried again: %s", self._source.name, text)
        try:
            await self._call(self._places.failed, self._source.name, text)
        except UnavailableError:
            return  # The catalog is away: it is recorded with the next failure.
        self._said = text

    async def _call(self, called: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(called, *arguments))


def _let_go(reader: FollowedReader, reading: asyncio.Future[FollowedPage]) -> None:
    """Close a reader once the reading that it hung in has ended, whatever came of that."""
    if not reading.cancelled():
        reading.exception()
    reader.close()


class SourceFollowers:
    """Has each followed stream followed, as streams come and go.

    Args:
        sources: the followed streams that are declared now, by name.
        duty: makes the part that follows one while this process has the lease of it.
        look: seconds between looks at the sources at most.
        wakeup: rings when there may be others.
    """

    def __init__(
        self,
        sources: Callable[[], Mapping[str, SourceSpec]],
        duty: Callable[[SourceSpec], WorkerPart],
        *,
        look: float = 10.0,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._sources = sources
        self._duty = duty
        self._look = look
        self._wakeup = wakeup or Wakeup()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Follow what is declared until ``stop``."""
        running: dict[str, tuple[bytes, asyncio.Event, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            with self._wakeup as wakeup:
                while not stop.is_set():
                    try:
                        declared = await asyncio.to_thread(self._sources)
                    except AntiphonError as error:
                        _log.warning("The followed streams cannot be read: %s", error)
                        await wait(stop, self._look)
                        continue
                    known = {name: msgspec.json.encode(source) for name, source in declared.items()}
                    for name in [name for name, (spec, _, _) in running.items() if known.get(name) != spec]:
                        _, ended, task = running.pop(name)
                        ended.set()
                        await task
                    for name in known.keys() - running.keys():
                        ended = asyncio.Event()
                        task = group.create_task(self._duty(declared[name]).run_until(ended))
                        running[name] = (known[name], ended, task)
                    await wakeup.wait_until(stop, wakeup.rested(self._look), found=False)
            for _, ended, _ in running.values():
                ended.set()
