"""Injectors on the network: packets that are lost, and connections that break."""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import time
from contextlib import suppress

from benchmarks.operations.faults.injectors.descriptors import disconnect, listens, sockets_of
from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_RANDOM = (0x20, 0, 0, 0xFFFF_F000 + 56)
"""An instruction of the kernel's packet filter: a random number of 32 bits (``SKF_AD_RANDOM``)."""

_WHOLE_PACKET = 0x40_000
_LOST = 0.35
_GONE = (ProcessLookupError, FileNotFoundError, ValueError, OSError)
"""Errors of asking for a process that ends or is being started."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


async def packets_lost(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A bad cable or an overrun queue in front of the gateway: a third of the packets to it never arrive."""
    end, last = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            with suppress(*_GONE):
                pid = project.pid("gateway")
                if pid != last and _filter(pid, project.port, _LOST):
                    last = pid
            await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
        if not last:
            raise RuntimeError("The gateway's listening socket cannot be had here.")
    finally:
        if last:
            with suppress(*_GONE):
                _filter(last, project.port, 0.0)


def _filter(pid: int, port: int, share: float) -> bool:
    """Have the kernel drop a share of the packets to a listening socket and to connections that it accepts; 0 ends it
    for all of them. Tells whether there is such a socket."""
    with sockets_of(pid) as found:
        if share:
            found = [one for one in found if listens(one, port)]
        for one in found:
            if one.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if not share:
                with suppress(OSError):  # It has none.
                    one.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
                continue
            # Of numbers of at least the share the next instruction is skipped.
            steps = (_LOAD_RANDOM, (0x35, 1, 0, int(share * 2**32)), (0x06, 0, 0, 0), (0x06, 0, 0, _WHOLE_PACKET))
            instructions = (_Instruction * len(steps))(*steps)
            program = _Program(len(steps), ctypes.cast(instructions, ctypes.POINTER(_Instruction)))
            one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
        return bool(found)


async def engine_connections_broken(
    project: FaultyProject, users: Users, chance: random.Random, seconds: float
) -> None:
    """What stands between gateway and engine breaks their connections again and again, soon after they were made."""
    place, end = project.root / ".antiphon" / "run" / "engine.sock", time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(*_GONE):
            disconnect(project.pid("gateway"), place)
        await asyncio.sleep(min(chance.uniform(0.02, 0.1), max(0.0, end - time.monotonic())))


NETWORK: dict[str, Injector] = {
    "packets_lost": packets_lost,
    "engine_connections_broken": engine_connections_broken,
}
