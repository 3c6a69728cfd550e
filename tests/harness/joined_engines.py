"""Engines in the catalog as their processes list them, without the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.catalog.engine_instances import PREFIX
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.engine.api.messages import EngineInstance, EngineLoad
from antiphon.services.engines.joining import LEASE_SECONDS
from antiphon.services.project.store import Store


def join(store: Store, engine: str, models: Sequence[str] = ("words",), host: str = "host", **load: Any) -> None:
    """Write or renew the lease of an engine, with the load that it tells."""
    name = f"{store.scope.tenant}/{engine}@{host}"
    told = EngineInstance(name, f"{host}/{engine}", host, "", "", dict.fromkeys(models, "f"), {}, EngineLoad(**load))
    leases = ProcessLeases(store.database, store.scope.environment)
    assert leases.acquire(f"{PREFIX}{name}", name, LEASE_SECONDS, detail=msgspec.json.encode(told).decode())
