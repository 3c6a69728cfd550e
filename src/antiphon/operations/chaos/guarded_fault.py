"""The runner's side of a guarded fault: starts the guardian, and has it end the fault when the block does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from antiphon.core.errors import UnavailableError
from antiphon.operations.chaos.guardian import END, FaultOrder, GuardianStatus

_BEGIN_SECONDS = 30.0
_END_SECONDS = 10.0


class FaultUnderGuard(msgspec.Struct, frozen=True):
    """A fault under way: what it touches, and the process that holds it."""

    touched: tuple[str, ...]
    process: asyncio.subprocess.Process

    async def over(self) -> None:
        """Wait until its time is over."""
        await _reply(self.process)


@asynccontextmanager
async def guarded(order: FaultOrder) -> AsyncIterator[FaultUnderGuard]:
    """Begin a fault, and end it with the block, unless its time was over before.

    Raises:
        UnavailableError: it could not be begun.
    """
    guardian_log = Path(order.folder) / "guardians.log"
    with guardian_log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "antiphon.operations.chaos.guardian",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        async with asyncio.timeout(_BEGIN_SECONDS):
            reply = await _reply(process)
        if reply is None or reply.state != "begun":
            why = "its guardian ended" if reply is None else reply.reason
            raise UnavailableError(
                f"{order.name} could not be begun: {why}", where=order.name,
                next_step=f"See {guardian_log}.",
            )  # fmt: skip
        yield FaultUnderGuard(reply.touched, process)
    finally:
        # Also while this task is being cancelled: the fault is over before anything else is done.
        await asyncio.shield(_end(process))


async def _reply(process: asyncio.subprocess.Process) -> GuardianStatus | None:
    assert process.stdout is not None
    line = await process.stdout.readline()
    return msgspec.json.decode(line, type=GuardianStatus) if line else None


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.write(END)
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_SECONDS)
    except TimeoutError:
        process.terminate()
        await process.wait()
