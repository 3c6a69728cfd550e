"""Percentiles, ratios of pairs with their interval, and what a process has used."""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

RESAMPLES = 2_000
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def rank(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def milliseconds(seconds: Sequence[float]) -> list[float]:
    """p10, p50, p90 and p99."""
    return [round(1e3 * rank(seconds, share), 3) for share in (0.1, 0.5, 0.9, 0.99)]


def paired_ratio(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """The median of the pairs' ratios, and between what it lies in nine of ten resamples of the pairs (Efron, 1979)."""
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    draw = random.Random(0)
    found = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    return [round(value, 4) for value in (statistics.median(ratios), rank(found, 0.05), rank(found, 0.95))]


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process so far, its threads' among them (proc(5), ``stat``)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory of a process (proc(5), ``statm``)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
