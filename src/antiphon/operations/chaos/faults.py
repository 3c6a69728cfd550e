"""Faults as values: what is to be broken, for how long, and what that touches.

Invariant: a fault is bounded in time. It ends when its time is over, when its experiment ends, and when the process
that runs the experiment is gone, whatever ended it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from antiphon.core.clock import parse_duration

MODULE = "antiphon.chaos"
"""Module of the actions and probes of Chaos Toolkit's format. There is none of this name: Chaos Toolkit's own program
refuses such an experiment instead of running it without a bound."""

Part = Literal["cpu", "memory", "disk"]
"""Part of the machine that is shared with whatever else runs there."""

Spoken = Literal["http", "tls", "other", ""]
"""Protocol in which a proxy's clients speak to the server behind it; empty: nothing has passed yet."""

_Duration = Annotated[str, msgspec.Meta(pattern="^(?!0+[a-z])[0-9]{1,9}(ms|s|m|h)$")]
_Skew = Annotated[str, msgspec.Meta(pattern="^-?(?!0+[a-z])[0-9]{1,4}(s|m|h)$")]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class _Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="func"):
    """Base of the faults; the tag is the name of the action's function in an experiment."""


class ProcessKill(_Fault, frozen=True, tag="kill_process"):
    """SIGKILL to a process, by its name or kind; its supervisor starts it again."""

    process: str


class ProcessStop(_Fault, frozen=True, tag="stop_process"):
    """SIGSTOP to a process, SIGCONT at the end.

    Attributes:
        in_transaction: also while it holds the write lock of an SQLite catalog, which keeps every other process from
            writing. By default it is stopped at a moment without it.
    """

    process: str
    duration: _Duration
    in_transaction: bool = False


class ProcessSlowdown(_Fault, frozen=True, tag="slow_process"):
    """SIGSTOP for a share of each tenth of a second, which leaves a process the rest of its speed."""

    process: str
    duration: _Duration
    share: Annotated[float, msgspec.Meta(gt=0.0, le=0.95)] = 0.7


class ClockSkew(_Fault, frozen=True, tag="skew_clock"):
    """The clock of one process is ahead ``by`` so much (``5m``), or behind (``-30s``); the machine's own is left alone.

    Only the time of day is another one: what a process measures of durations stays right.
    """

    process: str
    duration: _Duration
    by: _Skew


class ModelDamage(_Fault, frozen=True, tag="damage_model"):
    """A file of a trained model is another one: damaged, cut off or gone. The original is put back at the end.

    An engine that has loaded the file goes on with what it has; one that is started meanwhile meets the other.

    Attributes:
        model: id of the version (``desk.v3``); ``*``: the first one that a live release uses.
        file: the merged ``weights`` that engines serve, or the ``adapter`` that trainings go on from.
        damage: ``bytes`` are flipped all over it, ``half`` of it is there, or it is ``gone``.
    """

    model: str
    duration: _Duration
    file: Literal["weights", "adapter"] = "weights"
    damage: Literal["bytes", "half", "gone"] = "bytes"


class CpuLoad(_Fault, frozen=True, tag="load_cpu"):
    """A noisy neighbor: programs that compute without end."""

    duration: _Duration
    cores: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1


class MemoryLoad(_Fault, frozen=True, tag="load_memory"):
    """A neighbor that takes memory, and is the first one that the kernel ends when there is none left."""

    duration: _Duration
    megabytes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class DiskFill(_Fault, frozen=True, tag="fill_disk"):
    """A file that leaves so much of the project's file system free; it has no name, so the kernel frees it with its
    process.

    Attributes:
        leave: bytes that stay free; ``most``: bytes that the file takes at most.
    """

    duration: _Duration
    leave: Annotated[int, msgspec.Meta(ge=0)]
    most: Annotated[int, msgspec.Meta(gt=0)]


class ProxyLatency(_Fault, frozen=True, tag="delay_port"):
    """Bytes through a proxy arrive later, by ``delay`` and up to ``jitter`` more, in their order."""

    proxy: str
    duration: _Duration
    delay: _Duration
    jitter: _Duration | None = None


class ProxyReset(_Fault, frozen=True, tag="reset_port"):
    """Connections through a proxy are reset: a share of those that there are, and of those that are made."""

    proxy: str
    duration: _Duration
    share: _Share = 1.0


class ProxyPartition(_Fault, frozen=True, tag="partition_port"):
    """A proxy passes nothing on, in either direction, and refuses no connection; what was sent arrives afterwards."""

    proxy: str
    duration: _Duration


class ProxyHttpError(_Fault, frozen=True, tag="answer_503"):
    """A share of the HTTP answers through a proxy are replaced by ``503 Service Unavailable``.

    The server has acted on the request: what is asked again is done again.

    Attributes:
        proxy: ``*`` is the first one through which HTTP passes.
        retry_after: told with it, in whole seconds.
    """

    proxy: str
    duration: _Duration
    share: _Share = 1.0
    retry_after: _Duration = "1s"


class ProxyExpiredCertificate(_Fault, frozen=True, tag="expire_certificate"):
    """A proxy ends TLS itself, with a certificate that has expired; connections that there are are reset.

    Attributes:
        proxy: ``*`` is the first one through which TLS passes.
    """

    proxy: str
    duration: _Duration


EventDefect = Literal["late", "duplicate", "corrupt", "drift"]


class EventFault(_Fault, frozen=True, tag="send_events"):
    """Events about entities that were made up (``chaos-…``), like the last ones of a stream but for one defect.

    A log is never taken back: these events stay in it. ``late`` ones happened long ago, a ``duplicate`` is one event
    again and again, ``corrupt`` ones have no entity, and the numbers of ``drift`` are others.

    Attributes:
        late_by: of ``late``: how long ago it happened. ``factor``: of ``drift``: of every number.
    """

    stream: str
    duration: _Duration
    defect: EventDefect = "late"
    rate: Annotated[float, msgspec.Meta(gt=0, le=1_000)] = 5.0
    late_by: _Duration = "1h"
    factor: float = 10.0


Fault = (
    ProcessKill
    | ProcessStop
    | ProcessSlowdown
    | ClockSkew
    | ModelDamage
    | CpuLoad
    | MemoryLoad
    | DiskFill
    | ProxyLatency
    | ProxyReset
    | ProxyPartition
    | ProxyHttpError
    | ProxyExpiredCertificate
    | EventFault
)
ProcessFault = ProcessKill | ProcessStop | ProcessSlowdown | ClockSkew
ProxyFault = ProxyLatency | ProxyReset | ProxyPartition | ProxyHttpError | ProxyExpiredCertificate
GuardedFault = ProcessFault | ProxyFault | ModelDamage | CpuLoad | MemoryLoad | DiskFill
"""Faults that have to be ended, which a guardian does; events end with whoever sends them."""


def seconds_of(fault: Fault) -> float:
    """The longest time for which a fault lasts; 0 of one that is over at once."""
    return 0.0 if isinstance(fault, ProcessKill) else parse_duration(fault.duration).total_seconds()


def skew_seconds(fault: ClockSkew) -> int:
    """Seconds by which a clock is ahead; negative ones by which it is behind."""
    seconds = round(parse_duration(fault.by.removeprefix("-")).total_seconds())
    return -seconds if fault.by.startswith("-") else seconds


def needed_protocol(fault: ProxyFault) -> Spoken | None:
    """The protocol that must pass a proxy for its fault; ``None``: any."""
    match fault:
        case ProxyHttpError():
            return "http"
        case ProxyExpiredCertificate():
            return "tls"
    return None


def machine_part(fault: Fault) -> Part | None:
    """The shared part of the machine that a fault takes; ``None`` of another fault."""
    match fault:
        case CpuLoad():
            return "cpu"
        case MemoryLoad():
            return "memory"
        case DiskFill():
            return "disk"
    return None


def fault_name(fault: Fault) -> str:
    """The name of a fault's function, as an experiment writes it."""
    return str(fault.__struct_config__.tag)


def described(fault: Fault) -> str:
    """A fault in one line: its function and its arguments, without those that are as by default."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(fault)
        if (value := getattr(fault, field.name)) != field.default
    }
    return f"{fault_name(fault)}({', '.join(f'{name}={value}' for name, value in given.items())})"
