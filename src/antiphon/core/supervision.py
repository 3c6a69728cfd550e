"""A supervised process's connection with its supervisor: an inherited socket over which it shows that it is alive.

Invariant: a process does not outlive its supervisor, however that ends. On Linux the kernel kills it when the thread
that started it ends (``PR_SET_PDEATHSIG``, prctl(2)); everywhere the end of the socket says so, because only the
supervisor holds the other end. One that died before either was set up is no longer the parent, which is asked then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from antiphon.core.child_process import end_with_parent
from antiphon.core.pauses import ended_together

SUPERVISOR, LISTENERS = "ANTIPHON_SUPERVISOR", "ANTIPHON_LISTENERS"
"""Environment variables of a supervised process: ``PID:DESCRIPTOR`` of its supervisor, and descriptors of sockets that
listen already."""

BEGUN_AGAIN = "ANTIPHON_BEGUN_AGAIN"
"""Environment variable of a process that runs its command anew, in its own place."""

STEP_LOOP = "step-loop"
"""The kernel's name of an engine's thread that must turn for signs of life, and of the threads it computes with."""

BEAT_SECONDS = 1.0
"""Seconds between two signs of a supervised process that its main loop turns."""


class Supervision:
    """A process's end of the socket. In a process without a supervisor every call does nothing."""

    def __init__(self, end: socket.socket | None) -> None:
        self._end = end
        self._kept: list[socket.socket] = []

    @classmethod
    def inherited(cls) -> Supervision:
        """Take over what the supervisor passed on, and end with it from now on. Call it once, first of all."""
        inherited = os.environ.pop(SUPERVISOR, None)
        if inherited is None:
            return cls(None)
        parent, descriptor = (int(part) for part in inherited.split(":"))
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        end_with_parent(parent, signal.SIGKILL)
        threading.Thread(target=_end_with_socket, args=(end,), name="supervision", daemon=True).start()
        return cls(end)

    async def beat(self, turns: Callable[[], bool] = lambda: True) -> None:
        """Show the supervisor, until cancelled, that the running event loop turns.

        ``turns`` is asked before each sign of life: whether everything else in this process turns as well."""
        while self._end is not None:
            if turns():
                with suppress(BlockingIOError):  # Unread signs of life fill the socket: one more says nothing.
                    self._end.send(b".", socket.MSG_DONTWAIT)
            await asyncio.sleep(ended_together(BEAT_SECONDS, asyncio.get_running_loop().time()))

    def keep(self, listeners: list[socket.socket]) -> None:
        """Have these sockets go on listening when this process begins again: connections wait in them meanwhile."""
        self._kept = [one.dup() for one in listeners]

    def begin_again(self) -> None:
        """Run this process's command anew in its place; a supervisor does so itself, once it has ended."""
        if self._end is not None:
            return
        for listener in self._kept:
            listener.set_inheritable(True)
        if self._kept:
            os.environ[LISTENERS] = ",".join(str(one.fileno()) for one in self._kept)
        os.environ[BEGUN_AGAIN] = "yes"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def has_begun_again() -> bool:
    """Tell whether this process runs its command anew; yes once, for the first who asks."""
    return os.environ.pop(BEGUN_AGAIN, None) is not None


def inherited_listeners() -> list[socket.socket] | None:
    """Sockets that the supervisor bound for this process, and keeps while it is restarted; ``None`` without any."""
    inherited = os.environ.pop(LISTENERS, None)
    if inherited is None:
        return None
    listeners = [socket.socket(fileno=int(descriptor)) for descriptor in inherited.split(",")]
    for listener in listeners:
        listener.set_inheritable(False)
    return listeners


def _end_with_socket(end: socket.socket) -> None:
    with suppress(ConnectionError):
        while end.recv(64):  # Nothing is ever sent this way: only its end says something.
            pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
