"""Replaces the processes of a running platform one by one, so that another one of the kind serves meanwhile.

Invariant: a process is asked to end only when those that were asked before it are ready again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from antiphon.core.errors import SetupError
from antiphon.operations.children import ChildSpec, is_ready
from antiphon.operations.processes import ProcessRecord, is_running, read_records, signal_group

_POLL = 0.05
_START_SECONDS = 240.0


class Replacement(msgspec.Struct, frozen=True):
    """A process that took another one's place: both pids, and seconds until the new one was ready."""

    process: str
    before: int
    pid: int
    seconds: float


async def replace(
    specs: Sequence[ChildSpec], run: Path, listed: Callable[[ProcessRecord], Awaitable[bool]]
) -> AsyncIterator[Replacement]:
    """Ask each process to finish what it is doing and to end, and wait until its supervisor has it ready again.

    One that does not end within its time is killed, as when the platform is stopped. One that its supervisor has
    stopped because it is not needed is passed over: its next start is a new one anyhow.

    Args:
        listed: tells if the users of the new process know of it, which its readiness alone does not say.

    Raises:
        SetupError: a process does not run, or its successor is not ready in time; those after it are left as they are.
    """
    for spec in specs:
        began = time.monotonic()
        before = _record(run, spec.name)
        if before is None and _is_stopped(run, spec.name):
            continue
        if before is None:
            raise SetupError(
                f"The process {spec.name} does not run.", where=spec.name, next_step="See `antiphon status`."
            )
        signal_group(before, signal.SIGTERM)
        while is_running(before):
            if time.monotonic() - began > spec.drain_seconds:
                signal_group(before, signal.SIGKILL)
            await asyncio.sleep(_POLL)
        after = await _successor(spec, run, before, listed, began + spec.drain_seconds + _START_SECONDS)
        if after is not None:
            yield Replacement(spec.name, before.pid, after.pid, round(time.monotonic() - began, 2))


async def _successor(
    spec: ChildSpec, run: Path, before: ProcessRecord,
    listed: Callable[[ProcessRecord], Awaitable[bool]], until: float,
) -> ProcessRecord | None:  # fmt: skip
    while time.monotonic() < until:
        after = _record(run, spec.name)
        new = after is not None and (after.pid, after.started_ticks) != (before.pid, before.started_ticks)
        if after is not None and new and await is_ready(spec.ready) and await listed(after):
            return after
        if _is_stopped(run, spec.name):
            return None
        await asyncio.sleep(_POLL)
    raise SetupError(
        f"The process {spec.name} was ended and its successor is not ready.",
        where=spec.name,
        next_step=f"Its log says why; the supervisor goes on trying. {run.parent / 'logs'}",
    )


def _is_stopped(run: Path, name: str) -> bool:
    """Tells whether a process does not run because its supervisor has stopped it."""
    return any(one.name == name and one.stopped for one in read_records(run))


def _record(run: Path, name: str) -> ProcessRecord | None:
    """The record of a process that runs."""
    return next((one for one in read_records(run) if one.name == name and is_running(one)), None)
