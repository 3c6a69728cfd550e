"""Rows of the report: runs of one policy over several seeds, held against online-only runs, batch alone and the oracle.

Requests of all seeds are pooled for percentiles; rates are means over seeds. Intervals are 95 % of a bootstrap that
draws seeds and then requests within each, so that they speak of another window as well as of other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from benchmarks.colocation.calibration import Envelope
from benchmarks.colocation.outcome import Outcome, slowdowns
from numpy.typing import NDArray

RESAMPLES = 400
KEPT_BY = (0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What batch could do at most beside the same online work, in tokens a second; means over seeds.

    Attributes:
        alone: the engine with batch work only, X.
        rho: share of time that online work takes by itself.
        oracle: the bound for each level of service that was declared, by name.
        envelope: what calls take at the least.
    """

    alone: float
    rho: float
    oracle: dict[str, float]
    envelope: Envelope | None = None

    @property
    def gaps(self) -> float:
        """X (1 - rho)."""
        return self.alone * (1.0 - self.rho)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one trace. Seconds; intervals are (low, high).

    Attributes:
        within: share of requests inside the absolute service level.
        within_lost: by how much smaller that share is than with online only, by the same requests.
        overhead, wasted: see :class:`~benchmarks.colocation.outcome.Outcome`; means over seeds.
        slowdown: mean, p50, p90, p99 of the paired slowdown; 1 is none.
        kept: share of requests whose slowdown is inside the declared one, for a policy that declares it.
        kept_by: the same for a slowdown of 5, 10, 25 and 50 %, whatever was declared.
        oracle: the bound for the declared service, and for the service that was given.
        pace: what calls took over what they take at the least; unlike from run to run where the machine is.
        beaten: seeds in which the run did more than the bound for the service that it gave: the calibration is void.
    """

    trace: str
    policy: str
    simulated: bool
    seeds: int
    requests: int
    within: float
    within_interval: tuple[float, float]
    within_lost: float
    within_lost_interval: tuple[float, float]
    ttft: tuple[float, float, float]
    ttft_p99_interval: tuple[float, float]
    tpot: tuple[float, float, float]
    slowdown: tuple[float, float, float, float]
    slowdown_interval: tuple[float, float]
    kept: float | None
    kept_by: tuple[float, ...]
    rate: float
    rate_interval: tuple[float, float]
    of_alone: float
    of_gaps: float
    of_oracle: float | None
    of_own_bound: float
    beaten: int
    overhead: float | None
    wasted: float | None
    pace: float | None

    def as_json(self) -> dict[str, Any]:
        """For the JSON line, with four significant digits."""
        return {name: _short(value) for name, value in asdict(self).items()}


def row(
    trace: str,
    policy: str,
    runs: Sequence[Outcome],
    alone: Sequence[Outcome],
    ceilings: Ceilings,
    own_bounds: Sequence[float],
    *,
    declared: str | None = None,
    slowdown: float | None = None,
    seed: int = 0,
) -> Row:
    """Figures of one policy.

    Args:
        runs, alone, own_bounds: by seed; ``own_bounds`` in tokens a second for the service that each run gave.
        declared: which of the ceilings' oracles is meant for this policy.
        slowdown: the declared one, 0.1 for a tenth.
    """
    draw = np.random.default_rng(seed)
    within = [np.array([served.within for served in run.served], dtype=float) for run in runs]
    lost = [
        np.array([before.within for before in reference.served], dtype=float) - own
        for reference, own in zip(alone, within, strict=True)
    ]
    ttft = [np.array([served.ttft for served in run.served]) for run in runs]
    slower = [slowdowns(reference, run) for reference, run in zip(alone, runs, strict=True)]
    rates = np.array([run.batch_rate for run in runs])
    rate = float(rates.mean())
    every = np.concatenate(slower)
    oracle = ceilings.oracle.get(declared) if declared else None
    p50, p90, p99 = (_rank(every, share) for share in (50, 90, 99))
    return Row(
        trace=trace,
        policy=policy,
        simulated=all(run.simulated for run in runs),
        seeds=len(runs),
        requests=len(every),
        within=float(np.concatenate(within).mean()),
        within_interval=interval(within, np.mean, draw),
        within_lost=float(np.concatenate(lost).mean()),
        within_lost_interval=interval(lost, np.mean, draw),
        ttft=pooled(runs, "ttft"),
        ttft_p99_interval=interval(ttft, lambda values: _rank(values, 99), draw),
        tpot=pooled(runs, "tpot"),
        slowdown=(float(every.mean()), p50, p90, p99),
        slowdown_interval=interval(slower, np.mean, draw),
        kept=None if slowdown is None else float((every <= 1.0 + slowdown).mean()),
        kept_by=tuple(float((every <= 1.0 + of).mean()) for of in KEPT_BY),
        rate=rate,
        rate_interval=interval([np.array([value]) for value in rates], np.mean, draw),
        of_alone=rate / ceilings.alone,
        of_gaps=rate / ceilings.gaps,
        of_oracle=None if oracle is None else rate / oracle,
        of_own_bound=rate / float(np.mean(own_bounds)),
        beaten=sum(run.batch_rate > bound for run, bound in zip(runs, own_bounds, strict=True)),
        overhead=_mean([run.overhead for run in runs]),
        wasted=_mean([run.wasted for run in runs]),
        pace=None if ceilings.envelope is None else _mean([paced(run, ceilings.envelope) for run in runs]),
    )


def paced(run: Outcome, envelope: Envelope) -> float | None:
    """How many times the least that its calls take a run's calls took; ``None`` where it is not known."""
    work = run.work
    if work is None or not work.seconds:
        return None
    return work.seconds / envelope.least(work.steps, work.decoded, work.prefilled)


def pooled(runs: Sequence[Outcome], name: str) -> tuple[float, float, float]:
    """p50, p90, p99 over the requests of all runs."""
    whole = Outcome("", 1.0, tuple(served for run in runs for served in run.served), 0, 0.0, 0, True)
    return whole.percentiles(name)


def interval(
    by_seed: Sequence[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], Any],
    draw: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """95 % of a bootstrap over seeds and, within each, over requests."""
    found = []
    for _ in range(resamples):
        chosen = [by_seed[index] for index in draw.integers(len(by_seed), size=len(by_seed))]
        found.append(
            statistic(np.concatenate([values[draw.integers(values.size, size=values.size)] for values in chosen]))
        )
    low, high = np.percentile(np.array(found, dtype=float), [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)


def _rank(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share, method="inverted_cdf"))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _short(value: Any) -> Any:
    if isinstance(value, float):
        # JSON has no infinity: what was never served is told as null.
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return [_short(each) for each in value] if isinstance(value, tuple) else value


HEAD = (
    f"{'policy':<22}{'within':>8}{'lost':>7}{'TTFT p50/p90/p99 ms':>24}{'TPOT p50/p90/p99 ms':>22}"
    f"{'slowdown mean/p50/p90':>24}{'≤ 5/10/25/50 %':>23}"
    f"{'batch tok/s':>13}{'of X':>7}{'X(1-ρ)':>8}{'oracle':>8}{'own':>6}"
)


def line(found: Row) -> str:
    """One line of the table under ``HEAD``."""
    mean, p50, p90, _ = found.slowdown
    slowdown = f"{mean:.2f} / {p50:.2f} / {p90:.2f}"
    kept = " / ".join(f"{share * 100:.0f}" for share in found.kept_by)
    oracle = "–" if found.of_oracle is None else f"{found.of_oracle:.0%}"
    return (
        f"{found.policy:<22}{found.within:>8.1%}{found.within_lost:>7.1%}"
        f"{_milliseconds(found.ttft):>24}{_milliseconds(found.tpot):>22}{slowdown:>24}{kept:>23}"
        f"{found.rate:>13.1f}{found.of_alone:>7.0%}{found.of_gaps:>8.0%}{oracle:>8}{found.of_own_bound:>6.0%}"
        f"{'  BEATS ITS BOUND' if found.beaten else ''}"
    )


def _milliseconds(seconds: Sequence[float]) -> str:
    return " / ".join("never" if not np.isfinite(value) else f"{value * 1e3:.0f}" for value in seconds)
