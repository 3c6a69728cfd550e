"""Status of the platform, in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.errors import AntiphonError, ForbiddenError
from antiphon.core.scope import Scope
from antiphon.definitions.degradation import MAIN
from antiphon.definitions.granted import model_owner
from antiphon.gateway.admin import shapes
from antiphon.gateway.admin.views import readable_statuses
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.gateway.operation import OperationCall, operation
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.operations.processes import ProcessStatus


@operation("GET", "/admin/status", "Processes, engine, freshness, latency.", "read")
async def _status(call: OperationCall) -> shapes.Status:
    return await status(call.services, call.measurements, call.scope, call.principal)


async def status(
    services: GatewayServices, measurements: GatewayMetrics, scope: Scope, who: Principal | None
) -> shapes.Status:
    """The whole status, for a principal or for no one; a part that does not answer is reported, it does not fail the
    rest."""
    engine, ready, stored, latency = await asyncio.gather(
        engine_status(services, scope),
        services.health.ready(),
        run_in_threadpool(_stored, services, scope, who),
        services.metric_history.latency(scope.tenant),
    )
    measurements.watch_engines({one.name: (one.answers, one.load) for one in engine.instances})
    breakers = tuple(services.generation.breakers())
    return shapes.Status(
        environment=services.environment,
        tenant=scope.tenant,
        at=services.clock.now(),
        ready=dict(ready),
        engine=engine,
        latency=latency,
        breakers=breakers,
        elsewhere=engines_elsewhere(stored["processes"], engine, breakers),
        gate=services.generation.gate(),
        **stored,
    )


def engines_elsewhere(
    processes: Sequence[ProcessStatus], engine: shapes.EngineStatus, breakers: Sequence[BreakerStatus]
) -> tuple[shapes.EngineElsewhere, ...]:
    """The engines that are no process of this project: a remote one, those that have joined, and those that stand
    in."""
    here = any(process.name == "engine" for process in processes)
    joined = tuple(shapes.EngineElsewhere(one.name, one.answers, one.load) for one in engine.instances)
    own = () if here else (shapes.EngineElsewhere("engine", engine.reachable, engine.load),)
    return (
        *(joined or own),
        *(shapes.EngineElsewhere(one.name, one.state != "open") for one in breakers if one.name != MAIN),
    )


async def engine_status(services: GatewayServices, scope: Scope) -> shapes.EngineStatus:
    """The engine's own description, or why there is none, without trained models of other tenants."""
    try:
        async with asyncio.timeout(2.0):
            described = await services.generation.engine.describe()
    except (AntiphonError, TimeoutError, OSError) as error:
        return shapes.EngineStatus(False, str(error) or "It did not answer in time.", (), None)

    def shown(name: str) -> bool:
        return model_owner(name) in (None, scope.tenant)

    instances = tuple(
        shapes.EngineInstanceLine(
            one.name.rpartition("/")[2],  # Whose it is, is not told.
            one.address,
            one.answers,
            {name: fingerprint for name, fingerprint in (one.models | one.embedders).items() if shown(name)},
            one.load,
            one.drained,
        )
        for one in described.instances
    )
    models = tuple(model for model in described.models if shown(model.name))
    return shapes.EngineStatus(True, None, models, described.load, instances, described.stopped)


def _incidents(services: GatewayServices, scope: Scope, who: Principal | None) -> tuple[shapes.IncidentLine, ...]:
    def may_read(application: str) -> bool:
        if who is None:
            return False
        try:
            services.access.authorize(who, "read", f"application/{application}")
        except ForbiddenError:
            return False
        return True

    found = services.work.incidents(scope).of_reader(may_read)
    return tuple(shapes.read_all(found.list(all=False), shapes.IncidentLine))


def _stored(services: GatewayServices, scope: Scope, who: Principal | None) -> dict[str, Any]:
    """The parts of a status that the catalog has."""
    current = services.features.publications.current(scope)
    processes = tuple(services.health.processes())
    return {
        "publication": None if current is None else int(current.number),
        "freshness": readable_statuses(services, scope, who, services.features.freshness(scope)),
        "streams": tuple(services.features.streams.status(scope)),
        "jobs": shapes.batch_lines(services, scope, services.work.tables.list(scope, 10)),
        "incidents": _incidents(services, scope, who),
        "broken": services.work.runs.broken(scope),
        "applications": tuple(services.generation.models(scope)),
        "drift": tuple(
            one
            for one in services.learning.drift.warnings(scope)
            if who is not None and services.access.records.may_read_application(scope, who, one.application)
        ),
        "gates": tuple(one for one in services.learning.gates(scope) if one.state != "passed"),
        "faults": tuple(services.work.chaos.under_way(scope.tenant)),
        "processes": processes,
        "peers": services.work.runs.peers(scope, [one.pid for one in processes]),
        "runs": shapes.read_all(services.work.runs.list(scope, 5), shapes.RunLine),
        "remote_models": tuple(services.health.remote_models(scope)),
        "reuse": shapes.reuse_lines(services.predictions.reuse(scope)),
    }
