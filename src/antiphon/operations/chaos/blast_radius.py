"""The blast radius: what an experiment would touch here, held against what it says that it may touch.

Invariant: nothing outside of the radius is touched. An experiment with one refusal is not begun at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from antiphon.operations.chaos.experiment import Experiment
from antiphon.operations.chaos.faults import (
    ClockSkew,
    DiskFill,
    EventFault,
    Fault,
    MemoryLoad,
    ModelDamage,
    ProcessFault,
    ProcessKill,
    ProcessStop,
    ProxyExpiredCertificate,
    ProxyFault,
    ProxyHttpError,
    Spoken,
    described,
    machine_part,
    needed_protocol,
    seconds_of,
    skew_seconds,
)

WITH_CATALOG = ("gateway", "worker")
"""Kinds of processes that write to the catalog, and hold leases in it."""

MOST_MEMORY = 0.8
"""Share of the available memory that a neighbor may take."""


class Surroundings(msgspec.Struct, frozen=True):
    """The project as an experiment finds it.

    Attributes:
        processes: names of those that run here; ``streams``: of those that are declared.
        proxies: those that answer, by name, with what is spoken through each.
        applications: those that are live; ``tenants``: those of the catalog; ``rollouts``: applications with one under
            way.
        holds: sentences about freezes that last.
        lease: seconds; ``silence``: seconds after which a supervisor kills what gives no sign of life, ``None``: never.
        own_disk: whether the project's file system is apart from the machine's.
        available: bytes of memory that are available.
        models: versions of trained models that live releases use.
        no_clocks: why no process can be given another clock here; empty without a reason.
    """

    environment: str
    processes: tuple[str, ...]
    proxies: Mapping[str, Spoken] = {}
    streams: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    lease: float = 10.0
    silence: float | None = 60.0
    own_disk: bool = False
    available: int = 0
    models: tuple[str, ...] = ()
    no_clocks: str = ""


class PlannedFault(msgspec.Struct, frozen=True):
    """A fault as it would be done here: what it touches, for how long, and what else there is to know."""

    name: str
    fault: str
    touches: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...]


class ExperimentPlan(msgspec.Struct, frozen=True):
    """The work of an experiment as it would be done here; with ``refusals`` it would do nothing."""

    experiment: str
    title: str
    seconds: float
    faults: tuple[PlannedFault, ...]
    refusals: tuple[str, ...]


def kind_of(process: str) -> str:
    """The kind of a process, by its name."""
    return process.partition("-")[0]


def target(process: str, running: Sequence[str]) -> str | None:
    """The process that a name or kind means: of several of a kind the first; ``None`` without one."""
    if process in running:
        return process
    return next((one for one in sorted(running) if kind_of(one) == process), None)


def plan_of(experiment: Experiment, here: Surroundings, environment: str | None = None) -> ExperimentPlan:
    """Plans what the experiment would do here, and tells why it may not.

    Args:
        environment: the one that whoever runs it has named, for one that it is not meant for by itself.
    """
    planned = tuple(
        PlannedFault(
            one.name,
            described(one.fault),
            tuple(_touches(one.fault, here)),
            seconds_of(one.fault),
            tuple(_notes(one.fault, here)),
        )
        for one in experiment.faults
    )
    refusals = (*_of_all(experiment, here, environment), *_of_faults(experiment, here))
    return ExperimentPlan(
        experiment.name, experiment.title, experiment.seconds, planned, tuple(dict.fromkeys(refusals))
    )


def _of_all(experiment: Experiment, here: Surroundings, environment: str | None) -> Iterator[str]:
    radius = experiment.radius
    if here.environment not in radius.environments and environment != here.environment:
        yield (
            f"It is for {', '.join(radius.environments)}, and this is {here.environment}: "
            f"name it with --environment {here.environment}."
        )
    yield from (f"{one} Wait for its end." for one in here.holds)
    if here.rollouts and not radius.rollouts and experiment.faults:
        rollouts = ", ".join(here.rollouts)
        yield f"A rollout of {rollouts} is under way, to which faults would be evidence (radius: rollouts)."
    if any(isinstance(one.fault, ProcessFault) for one in experiment.faults):
        for what, there, permitted in (
            ("application", here.applications, radius.applications),
            ("tenant", here.tenants, radius.tenants),
        ):
            if permitted is not None and (others := sorted(set(there) - set(permitted))):
                yield f"Its processes also serve the {what} {', '.join(others)}, outside of its radius."
    processes = [one for one in experiment.faults if isinstance(one.fault, ProcessFault)]
    at_once = sum(one.background for one in processes) + (not all(one.background for one in processes))
    if processes and at_once > radius.at_once:
        yield f"It breaks up to {at_once} processes at once, and its radius has {radius.at_once} (at-once)."


def _of_faults(experiment: Experiment, here: Surroundings) -> Iterator[str]:
    radius = experiment.radius
    for one in experiment.faults:
        fault = one.fault
        part = machine_part(fault)
        if part is not None and part not in radius.machine:
            yield f"{one.name}: the machine's {part} is outside of its radius (machine)."
        if isinstance(fault, ProcessFault):
            yield from _of_process(one.name, fault, experiment, here)
        if isinstance(fault, ProxyFault):
            yield from (f"{one.name}: {why}" for why in _of_proxy(fault, experiment, here))
        if isinstance(fault, EventFault):
            if fault.stream not in radius.streams and "*" not in radius.streams:
                yield f"{one.name}: the stream {fault.stream!r} is outside of its radius (streams)."
            elif not here.streams or (fault.stream not in here.streams and fault.stream != "*"):
                missing = "no stream is declared" if fault.stream == "*" else f"there is no stream {fault.stream!r}"
                yield f"{one.name}: {missing} here."
        if isinstance(fault, ModelDamage):
            if fault.model not in radius.models and "*" not in radius.models:
                yield f"{one.name}: the model {fault.model!r} is outside of its radius (models)."
            elif damaged_model(fault, here) not in here.models:
                named = "a trained model" if fault.model == "*" else f"the trained model {fault.model!r}"
                yield f"{one.name}: no live release of this project uses {named}."
        if isinstance(fault, DiskFill) and not here.own_disk:
            yield f"{one.name}: the project's folder shares its file system with the machine, which that would break."
        if isinstance(fault, MemoryLoad) and fault.megabytes * 1_000_000 > MOST_MEMORY * here.available:
            free = here.available / 1e6
            yield f"{one.name}: {free:.0f} MB are available, and a neighbor may take {MOST_MEMORY:.0%} of them."


def _of_process(name: str, fault: ProcessFault, experiment: Experiment, here: Surroundings) -> Iterator[str]:
    radius = experiment.radius
    found = target(fault.process, here.processes)
    if fault.process not in radius.processes and kind_of(fault.process) not in radius.processes:
        yield f"{name}: the process {fault.process!r} is outside of its radius (processes)."
    elif found is None:
        yield f"{name}: no process {fault.process!r} of this project runs here: start `antiphon up`."
    with_leases = isinstance(fault, ProcessStop) and kind_of(fault.process) in WITH_CATALOG
    if with_leases and seconds_of(fault) > here.lease and not radius.beyond_lease:
        yield f"{name}: it would stand still for longer than its leases of {here.lease:g} s (radius: beyond-lease)."
    if isinstance(fault, ClockSkew):
        if here.no_clocks and found is not None:
            yield f"{name}: {here.no_clocks}"
        apart = abs(skew_seconds(fault)) > here.lease
        if apart and kind_of(fault.process) in WITH_CATALOG and not radius.beyond_lease:
            yield f"{name}: its clock would be apart by more than leases of {here.lease:g} s (radius: beyond-lease)."


def _of_proxy(fault: ProxyFault, experiment: Experiment, here: Surroundings) -> Iterator[str]:
    radius, found, needed = experiment.radius, broken_proxy(fault, here), needed_protocol(fault)
    if fault.proxy not in radius.proxies and "*" not in radius.proxies:
        yield f"the proxy {fault.proxy!r} is outside of its radius (proxies)."
    elif not here.proxies or (found not in here.proxies and fault.proxy != "*"):
        subject = "no proxy answers" if fault.proxy == "*" else f"the proxy {fault.proxy!r} does not answer"
        yield f"{subject}: declare it under [proxies] and start `antiphon chaos proxy`."
    elif found not in here.proxies:
        spoken = ", ".join(f"{name}: {one or 'nothing yet'}" for name, one in sorted(here.proxies.items()))
        yield f"no {str(needed).upper()} passes any proxy ({spoken}): {_NEXT_STEPS[str(needed)]}"
    elif needed is not None and here.proxies[found] != needed:
        spoken = here.proxies[found]
        if not spoken:
            yield (
                f"nothing has passed the proxy {found!r} since it was started, so that its protocol is not known: "
                "ask a question, or have the project reach that server in another way, and try again."
            )
        elif spoken == "tls":
            yield f"answers within TLS cannot be replaced at the proxy {found!r}: {_NEXT_STEPS['http']}"
        else:
            yield f"no {needed.upper()} passes the proxy {found!r}: {_NEXT_STEPS[needed]}"


_NEXT_STEPS = {
    "http": "name a proxy before a server that is reached over http://.",
    "tls": "reach its server over TLS (https://, rediss://, tls://, sslmode=verify-full), or name another proxy.",
}


def _touches(fault: Fault, here: Surroundings) -> Iterator[str]:
    if isinstance(fault, ProcessFault):
        yield target(fault.process, here.processes) or fault.process
    elif isinstance(fault, ProxyFault):
        yield f"proxy {broken_proxy(fault, here)}"
    elif isinstance(fault, EventFault):
        yield f"stream {event_stream(fault, here)}"
    elif isinstance(fault, ModelDamage):
        yield f"the {fault.file} of {damaged_model(fault, here)}"
    else:
        yield f"the machine's {machine_part(fault)}"


def broken_proxy(fault: ProxyFault, here: Surroundings) -> str:
    """The proxy that a fault breaks: ``*`` is the first one through which passes what the fault needs."""
    if fault.proxy != "*":
        return fault.proxy
    needed = needed_protocol(fault)
    return min((name for name, spoken in here.proxies.items() if needed in (None, spoken)), default="*")


def event_stream(fault: EventFault, here: Surroundings) -> str:
    """The stream that a fault sends to: ``*`` is the first one that there is."""
    return min(here.streams, default="*") if fault.stream == "*" else fault.stream


def damaged_model(fault: ModelDamage, here: Surroundings) -> str:
    """The version whose file a fault damages: ``*`` is the first one that a live release uses."""
    return min(here.models, default="*") if fault.model == "*" else fault.model


def _notes(fault: Fault, here: Surroundings) -> Iterator[str]:
    if isinstance(fault, ProcessKill):
        yield "what it is doing fails or is done again by another; its supervisor starts it again"
    if isinstance(fault, ProcessStop):
        if kind_of(fault.process) in WITH_CATALOG:
            yield f"its leases of {here.lease:g} s may go to another process, and what it had begun is fenced off then"
            if fault.in_transaction:
                yield "it may hold the catalog's write lock: then no other process writes until it goes on"
        if here.silence is not None and seconds_of(fault) >= here.silence:
            yield f"its supervisor kills it after {here.silence:g} s of silence"
    if isinstance(fault, ClockSkew):
        yield "the machine's clock and other processes keep the right time"
        if kind_of(fault.process) in WITH_CATALOG:
            yield "with a catalog in a file it takes leases of other processes for ended, or its own for lasting longer"
    if isinstance(fault, EventFault):
        yield (
            "the events are about made-up entities and stay in the log"
            if fault.defect != "duplicate"
            else "known events again"
        )
    if isinstance(fault, ProxyHttpError):
        yield "the server has acted on what is answered so: what is asked again is done again"
    if isinstance(fault, ProxyExpiredCertificate):
        yield "connections over TLS are reset; new ones meet a certificate that has expired, and none passes"
    if isinstance(fault, ModelDamage):
        yield "what has loaded it goes on; what loads it meanwhile refuses it"
    if isinstance(fault, DiskFill):
        yield f"{readable_bytes(fault.leave)} stay free"


def readable_bytes(number: int) -> str:
    """Bytes as people read them."""
    return f"{number / 1e6:,.0f} MB"
