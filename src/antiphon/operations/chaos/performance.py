"""The flow of one experiment: steady state, method, steady state again.

Invariants: nothing is broken unless the steady state was there before; every fault is over before the steady state is
waited for; a limit, the longest duration, Ctrl-C and an error end the method in the same way, by ending its faults.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, Protocol

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError
from antiphon.operations.chaos.experiment import Experiment, FaultActivity, ProbeActivity
from antiphon.operations.chaos.faults import described
from antiphon.operations.chaos.journal import (
    ExperimentEnd,
    ExperimentStart,
    JournalEvent,
    MethodEnd,
    MethodStart,
    ProbeLine,
    QuestionCounts,
)
from antiphon.operations.chaos.tolerance import shown
from antiphon.operations.chaos.watching import SteadyStateWatch


class LastingFault(Protocol):
    """A fault under way: one that a guardian holds, or events that are being sent."""

    async def over(self) -> None:
        """Wait until its time is over."""
        ...


class ExperimentTools(msgspec.Struct, frozen=True):
    """Tools of an experiment, by which it reaches what is outside of it.

    Attributes:
        measure: the value of a probe. begin: begins a fault, which ends with the block at the latest.
        record: keeps an event. tell: says how far it is. counts: of the questions since a moment of the monotonic
            clock.
        problem: what the last question that was not answered got.
    """

    measure: Callable[[ProbeActivity], Awaitable[Any]]
    begin: Callable[[FaultActivity], AbstractAsyncContextManager[LastingFault]]
    record: Callable[[JournalEvent], None]
    tell: Callable[[str], None]
    counts: Callable[[float], QuestionCounts | None]
    problem: Callable[[], str]


async def perform(experiment: Experiment, tools: ExperimentTools) -> None:
    """Perform an experiment; what came of it is in its events."""
    watch = SteadyStateWatch(experiment, tools.measure, tools.record)
    ended, reason, began = "interrupted", "It was ended before its time.", time.monotonic()
    recovered: bool | None = None
    tools.record(_start(experiment))
    try:
        async with AsyncExitStack() as throughout:
            if experiment.looks_during:
                await throughout.enter_async_context(watch.watching())
            if experiment.looks_before:
                tools.tell(f"{experiment.name}: is the state steady?")
                async with nullcontext() if experiment.looks_during else watch.watching():
                    if not await watch.settled(experiment.settle):
                        ended, reason = "unsteady", f"Nothing was broken: {watch.missing()}. {tools.problem()}".rstrip()
                        return
            began = time.monotonic()
            tools.record(MethodStart(experiment.name, time.time()))
            ended, reason = await _method(experiment, tools, watch)
            tools.record(MethodEnd(experiment.name, time.time()))
            if experiment.looks_after:
                tools.tell(f"{experiment.name}: is the state steady again?")
                async with nullcontext() if experiment.looks_during else watch.watching():
                    recovered = await watch.settled(experiment.recovery)
                if not recovered:
                    late = f"The steady state was not back in {experiment.recovery:g} s: {watch.missing()}."
                    reason = f"{reason} {late}".strip()
    finally:
        counts = tools.counts(began)
        tools.record(ExperimentEnd(experiment.name, time.time(), ended, reason, recovered, counts))


async def _method(experiment: Experiment, tools: ExperimentTools, watch: SteadyStateWatch) -> tuple[str, str]:
    """Perform the method, and its rollbacks, until it is over or a limit is passed; how it ended, and why."""
    method = asyncio.create_task(_activities(experiment.method, tools, watch))
    limit = asyncio.create_task(watch.passes_limit())
    try:
        await asyncio.wait({method, limit}, timeout=experiment.max_duration, return_when=asyncio.FIRST_COMPLETED)
        if limit.done():
            return "stopped", f"A limit was passed: {limit.result()}."
        if not method.done():
            return "stopped", f"It lasted longer than {experiment.max_duration:g} s."
        method.result()
        return "completed", ""
    except AntiphonError as error:
        return "stopped", str(error)
    finally:
        for task in (method, limit):
            task.cancel()
        await asyncio.gather(method, limit, return_exceptions=True)
        await _roll_back(experiment.rollbacks, tools, watch)


async def _roll_back(
    rollbacks: Sequence[FaultActivity | ProbeActivity], tools: ExperimentTools, watch: SteadyStateWatch
) -> None:
    try:
        await _activities(rollbacks, tools, watch)
    except AntiphonError as error:
        tools.tell(f"A rollback failed: {error}")


async def _activities(
    activities: Sequence[FaultActivity | ProbeActivity], tools: ExperimentTools, watch: SteadyStateWatch
) -> None:
    async with AsyncExitStack() as background:
        lasting: list[LastingFault] = []
        for one in activities:
            await asyncio.sleep(one.before)
            if isinstance(one, ProbeActivity):
                await watch.sample(one)
            elif one.background:
                tools.tell(f"{one.name}: {described(one.fault)}")
                lasting.append(await background.enter_async_context(tools.begin(one)))
            else:
                tools.tell(f"{one.name}: {described(one.fault)}")
                async with tools.begin(one) as fault:
                    await fault.over()
            await asyncio.sleep(one.after)
        for fault in lasting:
            await fault.over()


def _start(experiment: Experiment) -> ExperimentStart:
    degraded = experiment.degraded
    return ExperimentStart(
        experiment=experiment.name,
        at=time.time(),
        origin=experiment.origin,
        title=experiment.title,
        steady=_lines(experiment.hypothesis.probes),
        degraded=None if degraded is None else _lines(degraded.probes),
        degraded_title="" if degraded is None else degraded.title,
        longest=0.0 if degraded is None else parse_duration(degraded.longest).total_seconds(),
        continuous=experiment.looks_during,
    )


def _lines(probes: Sequence[ProbeActivity]) -> tuple[ProbeLine, ...]:
    return tuple(ProbeLine(one.name, shown(one.tolerance)) for one in probes)
