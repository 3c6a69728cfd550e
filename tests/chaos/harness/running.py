"""A platform that runs for as long as a block lasts: its processes as ``antiphon up`` starts them, or one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from antiphon.core.child_process import start_child

_POLL = 0.05
READY_SECONDS = 240.0
"""The first start may fetch a model."""


@asynccontextmanager
async def supervised(
    root: Path,
    url: str,
    *,
    drain_seconds: float = 60.0,
    verify: ssl.SSLContext | bool = True,
    under: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: str = "up.log",
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """``antiphon up`` in a project; it is drained at the end, and killed when it does not end.

    Args:
        under: a command that becomes it (in namespaces of its own, say).
        environment: added to this process's own.

    Raises:
        RuntimeError: it ended before it was ready; the error holds its last words.
        TimeoutError: it was not ready in time.
    """
    command = (*under, sys.executable, "-m", "antiphon.cli.main", "up", "--project", str(root), "--json")
    async with started(command, root / log, drain_seconds, environment) as supervisor:
        await until(lambda: ready(url, supervisor, root / log, verify), bool, READY_SECONDS)
        yield supervisor


@asynccontextmanager
async def separate(
    root: Path,
    url: str,
    engine: Sequence[str],
    *,
    worker: bool = True,
    drain_seconds: float = 30.0,
    verify: ssl.SSLContext | bool = True,
) -> AsyncIterator[None]:
    """Engine, gateway and worker of a project, each started by itself, the engine with this command.

    Raises:
        As :func:`supervised`.
    """
    project = ("--project", str(root))
    log = root / "processes.log"
    async with started(engine, log, drain_seconds):
        gateway_command = (sys.executable, "-m", "antiphon.app.gateway", *project)
        async with started(gateway_command, log, drain_seconds) as gateway:
            await until(lambda: ready(url, gateway, log, verify), bool, READY_SECONDS)
            if not worker:
                yield
                return
            async with started((sys.executable, "-m", "antiphon.app.worker", *project), log, drain_seconds):
                yield


async def ready(url: str, process: subprocess.Popen[bytes], log: Path, verify: ssl.SSLContext | bool = True) -> bool:
    """Whether the gateway says that it can answer.

    Raises:
        RuntimeError: the process has ended.
    """
    if process.poll() is not None:
        words = log.read_text(encoding="utf-8", errors="replace")[-2_000:]
        raise RuntimeError(f"It ended with {process.returncode}:\n{words}")
    # Without TLS there is nothing to verify, and reading every authority takes longer than the question.
    async with httpx2.AsyncClient(timeout=5.0, verify=verify if url.startswith("https:") else False) as probe:
        return (await probe.get(f"{url}/readyz")).status_code == 200


async def until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool], seconds: float) -> Any:
    """Ask until the answer is as wanted, and return it; nobody answering counts as not yet.

    Raises:
        TimeoutError: it did not come true in time.
    """
    found: object = None
    try:
        async with asyncio.timeout(seconds) as limit:
            while True:
                try:
                    found = await ask()
                    if holds(found):
                        return found
                except httpx2.HTTPError as error:
                    found = error
                await asyncio.sleep(_POLL)
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"Not within {seconds:.0f} s; the last answer was {found!r}") from None


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for a project that is not kept; its path is short enough for the sockets in it."""
    return tempfile.TemporaryDirectory(prefix="antiphon-")


@asynccontextmanager
async def started(
    command: Sequence[str], log: Path, drain_seconds: float, environment: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process; it is drained at the end, and killed when it does not end."""
    with log.open("ab") as out:
        process = start_child(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    try:
        yield process
    finally:
        await asyncio.to_thread(_end, process, drain_seconds)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
