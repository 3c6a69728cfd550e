"""One comparison: every contender on the same windows, in the simulator or on what really ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from benchmarks.colocation import oracle
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.figures import Ceilings, Row, row
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.points import CONTENDERS, ONLINE_ONLY, SERVICE, SLOWDOWNS, Contender, slowdown_name
from benchmarks.colocation.policies import ours, priority_only
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import Scaling, arrivals

Told = Callable[[str], None]


def simulated(
    calibration: Calibration,
    trace: str,
    seeds: Sequence[int],
    seconds: float,
    *,
    scaling: Scaling | None = None,
    contenders: Sequence[Contender] = CONTENDERS,
    bucket: float = oracle.BUCKET,
    told: Told = lambda _: None,
) -> tuple[Ceilings, list[Row]]:
    """Every contender over every seed in the simulator."""
    windows = {seed: arrivals(trace, seed, seconds, scaling) for seed in seeds}
    runs = {
        contender.name: [
            simulate(calibration, contender.make(), online, seconds, seed=seed, noise=contender.noise)
            for seed, online in windows.items()
        ]
        for contender in contenders
    }
    told(f"{trace}: {len(runs)} policies simulated over {len(seeds)} windows of {seconds:.0f} s")
    alone = [
        max(simulate(calibration, policy(), (), seconds, seed=seed).batch_rate for policy in (ours, priority_only))
        for seed in seeds
    ]
    return compared(calibration, trace, runs, alone, contenders=contenders, bucket=bucket, told=told)


def compared(
    calibration: Calibration,
    trace: str,
    runs: dict[str, list[Outcome]],
    batch_alone: Sequence[float],
    *,
    contenders: Sequence[Contender] = CONTENDERS,
    bucket: float = oracle.BUCKET,
    told: Told = lambda _: None,
) -> tuple[Ceilings, list[Row]]:
    """Rows of runs by contender and seed. Online only must be among them: the others are paired with it.

    Args:
        batch_alone: tokens a second without online work, by seed.
    """
    references = runs[ONLINE_ONLY.name]
    bounds: dict[str, float] = {}
    levels = {SERVICE: oracle.due_by_service} | {
        slowdown_name(slowdown): (lambda run, of=slowdown: oracle.due_by_slowdown(run, of)) for slowdown in SLOWDOWNS
    }
    for name, level in levels.items():
        bounds[name] = float(np.mean([bound(calibration, run, level(run), bucket) for run in references]))
        told(f"{trace}: oracle for {name}")
    ceilings = Ceilings(
        float(np.mean(batch_alone)), float(np.mean([run.busy for run in references])), bounds, calibration.envelope
    )
    rows = []
    for contender in contenders:
        if contender.name not in runs:
            continue
        of = runs[contender.name]
        own = [bound(calibration, run, oracle.due_as_served(run), bucket) for run in of]
        rows.append(
            row(
                trace,
                contender.name,
                of,
                references,
                ceilings,
                own,
                declared=contender.declared,
                slowdown=contender.slowdown,
            )
        )
    return ceilings, rows


LATER = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Where a burst kept the machine full and its calls were quicker than the envelope, the programme cannot follow: what
is due is put off by the smallest of these shares with which it can. The bound is then a little weaker, and valid."""


def bound(calibration: Calibration, run: Outcome, due: Sequence[oracle.Demand], bucket: float) -> float:
    """Batch tokens a second at most beside what a run served, when it is due so."""
    for share in LATER:
        try:
            tokens = oracle.most_batch_tokens(
                calibration.envelope, oracle.later(due, share), run.seconds, slots=calibration.slots, bucket=bucket
            )
        except oracle.Unfit:
            continue
        return tokens / run.seconds
    raise oracle.Unfit("Calls were twice as quick as the calibration says: measure this machine again.")
