"""The guardian of one fault: a process of its own that begins the fault, and ends it whatever happens to its runner.

Invariant: the fault lasts no longer than its time, and no longer than the process that ordered it. The order comes over
the guardian's standard input, of which the runner holds the only other end: when the runner ends, however it does,
the kernel closes that, and the guardian ends the fault. It is in a session of its own, so that Ctrl-C reaches the
runner alone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.core.errors import AntiphonError
from antiphon.operations.chaos.clock_injector import ClockInjector
from antiphon.operations.chaos.faults import (
    ClockSkew,
    CpuLoad,
    DiskFill,
    GuardedFault,
    MemoryLoad,
    ModelDamage,
    ProcessFault,
    described,
    seconds_of,
)
from antiphon.operations.chaos.injectors import DiskInjector, LoadInjector, ProcessInjector
from antiphon.operations.chaos.journal import FaultEnd, FaultStart, Journal
from antiphon.operations.chaos.model_injector import ModelInjector
from antiphon.operations.chaos.proxy_control import ProxyInjector

END = b"end\n"
"""Sent to a guardian whose fault is to end before its time; without it, its runner is gone."""

RUNNER_GONE = "the runner is gone"


class FaultOrder(msgspec.Struct, frozen=True):
    """Order to a guardian.

    Attributes:
        target: name of the process, of a fault of one; path of the file, of one of a model.
        folder: the run's, with its journal; ``run``: that of process records; ``project``: whose disk is filled.
        catalog: an SQLite file; ``None`` without one.
    """

    experiment: str
    name: str
    fault: GuardedFault
    target: str
    folder: str
    run: str
    project: str
    catalog: str | None = None


class GuardianStatus(msgspec.Struct, frozen=True):
    """A guardian's line: its fault has begun, is over, or could not be begun."""

    state: Literal["begun", "over", "failed"]
    touched: tuple[str, ...] = ()
    reason: str = ""


def main() -> None:
    """Guard the fault that is ordered over standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    order = msgspec.json.decode(_line(), type=FaultOrder)
    journal, injector = Journal(Path(order.folder)), _injector(order)
    try:
        touched: tuple[str, ...] = ()
        began = time.time()
        try:
            touched = injector.begin()
            journal.append(FaultStart(order.experiment, order.name, began, described(order.fault), touched))
            _say(GuardianStatus("begun", touched))
            reason = _wait(seconds_of(order.fault), injector.tick)
        except SystemExit:
            reason = "the guardian was told to end"
        finally:
            injector.end()
    except AntiphonError as error:
        _say(GuardianStatus("failed", reason=str(error)))
        return
    counted = injector.counted if isinstance(injector, ProxyInjector) else ""
    journal.append(FaultEnd(order.experiment, order.name, time.time(), reason, counted))
    _say(GuardianStatus("over", touched, reason))


def _wait(seconds: float, tick: Callable[[], float]) -> str:
    """Wait until the fault's time or its runner's is over; the reason why it ends."""
    until, next_tick = time.monotonic() + seconds, time.monotonic()
    while (now := time.monotonic()) < until:
        if now >= next_tick:
            next_tick = now + tick()
        readable, _, _ = select.select([0], [], [], max(0.0, min(until, next_tick) - time.monotonic()))
        if readable:
            return "the experiment ended it" if os.read(0, 64) else RUNNER_GONE
    return "its time was over"


def _injector(
    order: FaultOrder,
) -> ProcessInjector | ClockInjector | ModelInjector | LoadInjector | DiskInjector | ProxyInjector:
    fault = order.fault
    if isinstance(fault, ClockSkew):
        return ClockInjector(fault, Path(order.run), order.target)
    if isinstance(fault, ProcessFault):
        return ProcessInjector(
            fault, Path(order.run), order.target, None if order.catalog is None else Path(order.catalog)
        )
    if isinstance(fault, ModelDamage):
        return ModelInjector(fault, Path(order.target))
    if isinstance(fault, CpuLoad | MemoryLoad):
        return LoadInjector(fault)
    if isinstance(fault, DiskFill):
        return DiskInjector(fault, Path(order.project))
    return ProxyInjector(fault, Path(order.run))


def _line() -> bytes:
    """The first line of standard input, and not a byte more: its end says something later."""
    found = bytearray()
    while not found.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            sys.exit(0)
        found += piece
    return bytes(found)


def _say(reply: GuardianStatus) -> None:
    try:
        os.write(1, msgspec.json.encode(reply) + b"\n")
    except OSError:  # Nobody listens any more; the journal has it.
        return


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
