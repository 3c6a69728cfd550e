"""Tools of the shop for tea."""

from __future__ import annotations

import threading
from typing import Literal

from antiphon.definitions.tools import tool

never = threading.Event()
"""Set at the end of a test, so that a tool that hangs returns."""
called: list[str] = []
"""Names of the parcels that were looked up."""


@tool()
def parcel(order: str, detail: Literal["day", "place"] = "day") -> dict[str, str]:
    """Find a parcel by the number of its order."""
    called.append(order)
    return {"order": order, detail: "Monday" if detail == "day" else "Leeds"}


@tool(timeout=0.05)
def slow(order: str) -> str:
    """Find a parcel in an archive that does not answer."""
    never.wait(20)
    return order


@tool()
def broken(order: str) -> str:
    """Raise an error."""
    raise RuntimeError(f"a secret of {order}")


sent: list[tuple[str, str]] = []
"""Orders that were sent, each with the key that it was sent with."""


@tool(acts=True)
def send(order: str, idempotency_key: str) -> str:
    """Send an order."""
    if crash.is_set():
        sent.append((order, idempotency_key))
        raise ConnectionError("the line is cut after it was sent")
    if (order, idempotency_key) not in sent:
        sent.append((order, idempotency_key))
    return f"order {order} is sent"


crash = threading.Event()
"""Set while what sends loses its connection after it has sent."""
