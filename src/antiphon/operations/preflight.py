"""What is checked before anything is started: nobody else runs this project, the port is free, no orphans."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.core.errors import SetupError
from antiphon.operations.processes import is_running, read_records, signal_group


@contextmanager
def directory_lock(run: Path) -> Iterator[None]:
    """Hold ``run/up.lock`` for as long as this project is supervised; the kernel lets go when we die.

    Raises:
        SetupError: another supervisor holds it.
    """
    descriptor = os.open(run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise SetupError(
                f"The project is already up (process {holder}).",
                where=str(run.parent.parent),
                next_step="Use it as it is, or stop the other one with Ctrl-C first.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def require_not_up(run: Path) -> None:
    """Raise when another supervisor holds this project, without taking it.

    Raises:
        SetupError: another supervisor runs here.
    """
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with directory_lock(run):
        pass


def require_free_port(host: str, port: int) -> None:
    """Raise when something listens there already.

    Raises:
        SetupError: the port is taken, may not be used, or the host is not one of this machine's.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise SetupError(f"{host!r} is no address: {error.strerror}.", where="gateway.host") from None
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise SetupError(
                f"Port {port} on {host} {reason}.",
                where="gateway.port",
                next_step="Stop what listens there, or set another `port` under [gateway] in antiphon.toml.",
            ) from None


async def end_orphans(run: Path, grace: float = 10.0) -> tuple[str, ...]:
    """End children that an earlier supervisor left behind when it was killed, and forget their records.

    Returns:
        The names of those that were still running.
    """
    orphans = [record for record in read_records(run) if is_running(record)]
    for orphan in orphans:
        signal_group(orphan, signal.SIGTERM)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    while any(is_running(orphan) for orphan in orphans) and loop.time() < deadline:
        await asyncio.sleep(0.05)
    for orphan in orphans:
        signal_group(orphan, signal.SIGKILL)
    for record in run.glob("*.pid"):
        record.unlink(missing_ok=True)
    return tuple(orphan.name for orphan in orphans)
