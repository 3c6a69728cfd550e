"""How far the simulator is from what really ran, on the same windows: figure by figure, as a relative error."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.figures import pooled
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.points import CONTENDERS
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import Scaling, arrivals

FIGURES = ("TTFT p50", "TTFT p90", "TTFT p99", "TPOT p50", "TPOT p90", "TPOT p99", "batch tok/s")


def errors(
    calibration: Calibration, trace: str, seeds: Sequence[int], runs: dict[str, list[Outcome]], scaling: Scaling
) -> dict[str, dict[str, float | None]]:
    """Simulated over real, minus 1, by policy and figure; ``None`` where the real figure is 0 or infinite."""
    found = {}
    for contender in CONTENDERS:
        real = runs.get(contender.name)
        if real is None:
            continue
        again = [
            simulate(
                calibration,
                contender.make(),
                arrivals(trace, seed, run.seconds, scaling),
                run.seconds,
                seed=seed,
                noise=contender.noise,
            )
            for seed, run in zip(seeds, real, strict=True)
        ]
        sides = [
            (*pooled(side, "ttft"), *pooled(side, "tpot"), sum(run.batch_rate for run in side) / len(side))
            for side in (again, real)
        ]
        found[contender.name] = {
            figure: round(simulated / measured - 1.0, 4) if 0 < measured < float("inf") > simulated else None
            for figure, simulated, measured in zip(FIGURES, *sides, strict=True)
        }
    return found


def table(found: dict[str, dict[str, float | None]]) -> str:
    """The errors as a table."""
    lines = [f"{'simulated / real - 1':<22}" + "".join(f"{figure:>13}" for figure in FIGURES)]
    for policy, by_figure in found.items():
        shown = ("–" if error is None else f"{error:+.1%}" for error in by_figure.values())
        lines.append(f"{policy:<22}" + "".join(f"{text:>13}" for text in shown))
    return "\n".join(lines)
