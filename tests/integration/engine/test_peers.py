"""The engine's socket keeps other users out, by its modes and by what the kernel says of the other end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from tests.chaos.harness.running import scratch

from antiphon.core.errors import SetupError, UnavailableError
from antiphon.engine.api import client, server
from antiphon.engine.api.client import EngineClient
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be another user")


def as_nobody(act: Callable[[], bytes]) -> tuple[int, int]:
    """Run in a child of another user; its pid and the end of a pipe with what it returned, closed at its end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:  # pragma: no cover -- the child
        signal.alarm(20)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.write(writing, act())
    finally:
        os._exit(0)


def told(pid: int, reading: int) -> bytes:
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    return content


async def served(path: Path, stop: asyncio.Event, ready: asyncio.Event) -> None:
    engine = LocalEngine({"simulated": SimulatedRuntime("simulated", Layout(64, 2, 4096))})
    await engine.start()
    await server.serve(engine, path, stop, ready=ready.set)


async def test_folder_and_socket_are_the_owners_alone() -> None:
    with scratch() as folder:
        path = Path(folder) / "run" / "engine.sock"
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(served(path, stop, ready))
        async with asyncio.timeout(20):
            await ready.wait()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        described = EngineClient(path)
        assert (await described.describe()).models
        await described.close()
        stop.set()
        await task


@as_root
@pytest.mark.parametrize("checked", [True, False])
async def test_another_user_is_refused_where_modes_were_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, checked: bool
) -> None:
    if not checked:
        monkeypatch.setattr(server, "is_same_user", lambda connection: True)
    with scratch() as folder:
        path = Path(folder) / "run" / "engine.sock"
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(served(path, stop, ready))
        async with asyncio.timeout(20):
            await ready.wait()
        for opened in (Path(folder), path.parent, path):
            opened.chmod(0o777)

        def connect() -> bytes:
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(path))
                return b"greeted" if stranger.recv(64) else b"refused"

        assert await asyncio.to_thread(told, *as_nobody(connect)) == (b"refused" if checked else b"greeted")
        stop.set()
        await task
    assert ("process of another user" in caplog.text) is checked


@as_root
@pytest.mark.parametrize("checked", [True, False])
async def test_nothing_is_sent_to_a_socket_that_another_user_serves(
    monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    if not checked:
        monkeypatch.setattr(client, "is_same_user", lambda connection: True)
    with scratch() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "engine.sock"

        def listen() -> bytes:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen()
                connection, _ = listener.accept()
                return connection.recv(64) or b"nothing"

        pid, reading = as_nobody(listen)
        end = monotonic() + 10
        while not path.exists():
            assert monotonic() < end
            await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError, match="another user" if checked else "hung up|cannot be reached"):
            await EngineClient(path).describe()
        received = await asyncio.to_thread(told, pid, reading)
    assert (received == b"nothing") is checked


@as_root
async def test_a_folder_of_another_user_is_not_used() -> None:
    with scratch() as folder:
        theirs = Path(folder) / "theirs"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        with pytest.raises(SetupError, match="another user"):
            await served(theirs / "engine.sock", asyncio.Event(), asyncio.Event())
