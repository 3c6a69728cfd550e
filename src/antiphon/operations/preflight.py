"""Checks before anything is started: nobody else runs this project, and nothing of an earlier run is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.core.disk import file_lock
from antiphon.core.errors import ConflictError, SetupError
from antiphon.operations.processes import is_running, read_records, signal_group

NAME_SECONDS = 20.0
"""Time for which the predecessor of a process of one name is waited for: it drains for 15 s at most."""

_LOOK_SECONDS = 0.1
_KILLED_SECONDS = 5.0
"""Time that a killed process may take to be gone."""


@contextmanager
def directory_lock(run: Path) -> Iterator[None]:
    """Hold ``run/up.lock`` for as long as this project is supervised; the kernel lets go when we die.

    Raises:
        SetupError: another supervisor holds it.
    """
    with _held(run / "up.lock") as holder:
        if holder is not None:
            raise SetupError(
                f"The project is already up (process {holder}).",
                where=str(run.parent.parent),
                next_step="Use it as it is, or stop the other one with Ctrl-C first.",
            )
        yield


@contextmanager
def name_lock(run: Path, name: str, patience: float = NAME_SECONDS) -> Iterator[None]:
    """Hold the name of a process of this folder; the kernel lets go when the process dies.

    Two of one name would write one log, and be one in records and messages.

    Args:
        patience: seconds for which a predecessor may take to end: it answers what it has.

    Raises:
        ConflictError: another process still has the name.
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + patience
    while True:
        with _held(run / f"{name}.name") as holder:
            if holder is None:
                yield
                return
        if time.monotonic() >= deadline:
            raise ConflictError(
                f"Another process of this project has the name {name!r} (process {holder}).",
                where=str(run.parent.parent),
                next_step="Give this one a name of its own (--name), or stop the other one first.",
            )
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _held(path: Path) -> Iterator[str | None]:
    """Hold a lock file that says who holds it; yields the other process where there is one."""
    with file_lock(path, wait=False) as held:
        if held is None:
            yield path.read_text(errors="replace").strip() or "unknown"
            return
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        yield None


def require_not_up(run: Path) -> None:
    """Raise when another supervisor holds this project, without taking it.

    Raises:
        SetupError: another supervisor runs here.
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with directory_lock(run):
        pass


def is_up(run: Path) -> bool:
    """Tell if a supervisor holds this project, without taking it."""
    try:
        require_not_up(run)
    except SetupError:
        return True
    return False


async def end_left_over(run: Path) -> tuple[str, ...]:
    """End what an earlier supervisor of this project left behind.

    Returns:
        The names of those that were still running.

    Raises:
        SetupError: another supervisor runs here.
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with directory_lock(run):
        return await end_orphans(run)


async def end_orphans(run: Path, grace: float = 10.0) -> tuple[str, ...]:
    """End children that an earlier supervisor left behind when it was killed, and forget their records.

    Call it while :func:`directory_lock` is held: then no living supervisor has made them.

    Returns:
        The names of those that were still running.
    """
    orphans = [record for record in read_records(run) if is_running(record)]
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILLED_SECONDS)):
        for orphan in orphans:
            signal_group(orphan, number)
        deadline = time.monotonic() + patience
        while any(is_running(orphan) for orphan in orphans) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    for record in run.glob("*.pid"):
        record.unlink(missing_ok=True)
    return tuple(orphan.name for orphan in orphans)
