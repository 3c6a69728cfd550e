"""``antiphon up``: the processes of one project on one machine, under supervision."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from antiphon.core.clock import SystemClock, parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings import Settings
from antiphon.core.supervision import STEP_LOOP
from antiphon.core.tls import ClientTls, own_client
from antiphon.definitions.degradation import engine_process
from antiphon.engine.api.address import joined, parse_host_port
from antiphon.operations.children import ChildSpec, FileExists, HttpAnswers, SocketAnswers
from antiphon.operations.supervisor import Backoff, ProcessEvent, Supervisor
from antiphon.services.engines import commands, scaling, sections
from antiphon.services.project.store import Store

DRAIN_ORDER = ("gateway", "worker", "engine")
"""Order of stopping: the gateways take no new requests, then batch stops, then the engine."""


def children(store: Store) -> tuple[ChildSpec, ...]:
    """Engines (unless they are elsewhere), gateways and workers of this project."""
    settings, paths = store.settings, store.paths
    project = ("--project", str(paths.root))
    host, port = settings.gateway.host, settings.gateway.port
    silence = settings.supervision.silence_seconds
    withheld, bounds = sections.withheld(settings), settings.telemetry.bounds
    specs: list[ChildSpec] = []
    for number, name in enumerate(_engine_names(settings)):
        path = scaling.own_socket(settings, paths, name)
        specs.append(
            ChildSpec(
                name=name,
                command=commands.command(
                    store,
                    name,
                    listen=_next_port(settings.engine.listen, number),
                    advertise=_next_port(settings.engine.advertise, number),
                    own=None if path == paths.engine_socket_of(name) else path,
                ),
                ready=SocketAnswers(path),
                # A small spin count: waiting threads must not hold the cores of a shared machine.
                environment={"GOMP_SPINCOUNT": "1000"},
                withheld=withheld,
                sockets=(path,),
                silence=silence,
                loops=(STEP_LOOP,),
                log=bounds,
            )
        )
    for number, engine in enumerate(sections.upstreams(settings)):
        name = engine_process(engine)
        specs.append(
            ChildSpec(
                name=name,
                command=commands.upstream_command(
                    store,
                    engine,
                    listen=_next_port(settings.fronts.listen, number),
                    advertise=_next_port(settings.fronts.advertise, number),
                ),
                ready=SocketAnswers(paths.engine_socket_of(name)),
                withheld=sections.withheld(settings, engine),
                sockets=(paths.engine_socket_of(name),),
                silence=silence,
                log=bounds,
            )
        )
    after = tuple(spec.name for spec in specs)
    names = _names("gateway", settings.processes.gateways)
    for number, name in enumerate(names, start=1):
        # Whichever is free takes a connection to the shared port: a probe needs one of the process's own.
        own = port if len(names) == 1 else port + number
        specs.append(
            ChildSpec(
                name=name,
                command=(sys.executable, "-m", "antiphon.app.gateway", *project, "--name", name),
                ready=HttpAnswers(host, own, tls=_probing(store)),
                withheld=withheld,
                after=after,
                listens=tuple(dict.fromkeys(((host, port), (host, own)))),
                silence=silence,
                log=bounds,
            )
        )
    for name in _names("worker", settings.processes.workers):
        specs.append(
            ChildSpec(
                name=name,
                command=(sys.executable, "-m", "antiphon.app.worker", *project, "--name", name),
                ready=FileExists(paths.ready(name)),
                withheld=withheld,
                nice=settings.worker.nice,
                after=after,
                silence=silence,
                log=bounds,
            )
        )
    return tuple(specs)


def _engine_names(settings: Settings) -> list[str]:
    if settings.engine.kind == "remote":
        return []
    engines = settings.processes.engines
    if engines != 1 and not settings.engine.join:
        raise InvalidInputError(
            f"{engines} engines on this machine need `join`.",
            where="antiphon.toml, [processes] engines",
            next_step="Set join = true under [engine]: then requests are routed over all engines that have joined.",
        )
    return _names("engine", engines)


def _next_port(address: str | None, number: int) -> str | None:
    """The address of the engine after so many others of this machine."""
    if address is None:
        return None
    host, port = parse_host_port(address, "antiphon.toml, [engine]")
    return joined(host, port + number if port else 0)


def _names(kind: str, number: int) -> list[str]:
    return [kind if one == 1 else f"{kind}-{one}" for one in range(1, number + 1)]


def _probing(store: Store) -> ClientTls | None:
    """As the project's own client, by address: which name its certificate holds for is nothing to the probe."""
    client = own_client(store.settings, store.paths.root)
    return None if client is None else msgspec.structs.replace(client, check_name=False)


async def up(store: Store, stop: asyncio.Event, hurry: asyncio.Event, tell: Callable[[ProcessEvent], None]) -> None:
    """Run the project's processes until ``stop``; ``hurry`` ends them without draining.

    Raises:
        SetupError: another ``up`` runs here, the port is taken, or a process never became ready.
    """
    specs = children(store)
    policy = scaling.scaling_policy(store.settings)
    engines = [spec for spec in specs if spec.name in _engine_names(store.settings)]
    scaler = None if policy is None else scaling.EngineScaler(policy, store.paths, engines, SystemClock(), tell=tell)
    supervisor = Supervisor(
        specs,
        run=store.paths.run,
        logs=store.paths.logs,
        drain_order=[spec.name for kind in DRAIN_ORDER for spec in specs if spec.name.partition("-")[0] == kind],
        tell=tell if scaler is None else scaler.saw,
        backoff=Backoff(last=parse_duration(store.settings.supervision.longest_wait).total_seconds()),
        stopped=None if scaler is None else scaler.at_first,
    )
    if scaler is None:
        await supervisor.supervise(stop, hurry)
        return
    scaler.supervisor = supervisor
    deciding = asyncio.create_task(scaler.run_until(stop))
    try:
        await supervisor.supervise(stop, hurry)
    finally:
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
        await scaler.close()
