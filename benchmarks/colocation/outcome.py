"""What a run gave, real or simulated, and the figures that are read off it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SERVICE_TTFT = 1.0
SERVICE_TPOT = 0.1
"""The absolute service level, in seconds: time to first token, and mean time per token after it."""


@dataclass(slots=True)
class Served:
    """One online request: when it came, what it asked for, and when each of its tokens reached the caller (seconds
    of the run). A request that was refused or dropped has fewer tokens than it asked for and infinite latencies."""

    at: float
    prompt_tokens: int
    output_tokens: int
    tokens: list[float]

    @property
    def complete(self) -> bool:
        return len(self.tokens) >= self.output_tokens

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first token."""
        return self.tokens[0] - self.at if self.complete else math.inf

    @property
    def tpot(self) -> float:
        """Mean seconds per token after the first; 0 for a request of one token."""
        if not self.complete:
            return math.inf
        return (self.tokens[-1] - self.tokens[0]) / max(len(self.tokens) - 1, 1)

    @property
    def latency(self) -> float:
        """Seconds from arrival to the last token."""
        return self.tokens[-1] - self.at if self.complete else math.inf

    @property
    def within(self) -> bool:
        """Inside the absolute service level."""
        return self.ttft <= SERVICE_TTFT and self.tpot <= SERVICE_TPOT


@dataclass(frozen=True, slots=True)
class Work:
    """What a run's calls of the model were: how many steps, tokens decoded and prefilled in them, and their seconds."""

    steps: int
    decoded: int
    prefilled: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. ``batch_tokens``, ``busy_seconds``, ``overhead`` and ``wasted`` are those inside the window.

    Attributes:
        latest_sending: by how many seconds a request was sent later than it was due, at most; it counts as latency.
        work: what its calls were.
        overhead: share of the engine's busy time in which the model did not compute: planning, sampling, telling.
        wasted: share of it in calls that were given up for somebody who arrived.
    """

    policy: str
    seconds: float
    served: tuple[Served, ...]
    batch_tokens: int
    busy_seconds: float
    steps: int
    simulated: bool
    latest_sending: float = 0.0
    overhead: float | None = None
    wasted: float | None = None
    work: Work | None = None

    @property
    def busy(self) -> float:
        """Share of the window in which a step ran; of an online-only run this is rho."""
        return self.busy_seconds / self.seconds

    @property
    def batch_rate(self) -> float:
        """Batch tokens per second of the window."""
        return self.batch_tokens / self.seconds

    def percentiles(self, name: str) -> tuple[float, float, float]:
        """p50, p90 and p99 of ``ttft``, ``tpot`` or ``latency``, in seconds; nearest rank, so infinity stays itself."""
        of = [served for served in self.served if name != "tpot" or served.output_tokens > 1]
        if not of:
            return (0.0, 0.0, 0.0)
        values = np.array([getattr(served, name) for served in of])
        p50, p90, p99 = np.percentile(values, [50, 90, 99], method="inverted_cdf")
        return (float(p50), float(p90), float(p99))


def slowdowns(alone: Outcome, beside: Outcome) -> np.ndarray:
    """Latency of each request beside batch work over that of the same request with online work only.

    Raises:
        ValueError: the runs are not of the same arrivals.
    """
    left = [(served.at, served.prompt_tokens, served.output_tokens) for served in alone.served]
    right = [(served.at, served.prompt_tokens, served.output_tokens) for served in beside.served]
    if left != right:
        raise ValueError("The two runs do not serve the same requests.")
    return np.array([b.latency / a.latency for a, b in zip(alone.served, beside.served, strict=True)])
