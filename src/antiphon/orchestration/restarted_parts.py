"""Parts of a worker that fail: each is begun again by itself, so that a broken one never ends the others.

The supervisor begins the whole process again for what no part can mend: a catalog that is away or damaged, stores that
were moved, a machine without memory or disk.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from antiphon.core.errors import CorruptionError, SetupError, UnavailableError
from antiphon.core.logs import described
from antiphon.core.pauses import almost, wait
from antiphon.durable.run import LeaseLostError
from antiphon.orchestration.worker import WorkerPart

_log = logging.getLogger("antiphon.worker")

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""The wait before a part is begun again; doubled with each failure in a row, up to the longest."""

STEADY_SECONDS = 60.0
"""A part that has run for so long again is broken no more."""

_OF_THE_PROCESS = (UnavailableError, CorruptionError, SetupError, LeaseLostError, MemoryError)


class BrokenPart(msgspec.Struct, frozen=True):
    """A part of a worker that failed and is begun again.

    Attributes:
        error: of its last failure, without values.
        failures: how often it failed in a row.
    """

    name: str
    error: str
    failures: int


class BrokenParts:
    """The parts of one process that are broken now."""

    def __init__(self) -> None:
        self._parts: dict[str, BrokenPart] = {}

    def note(self, part: BrokenPart) -> None:
        """Count a part as broken."""
        self._parts[part.name] = part

    def clear(self, name: str) -> None:
        """Count a part as sound again."""
        self._parts.pop(name, None)

    def detail(self) -> str | None:
        """The parts as they are said with a lease, ``None`` while none is broken."""
        found = sorted(self._parts.values(), key=lambda part: part.name)
        return msgspec.json.encode(found).decode() if found else None


def broken_parts(detail: str | None) -> tuple[BrokenPart, ...]:
    """The parts that a lease's detail names."""
    return () if detail is None else msgspec.json.decode(detail, type=tuple[BrokenPart, ...])


class RestartedPart:
    """Runs a part, and begins it again when it fails.

    Args:
        broken: is told of it while it fails.
    """

    def __init__(
        self, part: WorkerPart, broken: BrokenParts, *, first: float = FIRST_SECONDS, steady: float = STEADY_SECONDS
    ) -> None:
        self._part = part
        self._broken = broken
        self._first = first
        self._steady = steady
        self.name = str(getattr(part, "name", type(part).__name__))

    async def run_until(self, stop: asyncio.Event) -> None:
        """Run the part until ``stop``, or until it ends by itself.

        Raises:
            UnavailableError, CorruptionError, SetupError, LeaseLostError, MemoryError: what the part met is no failure
                of its own; the process is to begin again.
        """
        loop, failures = asyncio.get_running_loop(), 0
        while not stop.is_set():
            began = loop.time()
            sound = loop.call_later(self._steady, self._broken.clear, self.name)
            try:
                await self._part.run_until(stop)
                return
            except Exception as error:
                if _is_of_the_process(error):
                    raise
                failures = 1 if loop.time() - began >= almost(self._steady) else failures + 1
                pause = min(self._first * 2 ** min(failures - 1, 30), LONGEST_SECONDS)
                _log.exception("%s failed, %d times in a row; it begins again in %.0f s", self.name, failures, pause)
                self._broken.note(BrokenPart(self.name, described(error), failures))
            finally:
                sound.cancel()
            await wait(stop, pause)


def _is_of_the_process(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is_of_the_process(one) for one in error.exceptions)
    return isinstance(error, _OF_THE_PROCESS)
