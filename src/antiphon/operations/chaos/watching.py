"""Measures the probes of an experiment again and again, and says when the steady state is there and when a limit is
passed."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from antiphon.core.errors import AntiphonError
from antiphon.operations.chaos.experiment import Experiment, ProbeActivity
from antiphon.operations.chaos.steady_state import ProbeSample, exceeded
from antiphon.operations.chaos.tolerance import shown, within

MOST_SECONDS = 5.0
"""A probe that has no value after so long has none."""


class SteadyStateWatch:
    """Watches one experiment's probes.

    Args:
        measure: the value of a probe; it raises where there is none.
        record: keeps a measurement.
    """

    def __init__(
        self,
        experiment: Experiment,
        measure: Callable[[ProbeActivity], Awaitable[Any]],
        record: Callable[[ProbeSample], None],
    ) -> None:
        self._experiment = experiment
        self._measure = measure
        self._record = record
        self._samples: dict[str, list[ProbeSample]] = defaultdict(list)
        self._news = asyncio.Event()
        self._limit = asyncio.Event()
        self._armed_at: float | None = None
        self.limit = ""
        """The limit that was passed, in words; empty before."""

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure every probe at the experiment's frequency while the block lasts."""
        tasks = [asyncio.create_task(self._again(probe)) for probe in self._experiment.probes()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self, seconds: float) -> bool:
        """Wait until every probe of the steady state was within its tolerance when it was last measured, and was
        measured since this was called; ``False`` when that takes longer than so many seconds."""
        since = time.time()
        steady = self._experiment.hypothesis.probes
        try:
            async with asyncio.timeout(seconds):
                while not all(self._steady_since(probe, since) for probe in steady):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def passes_limit(self) -> str:
        """Wait until a limit of the experiment is passed, and say which. Measurements count from this call on."""
        self._armed_at = time.time()
        await self._limit.wait()
        return self.limit

    async def sample(self, probe: ProbeActivity) -> ProbeSample:
        """Measure a probe once, and keep what was measured."""
        began, value, error = time.time(), None, ""
        try:
            async with asyncio.timeout(MOST_SECONDS):
                value = await self._measure(probe)
        except TimeoutError:
            error = "no answer in time"
        except (AntiphonError, OSError, aiohttp.ClientError, ValueError) as problem:
            error = (problem.what if isinstance(problem, AntiphonError) else str(problem)) or type(problem).__name__
        except Exception as problem:  # Of a store's driver: told by its type, as its message may hold data.
            error = type(problem).__name__
        steady = not error and (probe.tolerance is None or within(value, probe.tolerance))
        # What was broken meanwhile was broken when the measurement began.
        found = ProbeSample(self._experiment.name, probe.name, began, _kept(value), steady, error[:200])
        self._samples[probe.name].append(found)
        self._record(found)
        self._heed(probe.name)
        self._news.set()
        return found

    def last(self) -> Mapping[str, ProbeSample]:
        """The last measurement of each probe."""
        return {name: samples[-1] for name, samples in self._samples.items() if samples}

    def missing(self) -> str:
        """Tells in words what keeps the state from being steady."""
        found = self.last()
        said = [
            f"{probe.name} is {_words(found.get(probe.name))}, not {shown(probe.tolerance)}"
            for probe in self._experiment.hypothesis.probes
            if probe.name not in found or not found[probe.name].steady
        ]
        return "; ".join(said)

    async def _again(self, probe: ProbeActivity) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.sample(probe)
            due = max(due + self._experiment.frequency, loop.time())
            await asyncio.sleep(due - loop.time())

    def _steady_since(self, probe: ProbeActivity, since: float) -> bool:
        samples = self._samples[probe.name]
        return bool(samples) and samples[-1].steady and samples[-1].at >= since

    def _heed(self, probe: str) -> None:
        if self._armed_at is None or self._limit.is_set():
            return
        since = [one for one in self._samples[probe] if one.at >= self._armed_at]
        for limit in self._experiment.stop_when:
            if limit.probe == probe and exceeded(limit, since, time.time()):
                self.limit = f"{probe} was {_words(since[-1])} for {limit.lasting} or longer"
                self._limit.set()


def _kept(value: Any) -> Any:
    """The part of a value that is kept: bodies and outputs may hold data."""
    if isinstance(value, Mapping):
        return value.get("status")
    return value if isinstance(value, int | float | bool | str | None) else str(value)[:200]


def _words(sample: ProbeSample | None) -> str:
    if sample is None:
        return "not measured"
    return sample.error or str(sample.value)
