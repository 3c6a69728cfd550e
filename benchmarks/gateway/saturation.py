"""Requests a second of one gateway process at saturation, in short slices by turns; each round gives one ratio.

The gateway has one core for itself, so that a process is a process: ours has a thread that commits, LiteLLM's has
threads of its own. Processor seconds of the gateway per request stand beside the rates; they depend less on what else
the machine does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.gateway.contenders import Contender
from benchmarks.gateway.figures import cpu_seconds, paired_ratio
from benchmarks.gateway.load import Load, Loader, Target

CONNECTIONS = 32
TOKENS = 16
KINDS = {"whole": False, "streamed": True}


def measure(loader: Loader, gateways: Sequence[Contender], rounds: int, seconds: float) -> dict[str, Any]:
    """By kind of answer and gateway: requests a second and the gateway's milliseconds for each; ratios to the last one.

    Raises:
        RuntimeError: a request was refused.
    """
    found: dict[str, Any] = {}
    for kind, stream in KINDS.items():
        rates: dict[str, list[float]] = {gateway.name: [] for gateway in gateways}
        costs: dict[str, list[float]] = {gateway.name: [] for gateway in gateways}
        for gateway in gateways:
            _slice(loader, gateway.target, stream, min(seconds, 1.5))
        for number in range(rounds):
            for gateway in gateways if number % 2 else reversed(gateways):
                spent = cpu_seconds(gateway.pid)
                answered, rate = _slice(loader, gateway.target, stream, seconds)
                rates[gateway.name].append(rate)
                costs[gateway.name].append((cpu_seconds(gateway.pid) - spent) / max(1, answered))
        found[kind] = {
            gateway.name: {
                "requests_per_second": round(statistics.median(rates[gateway.name]), 1),
                "gateway_cpu_ms": round(1e3 * statistics.median(costs[gateway.name]), 3),
                "times_the_last": paired_ratio(rates[gateway.name], rates[gateways[-1].name]),
                "cpu_times_the_last": paired_ratio(costs[gateways[-1].name], costs[gateway.name]),
            }
            for gateway in gateways
        }
    return found


def ceiling(loader: Loader, upstream: Target, seconds: float) -> dict[str, Any]:
    """What the load generator gets from the bare upstream, and its own share of a core meanwhile."""
    found: dict[str, Any] = {}
    for kind, stream in KINDS.items():
        sent = loader.send(Load((upstream,), CONNECTIONS, seconds, tokens=TOKENS, stream=stream))
        found[kind] = {
            "requests_per_second": round(len(sent.answers[0]) / sent.seconds, 1),
            "generator_core_share": round(sent.cpu_seconds / sent.seconds, 3),
        }
    return found


def _slice(loader: Loader, target: Target, stream: bool, seconds: float) -> tuple[int, float]:
    sent = loader.send(Load((target,), CONNECTIONS, seconds, tokens=TOKENS, stream=stream))
    if sent.refused:
        raise RuntimeError(f"A request was refused: {sent.example}")
    return len(sent.answers[0]), len(sent.answers[0]) / sent.seconds
