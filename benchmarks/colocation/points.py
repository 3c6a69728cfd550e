"""What is compared: the policies and the service each declares, and how large the comparison is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.colocation.policies import OnlineOnly, Policy, PriorityOnly, Product, StaticCap

SLOWDOWNS = (0.05, 0.1, 0.25, 0.5)
SERVICE = "service level"


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy made anew for each run. ``declared`` names the oracle for its level of service, ``product`` the engine
    as it is shipped."""

    name: str
    make: Callable[[], Policy]
    declared: str | None = None
    slowdown: float | None = None
    product: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        traces, seeds, seconds: of simulated windows.
        real_traces, real_seeds, real_seconds, real: windows and contenders of real runs; none when empty.
        calibrate_seconds: how long the bare loop measures; 0 takes the reference instead.
        bucket: of the oracle's programme, in seconds.
    """

    traces: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    real_traces: tuple[str, ...] = ()
    real_seeds: tuple[int, ...] = ()
    real_seconds: float = 0.0
    real: tuple[str, ...] = ()
    calibrate_seconds: float = 0.0
    bucket: float = 0.01


def slowdown_name(slowdown: float) -> str:
    """How a declared slowdown is told."""
    return f"slowdown {slowdown:.0%}"


ONLINE_ONLY = Contender("online only", OnlineOnly)
CONTENDERS = (
    ONLINE_ONLY,
    *(Contender(f"static cap {most}", partial(StaticCap, most)) for most in (1, 4, 8)),
    Contender("priority only", PriorityOnly),
    Contender("ours", Product, SERVICE, product=True),
)
REAL = ("online only", "static cap 4", "priority only", "ours")

SIZES = {
    "ci": Size(("conv",), (0, 1), 12.0, bucket=0.02),
    "demo": Size(("conv", "code"), (0, 1, 2), 90.0, ("conv",), (0,), 60.0, REAL, 60.0),
    "full": Size(("conv", "code"), (0, 1, 2), 360.0, ("conv",), (0, 1, 2), 360.0, REAL, 240.0),
}
