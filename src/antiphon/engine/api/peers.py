"""Who is at the other end of a Unix socket: the kernel says it, so nothing has to be proven by keys.

The folder of the socket (0700) and the socket (0600) keep others out; this is checked besides, because folders are
made by whoever comes first and modes are changed by whoever may. The superuser is let in: nothing keeps it out.
"""

from __future__ import annotations

import os
import socket
import struct

_UCRED = struct.Struct("3i")


def user_of(connection: socket.socket) -> int | None:
    """The user id of the process at the other end, at the moment it connected or listened.

    ``None`` where the kernel has no SO_PEERCRED; there the modes of folder and socket stand alone.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))[1])


def is_ours(connection: socket.socket) -> bool:
    """Whether the other end is a process of our own user (or of the superuser)."""
    user = user_of(connection)
    return user is None or user in (os.geteuid(), 0)
