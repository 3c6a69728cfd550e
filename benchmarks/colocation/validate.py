"""How far the simulator is from what really ran, on the same windows: figure by figure, as a relative error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.figures import paced, pooled
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.points import CONTENDERS, Contender
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import Request

FIGURES = ("TTFT p50", "TTFT p90", "TTFT p99", "TPOT p50", "TPOT p90", "TPOT p99", "batch tok/s")


def errors(
    calibration: Calibration, windows: Mapping[int, Sequence[Request]], runs: dict[str, list[Outcome]]
) -> dict[str, dict[str, float | None]]:
    """Simulated over real, minus 1, by policy and figure; ``None`` where the real figure is 0 or infinite.

    Twice for each policy: on the machine as it was calibrated, and at the pace that it had in each of the real runs.
    """
    found = {}
    for contender in CONTENDERS:
        real = runs.get(contender.name)
        if real is None:
            continue

        def simulated(number: int, run: Outcome, pace: float, contender: Contender = contender) -> Outcome:
            return simulate(
                calibration, contender.make(), windows[number], run.seconds, seed=number, noise=contender.noise,
                pace=lambda _: pace,
            )  # fmt: skip

        pairs = list(zip(windows, real, strict=True))
        again = [simulated(number, run, 1.0) for number, run in pairs]
        found[contender.name] = _errors(again, real)
        paces = [
            (paced(run, calibration.envelope) or 1.0) / (paced(one, calibration.envelope) or 1.0)
            for run, one in zip(real, again, strict=True)
        ]
        at_pace = [simulated(*pair, pace) for pair, pace in zip(pairs, paces, strict=True)]
        found[f"{contender.name}, at its pace"] = _errors(at_pace, real)
    return found


def _errors(simulated: Sequence[Outcome], real: Sequence[Outcome]) -> dict[str, float | None]:
    sides = [
        (*pooled(side, "ttft"), *pooled(side, "tpot"), sum(run.batch_rate for run in side) / len(side))
        for side in (simulated, real)
    ]
    return {
        figure: round(ours / measured - 1.0, 4) if 0 < measured < float("inf") > ours else None
        for figure, ours, measured in zip(FIGURES, *sides, strict=True)
    }


def table(found: dict[str, dict[str, float | None]]) -> str:
    """The errors as a table."""
    lines = [f"{'simulated / real - 1':<34}" + "".join(f"{figure:>13}" for figure in FIGURES)]
    for policy, by_figure in found.items():
        shown = ("–" if error is None else f"{error:+.1%}" for error in by_figure.values())
        lines.append(f"{policy:<34}" + "".join(f"{text:>13}" for text in shown))
    return "\n".join(lines)
