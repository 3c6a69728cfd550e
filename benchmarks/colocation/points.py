"""What is compared: the policies and the service each declares, and how large the comparison is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.colocation.outcome import SERVICE_TPOT, SERVICE_TTFT
from benchmarks.colocation.policies import Policy, aimd_gate, online_only, ours, priority_only, static_cap

from antiphon.engine.scheduling.service_level import ServiceLevel

SLOWDOWNS = (0.05, 0.1, 0.25, 0.5)
SERVICE = "service level"


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy made anew for each run.

    Attributes:
        declared: names the oracle for its level of service.
        noise: other than 0 for a simulated machine with neighbors of its own.
    """

    make: Callable[[], Policy]
    declared: str | None = None
    slowdown: float | None = None
    noise: int = 0

    @property
    def name(self) -> str:
        return self.make().name


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        traces, seeds, seconds: of simulated windows.
        real_traces, real_seeds, real_seconds, real: windows and contenders of real runs; none when empty.
        piece_seconds: how long contenders run in turns.
        calibrate_seconds: how long the bare loop measures; 0 takes the reference instead.
        bucket: of the oracle's programme, in seconds.
        candidates: causal policies that are tried in search of the best; none is searched for when 0.
        search_seconds: length of the windows on which they are.
    """

    traces: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    real_traces: tuple[str, ...] = ()
    real_seeds: tuple[int, ...] = ()
    real_seconds: float = 0.0
    real: tuple[str, ...] = ()
    piece_seconds: float = 60.0
    calibrate_seconds: float = 0.0
    bucket: float = 0.01
    candidates: int = 0
    search_seconds: float = 0.0


def slowdown_name(slowdown: float) -> str:
    """How a declared slowdown is told."""
    return f"slowdown {slowdown:.0%}"


ONLINE_ONLY = Contender(online_only)
AGAIN = Contender(partial(online_only, "online only, again"), noise=1)
"""What the machine's noise alone does to requests that are paired with themselves: nobody can be held to less."""
CONTENDERS = (
    ONLINE_ONLY,
    *(Contender(partial(static_cap, most)) for most in (1, 4, 8)),
    Contender(priority_only),
    Contender(aimd_gate),
    AGAIN,
    Contender(partial(ours, ServiceLevel(SERVICE_TTFT, SERVICE_TPOT), f"ours, {SERVICE}"), SERVICE),
    *(
        Contender(
            partial(ours, ServiceLevel(slowdown=slowdown), f"ours, {slowdown_name(slowdown)}"),
            slowdown_name(slowdown),
            slowdown,
        )
        for slowdown in SLOWDOWNS
    ),
)
REAL = (
    "online only",
    "static cap 4",
    "priority only",
    "online only, again",
    f"ours, {SERVICE}",
    f"ours, {slowdown_name(0.25)}",
)


def named(name: str) -> Contender:
    """The contender of this name."""
    return next(contender for contender in CONTENDERS if contender.name == name)


SIZES = {
    "ci": Size(("conv",), (0, 1), 12.0, bucket=0.02),
    "demo": Size(("conv", "code"), (0, 1, 2), 180.0, ("conv",), (0,), 45.0, REAL, 45.0, 45.0, 0.05, 60, 120.0),
    "full": Size(("conv", "code"), (0, 1, 2), 360.0, ("conv",), (0, 1, 2), 360.0, REAL, 90.0, 240.0, 0.01, 400, 240.0),
}
