"""One supervised child: what to run, when it counts as ready, how to start and stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from antiphon.core.child_process import lower_session
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.log_files import RotationBounds, set_aside
from antiphon.core.supervision import LISTENERS, SUPERVISOR
from antiphon.core.tls import ClientTls
from antiphon.operations.processes import ProcessRecord, boot, started_ticks, write_record


class SocketAnswers(msgspec.Struct, frozen=True, tag="socket"):
    """Ready when the Unix socket accepts a connection."""

    path: Path


class HttpAnswers(msgspec.Struct, frozen=True, tag="http"):
    """Ready when ``GET path`` is answered with status 200; over TLS when ``tls`` says how.

    The path is that of the process's own health: what it lacks elsewhere, a full disk or an engine that is away, does
    not come back when it is started again.
    """

    host: str
    port: int
    path: str = "/healthz"
    tls: ClientTls | None = None


class FileExists(msgspec.Struct, frozen=True, tag="file"):
    """Ready when the child has written this file; it is removed before each start."""

    path: Path


Readiness = SocketAnswers | HttpAnswers | FileExists


class ChildSpec(msgspec.Struct, frozen=True):
    """A process to keep running.

    Attributes:
        name: names its log and its process record.
        command: the program and its arguments.
        ready: the condition under which it counts as ready.
        environment: added to the supervisor's own; of that it does not get the variables ``withheld``.
        nice: 0 for what users wait for, `[worker] nice` for the worker.
        after: children that must be ready before the first start.
        ready_seconds: how long one start may take, as far as it has a processor.
        drain_seconds: how long it may finish its work after SIGTERM before it is killed.
        sockets: Unix sockets it makes; left-over ones are removed before a start.
        listens: hosts and ports that the supervisor binds for it; children with the same one share its sockets.
        silence: seconds without a sign of life after which it counts as hung, once ready; ``None``: it gives none.
        loops: kernel names of threads that must turn, beside the main one, for it to give signs of life.
        log: bounds of its log, which the process keeps to while it runs, and its start before it does.
    """

    name: str
    command: tuple[str, ...]
    ready: Readiness
    environment: Mapping[str, str] = {}
    withheld: frozenset[str] = frozenset()
    nice: int = 0
    after: tuple[str, ...] = ()
    ready_seconds: float = 180.0
    drain_seconds: float = 20.0
    sockets: tuple[Path, ...] = ()
    listens: tuple[tuple[str, int], ...] = ()
    silence: float | None = None
    loops: tuple[str, ...] = ()
    log: RotationBounds = RotationBounds()


class Child:
    """A running process of a :class:`ChildSpec`, in a session and process group of its own."""

    def __init__(
        self, spec: ChildSpec, process: asyncio.subprocess.Process, channel: socket.socket, log: Path, log_start: int
    ) -> None:
        self.spec = spec
        self.process = process
        self._channel = channel
        self._log = log
        self._log_start = log_start

    @property
    def pid(self) -> int:
        return self.process.pid

    async def exited(self) -> int:
        """The exit code, once it has ended; whatever is left of its group is killed with it."""
        code = await self.process.wait()
        self._signal_group(signal.SIGKILL)
        self._channel.close()
        return code

    def heard(self) -> bool:
        """``True`` when it has sent a heartbeat since the last call."""
        try:
            return bool(self._channel.recv(65_536))
        except (BlockingIOError, ConnectionError):
            return False

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Ask it to finish, then kill its group after ``drain_seconds`` or when ``hurry`` is set.

        Returns:
            ``True`` when it finished by itself.
        """
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        ended = asyncio.ensure_future(self.process.wait())
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            await asyncio.wait({ended, hurried}, timeout=self.spec.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
            finished = ended.done()
            self._signal_group(signal.SIGKILL)
            await ended
        finally:
            hurried.cancel()
        return finished

    def kill(self) -> None:
        """End its whole group now."""
        self._signal_group(signal.SIGKILL)

    def last_words(self, lines: int = 12) -> str:
        """The end of what this start has written to its log."""
        try:
            with self._log.open("rb") as log:
                size = os.fstat(log.fileno()).st_size
                start = self._log_start if self._log_start <= size else 0  # it may have been set aside meanwhile
                log.seek(max(start, size - 8_000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""  # It was deleted, or its disk is gone: no reason to end what still runs.

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


async def start(
    spec: ChildSpec,
    run: Path,
    logs: Path,
    clock: Clock,
    restarts: int,
    listeners: Sequence[socket.socket] = (),
    ended: str = "",
) -> Child:
    """Start a child with its log, its process record and its end of the socket over which it shows signs of life.

    Args:
        listeners: sockets that listen already, which it inherits.
        ended: how the run before ended, for the record; empty for one that was asked to end.

    Raises:
        SetupError: the program does not exist or may not be run.
    """
    log = logs / f"{spec.name}.log"
    if log.exists() and log.stat().st_size >= spec.log.max_bytes:
        set_aside(log, spec.log)
    for left_over in spec.sockets:
        left_over.unlink(missing_ok=True)
    if isinstance(spec.ready, FileExists):
        spec.ready.path.unlink(missing_ok=True)
    ours, its = socket.socketpair()
    ours.setblocking(False)
    inherited = [one.fileno() for one in listeners]
    passed = {name: value for name, value in os.environ.items() if name not in spec.withheld}
    environment = {**passed, **spec.environment, SUPERVISOR: f"{os.getpid()}:{its.fileno()}"}
    if inherited:
        environment[LISTENERS] = ",".join(map(str, inherited))
    with log.open("ab") as out, its:
        log_start = out.tell()
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                pass_fds=(its.fileno(), *inherited),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SetupError(
                f"{spec.command[0]} cannot be run: {error.strerror}.",
                where=spec.name,
                next_step="Install Antiphon again, into one environment.",
            ) from None
    if spec.nice:
        with suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, process.pid, spec.nice)
        lower_session(process.pid, spec.nice)
    ticks = started_ticks(process.pid) or 0
    folder = str(run.resolve())
    record = ProcessRecord(spec.name, process.pid, ticks, clock.now(), restarts, boot(), folder, ended=ended)
    write_record(run, record)
    return Child(spec, process, ours, log, log_start)


async def is_ready(readiness: Readiness, timeout: float = 2.0) -> bool:
    """Tests the condition; a refused, slow or broken answer counts as not ready."""
    try:
        async with asyncio.timeout(timeout):
            match readiness:
                case SocketAnswers(path):
                    _, writer = await asyncio.open_unix_connection(str(path))
                    writer.close()
                    return True
                case HttpAnswers(host, port, path, tls):
                    return await _status_code(host, port, path, tls) == 200
                case FileExists(path):
                    return path.exists()
    except (OSError, TimeoutError, ValueError, IndexError, InvalidInputError):
        return False


async def _status_code(host: str, port: int, path: str, tls: ClientTls | None = None) -> int:
    # Read anew for each probe: certificates may have been rotated since the last one.
    context = None if tls is None else await asyncio.to_thread(tls.context)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
