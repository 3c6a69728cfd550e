"""A link that delays packets: a process between two TUN interfaces, as a long cable is between two cards.

``python -m tests.chaos.harness.slow_link ONE OTHER`` makes both interfaces and says so in a line; then they may be
moved into the namespaces of two hosts. A line of its standard input is the delay in milliseconds, each way, from then
on. It ends with its standard input. Packets keep their order, none is lost, and kernels without netem do.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TUN, _NO_PACKET_INFORMATION = 0x0001, 0x1000
_LONGEST_PACKET = 65_536


def _opened(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN | _NO_PACKET_INFORMATION))
    return descriptor


class _Direction:
    """Packets from one interface to the other, each with the moment at which it is due."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._waiting: deque[tuple[float, bytes]] = deque()

    def take(self, delay: float) -> None:
        """Read all that there is."""
        while True:
            try:
                packet = os.read(self._source, _LONGEST_PACKET)
            except BlockingIOError:
                return
            self._waiting.append((time.monotonic() + delay, packet))

    def deliver(self) -> float | None:
        """Write what is due; seconds until the next one is."""
        while self._waiting:
            left = self._waiting[0][0] - time.monotonic()
            if left > 0:
                return left
            try:
                os.write(self._target, self._waiting.popleft()[1])
            except OSError:  # The interface is down: the packet is lost, as on a cable that is cut.
                continue
        return None


def main(one: str, other: str) -> None:
    """Carry packets until standard input ends."""
    ends = _opened(one), _opened(other)
    ways = _Direction(*ends), _Direction(*reversed(ends))
    sys.stdout.write("made\n")
    sys.stdout.flush()
    delay = 0.0
    with selectors.DefaultSelector() as selector:
        for end, way in zip(ends, ways, strict=True):
            selector.register(end, selectors.EVENT_READ, way)
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            pauses = [pause for way in ways if (pause := way.deliver()) is not None]
            for key, _ in selector.select(min(pauses, default=None)):
                if key.data is not None:
                    key.data.take(delay)
                elif line := sys.stdin.readline():
                    delay = float(line) / 1_000
                else:
                    return


if __name__ == "__main__":
    main(*sys.argv[1:])
