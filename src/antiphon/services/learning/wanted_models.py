"""Models that somebody asks although no release of theirs is on its way: an older draft that is evaluated again.

A want is a lease. It is renewed as long as the task that began it lives, and is over soon after the process was killed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from typing import Any

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import ring_name
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope

PREFIX = "serving/"
LEASE_SECONDS = 60.0

_renewals: dict[tuple[asyncio.Task[Any], Scope, str], asyncio.Task[None]] = {}


async def want(database: Database, scope: Scope, version: str) -> None:
    """Have a model version served until the present task has ended; a task that asks again has one want."""
    asker = asyncio.current_task()
    assert asker is not None
    if (asker, scope, version) in _renewals:
        return
    leases = ProcessLeases(database, scope.environment)
    holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    name = f"{PREFIX}{scope.tenant}/{version}/{holder}"

    def begin() -> None:
        leases.acquire(name, holder, LEASE_SECONDS)
        database.doorbell.committed([ring_name("releases", scope.environment)])

    async def renew() -> None:
        try:
            while not (await asyncio.wait({asker}, timeout=LEASE_SECONDS / 3))[0]:
                with suppress(AntiphonError):  # It is tried again, and lasts for a while.
                    await asyncio.to_thread(leases.acquire, name, holder, LEASE_SECONDS)
        finally:
            with suppress(AntiphonError):
                leases.release(name, holder)

    await asyncio.to_thread(begin)
    renewal = asyncio.create_task(renew())
    _renewals[asker, scope, version] = renewal
    renewal.add_done_callback(lambda _: _renewals.pop((asker, scope, version)))


def required_versions(leases: ProcessLeases, scope: Scope) -> set[str]:
    """The ids of the model versions of a scope that are wanted now."""
    begins = f"{PREFIX}{scope.tenant}/"
    return {lease.name.removeprefix(begins).split("/")[0] for lease in leases.living(begins)}
