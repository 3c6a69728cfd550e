"""Listening: the supervisor binds an address once and passes the sockets on to each start of a child.

Two supervisors that begin at the same moment cannot both have an address, a probe of it reaches nothing but the child
it was passed to, and connections that arrive while that child is restarted wait instead of being refused.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from pathlib import Path

from antiphon.core.errors import SetupError

_BACKLOG = 2_048
_LISTENING = "0A"
"""The state of a listening socket in ``/proc/net/tcp`` (proc_pid_net(5))."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that the host has, as a server on it would.

    Raises:
        SetupError: the port is taken, may not be used, or the host is not one of this machine's.
    """
    return _bound(host, port, listening=True)


def require_free_port(host: str, port: int) -> None:
    """Raise when something listens there already.

    Raises:
        SetupError: as :func:`listen`.
    """
    for probe in _bound(host, port, listening=False):
        probe.close()


def port_holder(port: int) -> str | None:
    """The process that listens on a port, as far as this user may know it: ``process PID (COMMAND)``."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(str(file.readlink()) in inodes for file in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                return f"process {process.name} ({b' '.join(words).decode(errors='replace')[:200]})"
    return None


def _bound(host: str, port: int, *, listening: bool) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SetupError(f"{host!r} is no address: {error.strerror}.", where="gateway.host") from None
    bound: list[socket.socket] = []
    absent: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            one = socket.socket(family, kind, protocol)
        except OSError as error:  # A kernel without this family.
            absent = error
            continue
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            if listening:
                one.listen(_BACKLOG)
                one.setblocking(False)
            bound.append(one)
        except OSError as error:
            one.close()
            if error.errno == errno.EADDRNOTAVAIL:  # Names have addresses that the machine has switched off.
                absent = error
                continue
            for other in bound:
                other.close()
            raise _refused(host, port, error) from None
    if not bound:
        assert absent is not None
        raise _refused(host, port, absent)
    return bound


def _refused(host: str, port: int, error: OSError) -> SetupError:
    if error.errno != errno.EADDRINUSE:
        return SetupError(
            f"Port {port} on {host} cannot be used ({error.strerror}).",
            where="gateway.port",
            next_step="Set another `host` or `port` under [gateway] in antiphon.toml.",
        )
    holder = port_holder(port)
    return SetupError(
        f"Port {port} on {host} is already in use{f' by {holder}' if holder else ''}.",
        where="gateway.port",
        next_step="Stop what listens there, or set another `port` under [gateway] in antiphon.toml.",
    )
