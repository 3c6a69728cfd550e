"""Ports for servers of tests and benchmarks."""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle

_FIRST, _PER_PROCESS, _SHARES = 10_000, 2_000, 11
"""Below 32768, from where Linux takes the ports of outgoing connections: one of those may be given away at any moment
between this question and the server's start."""

_worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
_share = int(_worker) % _SHARES if _worker.isdecimal() else os.getpid() % _SHARES
_begin = _FIRST + _share * _PER_PROCESS
_numbers = cycle(range(_begin, _begin + _PER_PROCESS))
for _ in range(random.SystemRandom().randrange(_PER_PROCESS)):
    next(_numbers)


def free_port() -> int:
    """A port that nobody listens on now, on any interface. Processes of one test run are given different ones."""
    for number in _numbers:
        with socket.socket() as taken:
            try:
                taken.bind(("", number))
            except OSError:
                continue
        return number
    raise AssertionError("The numbers go round.")
