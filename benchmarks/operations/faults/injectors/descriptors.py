"""Injectors on sockets that processes have: a listener that is shared, and the way from the gateway to the engine."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_PIDFD_GETFD = 438
"""The number of the system call, the same on every architecture."""

_ACCEPTING = 3
_GREETING_SECONDS = 5.0


async def forgotten_listener(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A process of an earlier start has the gateway's listening socket still: it takes connections, and hangs."""
    end = threading.Event()

    def accept(listener: socket.socket) -> None:
        taken = []
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while not end.is_set():
            if poll.poll(100):
                # The gateway may have been quicker.
                with suppress(OSError):
                    taken.append(listener.accept()[0])
        for one in taken:
            one.close()

    with sockets_of(project.pid("gateway")) as found:
        listener = next((one for one in found if listens(one, project.port)), None)
        if listener is None:
            raise RuntimeError("The gateway's listening socket cannot be had here.")
        # It is not blocking already: the gateway has the same one.
        listener.setblocking(False)
        threads = [threading.Thread(target=accept, args=(listener,), daemon=True) for _ in range(_ACCEPTING)]
        try:
            for one in threads:
                one.start()
            await asyncio.sleep(seconds)
        finally:
            end.set()
            for one in threads:
                await asyncio.to_thread(one.join)


def relayed(change: Callable[[bytes, random.Random], bytes], delay: float = 0.0) -> Injector:
    """Something stands between the gateway and the engine, and changes or delays what the engine says.

    Args:
        change: of what is read at once, after the engine's greeting.
        delay: seconds by which all of it is late; a greeting is waited for longer than that.
    """
    assert delay < _GREETING_SECONDS

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        async with _relay(project, lambda said: change(said, chance), delay):
            await asyncio.sleep(seconds)

    return act


@asynccontextmanager
async def _relay(project: FaultyProject, change: Callable[[bytes], bytes], delay: float) -> AsyncIterator[None]:
    """The engine's socket is a relay's while the block lasts, and the gateway has to connect anew at both its ends."""
    place = project.root / ".antiphon" / "run" / "engine.sock"
    aside = place.with_name("engine.sock.before")
    opened: list[asyncio.StreamWriter] = []
    loop = asyncio.get_running_loop()

    def written(writer: asyncio.StreamWriter, said: bytes) -> None:
        if not writer.is_closing():
            writer.write(said)

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, of_engine: bool) -> None:
        greeted = False
        with suppress(OSError):
            while said := await reader.read(65_536):
                if not of_engine:
                    written(writer, said)
                    continue
                said, greeted = change(said) if greeted else said, True
                if delay:
                    loop.call_later(delay, written, writer, said)
                else:
                    written(writer, said)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(aside)
        except OSError:
            writer.close()
            return
        opened.append(engine_writer)
        await asyncio.gather(passed(reader, engine_writer, False), passed(engine_reader, writer, True))

    place.rename(aside)
    try:
        server = await asyncio.start_unix_server(connected, place)
        own = place.stat().st_ino
        try:
            disconnect(project.pid("gateway"), place)
            yield
        finally:
            server.close()
            # An engine that was started meanwhile has a socket of its own there.
            if place.exists() and place.stat().st_ino == own:
                place.unlink()
    finally:
        if place.exists():
            aside.unlink(missing_ok=True)
        else:
            aside.rename(place)
        for writer in opened:
            writer.transport.abort()


def garbled(said: bytes, chance: random.Random) -> bytes:
    """As long as it was, and nothing of it is right."""
    return chance.randbytes(len(said))


def disconnect(pid: int, place: Path) -> None:
    """End a process's connections with what listens at a path, as a kernel may."""
    with sockets_of(pid) as found:
        for one in found:
            with suppress(OSError):
                if one.family == socket.AF_UNIX and Path(str(one.getpeername())).name == place.name:
                    one.shutdown(socket.SHUT_RDWR)


def listens(one: socket.socket, port: int) -> bool:
    return (
        one.family in (socket.AF_INET, socket.AF_INET6)
        and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        and one.getsockname()[1] == port
    )


@contextmanager
def sockets_of(pid: int) -> Iterator[list[socket.socket]]:
    """The sockets that another process has, for this one too while the block lasts; as root (pidfd_getfd(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    process, found = os.pidfd_open(pid), []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry).startswith("socket:"):
                    descriptor = library.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
                    if descriptor >= 0:
                        found.append(socket.socket(fileno=descriptor))
        yield found
    finally:
        os.close(process)
        for one in found:
            one.close()


DESCRIPTORS: dict[str, Injector] = {
    "forgotten_listener": forgotten_listener,
    "engine_link_garbled": relayed(garbled),
    "engine_link_lags": relayed(lambda said, chance: said, 3.0),
}
