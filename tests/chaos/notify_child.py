"""A worker that sends notifications and dies: ``python -m tests.chaos.notify_child FOLDER POINT NUMBER``.

It kills itself when it comes to POINT for the time NUMBER: ``order`` (runs are queued, and the transaction is not
committed), ``sent`` (the receiver took it, and that is not recorded), ``note`` (it is recorded, and the delivery has
not ended); ``end``: it goes on until all deliveries have ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.integration.services.notifications.receivers import deliver

from antiphon.catalog.notification_deliveries import NotificationDeliveries
from antiphon.durable.runs import Runs
from antiphon.services.project.store import Store

PLACES: dict[str, tuple[type, str]] = {
    "order": (NotificationDeliveries, "order"),
    "sent": (Runs, "record"),
    "note": (NotificationDeliveries, "end"),
}


def plant(point: str, number: int) -> None:
    """Let this process die there."""
    if point == "end":
        return
    owner, name = PLACES[point]
    call, left = getattr(owner, name), [number]

    def dies(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    setattr(owner, name, dies)


async def main(folder: Path) -> None:
    store = Store.open(folder)
    await deliver(store)
    store.close()


if __name__ == "__main__":
    plant(sys.argv[2], int(sys.argv[3]))
    asyncio.run(main(Path(sys.argv[1])))
