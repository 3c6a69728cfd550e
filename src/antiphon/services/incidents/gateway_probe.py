"""Asks a gateway of this machine over a new connection, as its users do: one that hangs measures nothing of itself."""

from __future__ import annotations

from collections import deque
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from antiphon.core.process_metrics import addresses

_SECONDS = 2.0
_AT_ONCE = 2
_LOOKS = 3
_UNANSWERED = 3
"""Of the connections of the last looks; one or two may be lost while a gateway is started again."""


class GatewayProbe:
    """Remembers what became of the last connections.

    Args:
        run: the folder in which processes say where they listen.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lost: deque[int] = deque(maxlen=_LOOKS)

    def look(self) -> str | None:
        """The sentence that says that the gateway does not answer; ``None`` while it does, and where there is none."""
        urls = [url for name, url in addresses(self._run).items() if name.partition("-")[0] == "gateway"]
        # The port is one for all gateways of a project. TLS would need a certificate that names this machine.
        url = next((url for url in sorted(urls) if url.startswith("http://")), None)
        if url is None:
            self._lost.clear()
            return None
        lost = 0
        for _ in range(_AT_ONCE):
            lost += not _answers(url)
        self._lost.append(lost)
        if sum(self._lost) < _UNANSWERED:
            return None
        return (
            f"The gateway answered {_AT_ONCE * len(self._lost) - sum(self._lost)} of {_AT_ONCE * len(self._lost)} new "
            f"connections within {_SECONDS:.0f} s."
        )

    def forget(self) -> None:
        """Begin anew, as a gateway does that was just started."""
        self._lost.clear()


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"connection": "close"})
        connection.getresponse().read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
