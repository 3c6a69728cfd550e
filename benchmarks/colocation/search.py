"""The best causal policy that a search finds in the simulator: what is left between ours and the oracle that knows all.

The family spends *credit*. While online sequences decode, they earn batch a share of the time that their own work
takes; batch work is put beside them when there is enough of it, so that delays are few and full rather than many and
small. Gaps without online work are filled up to a step's length. The knobs know the machine's mean costs exactly, and
neither lengths nor arrivals beforehand.

A lattice of candidates is tried, then what is best for each slowdown is varied, on windows that the report does not
use. A slowdown is kept when it is in the mean and for nine requests of ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import msgspec
import numpy as np
from benchmarks.colocation.calibration import Calibration, Table
from benchmarks.colocation.outcome import slowdowns
from benchmarks.colocation.points import SLOWDOWNS, Contender, slowdown_name
from benchmarks.colocation.policies import Policy, chunks, online_only, online_part, placed
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import Scaling, arrivals

from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.engine.scheduling.state import SchedulerState, StepBudget, StepPlan

TRAINING_SEEDS = (3, 4)


@dataclass(frozen=True, slots=True)
class Knobs:
    """One member of the family.

    Attributes:
        share: seconds of batch work earned by a second of online decoding.
        share_waiting: the same while an online prompt is not yet computed.
        most: credit that can be saved up, in seconds.
        fewest: batch sequences that decode beside online work, if any.
        prefill: prompts of batch may be computed beside online decoding.
        gap_tokens: most prompt tokens of batch in a step without online work.
        gap_decodes: most batch sequences that decode in one.
        patience: the slowdown level that says which calls are given up for who arrives; 0 ends every call.
    """

    share: float = 0.1
    share_waiting: float = 0.0
    most: float = 0.05
    fewest: int = 4
    prefill: bool = False
    gap_tokens: int = 32
    gap_decodes: int = 16
    patience: float = 0.1


class _Paced:
    def __init__(self, knobs: Knobs, calibration: Calibration) -> None:
        self._knobs = knobs
        self._decode, self._prefill = Table(calibration.decode), Table(calibration.prefill)
        self._credit = 0.0

    def plan(self, state: SchedulerState, budget: StepBudget) -> StepPlan:
        knobs = self._knobs
        slots = placed(state, state.slots)
        online = online_part(state, budget, slots)
        generating = [sequence for sequence in slots.online if sequence.ticket in online.decode]
        ready = [sequence for sequence in slots.batch if sequence.generating]
        context = sum(sequence.position for sequence in (*generating, *ready)) / max(len(generating) + len(ready), 1)
        added: list[tuple[int, int]] = []
        if slots.online:
            own = self._decodes(len(generating), context) + sum(self._feed(tokens) for _, tokens in online.prefill)
            waiting = any(not sequence.generating for sequence in slots.online)
            self._credit += own * (knobs.share_waiting if waiting else knobs.share)
            self._credit = min(self._credit, knobs.most)
            riding = self._affordable(len(generating), len(ready), context)
            self._credit -= self._decodes(len(generating) + riding, context) - self._decodes(len(generating), context)
            if knobs.prefill and self._credit >= self._feed(state.chunk_tokens):
                added = chunks(slots.batch, state.chunk_tokens, state.chunk_tokens, progress=False)
                self._credit -= sum(self._feed(tokens) for _, tokens in added)
        else:
            added = chunks(slots.batch, knobs.gap_tokens, state.chunk_tokens, progress=True)
            riding = 0 if added else min(len(ready), knobs.gap_decodes)
        return StepPlan(
            swap_out=slots.swap_out,
            admit=slots.admit,
            prefill=(*online.prefill, *added),
            decode=(*online.decode, *(sequence.ticket for sequence in ready[:riding])),
        )

    def _affordable(self, online: int, ready: int, context: float) -> int:
        """Batch sequences that decode beside so many online ones for the credit there is."""
        alone = self._decodes(online, context)
        for count in range(ready, 0, -1):
            if self._decodes(online + count, context) - alone <= self._credit:
                return count if count >= min(self._knobs.fewest, ready) else 0
        return 0

    def _decodes(self, count: int, context: float) -> float:
        return self._decode.seconds(count, context) if count else 0.0

    def _feed(self, tokens: int) -> float:
        return self._prefill.seconds(min(tokens, 32), 0) * math.ceil(tokens / 32) if tokens else 0.0


def paced(knobs: Knobs, calibration: Calibration, name: str = "searched") -> Policy:
    """The policy of these knobs; made anew for each run, since it saves up credit."""
    level = ServiceLevel(slowdown=knobs.patience) if knobs.patience else None
    return Policy(name, _Paced(knobs, calibration).plan, level=level, gives_way=bool(knobs.patience))


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate on the training windows: batch tokens a second, mean and p90 of the paired slowdown minus 1."""

    knobs: Knobs
    rate: float
    mean: float
    p90: float

    def excess(self, slowdown: float) -> float:
        """By how much the mean or the p90, whichever is worse, exceeds a slowdown; negative when it is kept."""
        return max(self.mean, self.p90) - slowdown


def search(
    calibration: Calibration,
    trace: str,
    *,
    candidates: int,
    seconds: float,
    scaling: Scaling | None = None,
    seeds: Sequence[int] = TRAINING_SEEDS,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
) -> dict[float, Tried]:
    """The best candidate for each of the declared slowdowns; calls take their means, so that all meet the same luck.

    A slowdown that no candidate keeps has no entry.
    """
    draw = np.random.default_rng(seed)
    windows = [arrivals(trace, number, seconds, scaling) for number in seeds]
    alone = [simulate(calibration, online_only(), window, seconds, residuals=False) for window in windows]

    def tried(knobs: Knobs) -> Tried:
        runs = [
            simulate(calibration, paced(knobs, calibration), window, seconds, residuals=False) for window in windows
        ]
        slower = np.concatenate([slowdowns(*pair) for pair in zip(alone, runs, strict=True)]) - 1.0
        rate = sum(run.batch_rate for run in runs) / len(runs)
        return Tried(knobs, rate, float(slower.mean()), float(np.percentile(slower, 90, method="inverted_cdf")))

    lattice = [Knobs(share=share, patience=patience) for share in _CHOICES["share"] for patience in (0.05, 0.25)]
    pool = [tried(knobs) for knobs in lattice[:candidates]]
    while len(pool) < candidates:
        slowdown = SLOWDOWNS[len(pool) % len(SLOWDOWNS)]
        # Every fourth is new, the others vary the best so far, or what is nearest to keeping the slowdown.
        nearest = min(pool, key=lambda each: (max(each.excess(slowdown), 0.0), -each.rate))
        pool.append(tried(_drawn(draw) if draw.random() < 0.25 else _varied(nearest.knobs, draw)))
    found = best_of(pool)
    told(f"{trace}: {len(pool)} causal policies tried, {len(found)} slowdowns kept")
    return found


def best_of(pool: Sequence[Tried]) -> dict[float, Tried]:
    """By declared slowdown, the candidate with most batch work that keeps it."""
    best = {}
    for slowdown in SLOWDOWNS:
        keeping = [each for each in pool if each.excess(slowdown) <= 0]
        if keeping:
            best[slowdown] = max(keeping, key=lambda each: each.rate)
    return best


def contenders(calibration: Calibration, found: dict[float, Tried]) -> tuple[Contender, ...]:
    """What was found, as policies to be compared."""

    def contender(slowdown: float, knobs: Knobs) -> Contender:
        name = slowdown_name(slowdown)
        return Contender(lambda: paced(knobs, calibration, f"searched, {name}"), name, slowdown)

    return tuple(contender(slowdown, tried.knobs) for slowdown, tried in found.items())


_CHOICES: dict[str, tuple[float, ...]] = {
    "share": (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
    "share_waiting": (0.0, 0.0, 0.02, 0.05, 0.1, 0.3),
    "most": (0.02, 0.05, 0.1, 0.2, 0.4),
    "fewest": (1, 2, 4, 8, 12),
    "prefill": (0, 0, 1),
    "gap_tokens": (32, 32, 64, 128, 256),
    "gap_decodes": (4, 8, 16, 16),
    "patience": (0.0, 0.05, 0.1, 0.25, 0.5),
}


def _drawn(draw: np.random.Generator) -> Knobs:
    return _with({field.name: _choice(field.name, draw) for field in fields(Knobs)})


def _varied(knobs: Knobs, draw: np.random.Generator) -> Knobs:
    changed = draw.choice([field.name for field in fields(Knobs)], size=2, replace=False)
    return _with(asdict(knobs) | {str(name): _choice(str(name), draw) for name in changed})


def _with(values: dict[str, float]) -> Knobs:
    return msgspec.convert(values, Knobs, strict=False)


def _choice(name: str, draw: np.random.Generator) -> float:
    return _CHOICES[name][int(draw.integers(len(_CHOICES[name])))]
