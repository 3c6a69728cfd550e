"""Control of the proxies: orders for a fault go over a Unix socket, and a fault lasts as long as its connection.

Invariant: when whoever ordered a fault is gone, the kernel closes the connection, and the proxy passes everything
through again.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.core.errors import UnavailableError
from antiphon.core.paths import socket_path
from antiphon.operations.chaos.faults import ProxyFault, Spoken

SOCKET = "chaos-proxy"
"""Name of the socket."""

_SECONDS = 5.0


class ProxyQuery(msgspec.Struct, frozen=True, tag_field="order", tag="list"):
    """Asks for the names of the proxies, and what is spoken through each."""


class ProxyOrder(msgspec.Struct, frozen=True, tag_field="order", tag="break"):
    """Order for a fault, which lasts until the connection ends, and no longer than its duration."""

    fault: ProxyFault


class ProxyAnswer(msgspec.Struct, frozen=True):
    """Answer to an order: done, with the proxies or what was touched, or refused with the reason.

    Attributes:
        counted: of a fault that is over: what came of it, in words.
    """

    state: Literal["done", "refused"]
    names: tuple[str, ...] = ()
    reason: str = ""
    spoken: dict[str, Spoken] = {}
    counted: str = ""


def ask(run: Path, order: ProxyQuery | ProxyOrder) -> tuple[socket.socket, ProxyAnswer]:
    """Send an order to the proxies of a project; the connection, and their reply.

    Raises:
        UnavailableError: no proxy answers.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_SECONDS)
    try:
        connection.connect(str(socket_path(run, SOCKET)))
        connection.sendall(msgspec.json.encode(order) + b"\n")
        with connection.makefile("rb") as answers:
            return connection, msgspec.json.decode(answers.readline(), type=ProxyAnswer)
    except (OSError, msgspec.DecodeError) as error:
        connection.close()
        raise UnavailableError(
            "No proxy of this project answers.", where=str(socket_path(run, SOCKET)),
            next_step="Declare it under [proxies] and start `antiphon chaos proxy`.",
        ) from error  # fmt: skip


def proxies_that_answer(run: Path) -> dict[str, Spoken]:
    """The project's proxies by name, and what is spoken through each; none where they do not run."""
    try:
        connection, reply = ask(run, ProxyQuery())
    except UnavailableError:
        return {}
    connection.close()
    return reply.spoken


class ProxyInjector:
    """Has a proxy delay, reset, hold or answer what passes it; ``counted``: what came of it, once it is over."""

    def __init__(self, fault: ProxyFault, run: Path) -> None:
        self._fault = fault
        self._run = run
        self._connection: socket.socket | None = None
        self.counted = ""

    def begin(self) -> tuple[str, ...]:
        """Order the fault; raises ``UnavailableError`` when it is refused, or no proxy answers."""
        self._connection, reply = ask(self._run, ProxyOrder(self._fault))
        if reply.state == "refused":
            self.end()
            raise UnavailableError(reply.reason, where=self._fault.proxy, next_step="See `antiphon chaos list`.")
        return reply.names

    def tick(self) -> float:
        return 3_600.0

    def end(self) -> None:
        """Have it pass everything again."""
        if self._connection is None:
            return
        with self._connection as connection, suppress(OSError, msgspec.DecodeError):
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answers:
                self.counted = msgspec.json.decode(answers.readline(), type=ProxyAnswer).counted
        self._connection = None
